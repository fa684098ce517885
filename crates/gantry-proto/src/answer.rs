//! The JSON bodies that a relay sends: the acceptance and the end of a transfer, and pages of listings.

use serde::{Deserialize, Serialize};

use super::names::TransferId;
use super::object::ObjectInfo;

/// The relay's answer to a `get` that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The transfer's identity.
    pub transfer: TransferId,
    /// The relay's service id.
    pub instance: String,
    /// Where credit and cancel go.
    pub control: String,
    /// The object, and the version that every byte of the transfer comes from.
    #[serde(flatten)]
    pub object: ObjectInfo,
    /// The first byte that will be sent.
    pub start: u64,
    /// The exclusive end of what will be sent.
    pub end: u64,
    /// The absolute offset up to which the relay sends at once: the request's `credit`, clamped.
    pub credit: u64,
    /// How far past what it has sent the relay lets credit reach, in bytes.
    pub window_max: u64,
    /// The largest chunk payload, in bytes.
    pub chunk_max: u64,
    /// The longest silence of a living relay, in milliseconds.
    pub beat_ms: u64,
    /// How long the relay waits for any control message: always when the request has `keeps_alive`, else while it may
    /// not send. In milliseconds.
    pub idle_ms: u64,
}

/// Says that every chunk has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How many chunks the transfer had.
    pub chunks: u64,
    /// How many bytes they held.
    pub bytes: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// Objects, ascending by the key's UTF-8 bytes.
    pub entries: Vec<ListEntry>,
    /// Folded prefixes, each ending in `/`, ascending.
    pub prefixes: Vec<String>,
    /// What to send as `token` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many keys and folded prefixes of this page are left out, since no JSON text or no request can name them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// The object's key within the store.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its `ETag`, where the listing gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was written, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}
