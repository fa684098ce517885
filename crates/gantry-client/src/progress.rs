//! The progress of a download.

use std::sync::Arc;

use serde::Serialize;

use gantry_proto::{Accepted, TransferId};

/// The longest name of a relay or a host that is reported, in bytes.
const NAME_MAX_BYTES: usize = 255;

/// A relay, as its log and its metadata name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServedBy {
    /// The relay's service id.
    pub id: String,
    /// The name of its host, if it states one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl ServedBy {
    pub(crate) fn of(accepted: &Accepted) -> Self {
        let host = accepted.host.clone().filter(|host| host.len() <= NAME_MAX_BYTES);
        Self { id: accepted.instance.clone(), host }
    }
}

/// The progress of a download. All offsets are absolute, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The start of the range.
    pub start: u64,
    /// The offset up to which bytes are written; with several streams, the start plus the number of bytes written. The
    /// latest writes may be missing until the next update.
    pub written: u64,
    /// The exclusive end of the range. 0 before the first transfer is accepted.
    pub end: u64,
    /// The number of transfers that were abandoned and replaced by another request.
    pub recoveries: u64,
    /// The latest transfer, as in the relay's log. `None` before the first transfer is accepted.
    pub transfer: Option<TransferId>,
    /// The relay of the latest transfer. `None` before the first transfer is accepted.
    pub relay: Option<Arc<ServedBy>>,
}
