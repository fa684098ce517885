//! The progress of a download.

use gantry_proto::TransferId;

/// The progress of a download. All offsets are absolute, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The start of the range.
    pub start: u64,
    /// The offset up to which bytes are written. The latest writes may be missing until the next update.
    pub written: u64,
    /// The exclusive end of the range. 0 before the first transfer is accepted.
    pub end: u64,
    /// The number of transfers that were abandoned and replaced by another request.
    pub recoveries: u64,
    /// The latest transfer, as in the relay's log. `None` before the first transfer is accepted.
    pub transfer: Option<TransferId>,
}
