//! How far a download has come.

use gantry_proto::TransferId;

/// How far a download has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The absolute offset at which the range starts.
    pub start: u64,
    /// The absolute offset up to which bytes are written; those of the last moments may be missing until more are.
    pub written: u64,
    /// The absolute exclusive end of the range.
    pub end: u64,
    /// How often a transfer was given up and begun anew.
    pub recoveries: u64,
    /// The newest transfer, as the relay's log names it; `None` before one was accepted.
    pub transfer: Option<TransferId>,
}
