//! The JSON bodies that a relay sends: acceptance and end of a transfer, and pages of listings.

use serde::{Deserialize, Serialize};

use super::names::TransferId;
use super::object::ObjectInfo;

/// The relay's answer to a `get` that it accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The transfer's id.
    pub transfer: TransferId,
    /// The relay's service id.
    pub instance: String,
    /// The subject for credit and cancel messages.
    pub control: String,
    /// The name of the relay's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The object, in the version that every byte of the transfer comes from.
    #[serde(flatten)]
    pub object: ObjectInfo,
    /// The first byte that will be sent.
    pub start: u64,
    /// The exclusive end of the range that will be sent.
    pub end: u64,
    /// The initial credit: the request's `credit`, clamped. An absolute offset.
    pub credit: u64,
    /// How far credit may exceed what the relay has sent, in bytes.
    pub window_max: u64,
    /// The largest chunk payload, in bytes.
    pub chunk_max: u64,
    /// The longest silence of a live relay, in milliseconds.
    pub beat_ms: u64,
    /// How long the relay waits for a control message, in milliseconds: while it is blocked on credit, or at all times
    /// if the request has `keeps_alive`.
    pub idle_ms: u64,
}

/// The end of a transfer: every chunk has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The number of chunks in the transfer.
    pub chunks: u64,
    /// The number of bytes in the chunks.
    pub bytes: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListPage {
    /// The objects, in ascending order of their keys' UTF-8 bytes.
    #[serde(deserialize_with = "super::json::array")]
    pub entries: Vec<ListEntry>,
    /// The folded prefixes, each ending in `/`, in ascending order.
    pub prefixes: Vec<String>,
    /// The `token` of the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The number of keys and folded prefixes omitted from this page because JSON or a request can't represent them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListEntry {
    /// The object's key within the store.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its `ETag`, if the listing contains one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was last modified, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

impl ListEntry {
    /// Describes an object by its key and its `size` in bytes. The rest is unset.
    #[must_use]
    pub const fn new(key: String, size: u64) -> Self {
        Self { key, size, etag: None, last_modified: None }
    }
}
