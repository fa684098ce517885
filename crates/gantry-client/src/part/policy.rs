//! How often a part file's bytes are recorded.

use std::time::Duration;

use super::sidecar;

/// How often the bytes are recorded, and in which run of the kernel.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub boot: Option<String>,
    /// How close the marks of the trail may be.
    pub trail_bytes: u64,
    pub note_bytes: u64,
    pub note_interval: Duration,
    pub checkpoint_bytes: u64,
    pub checkpoint_interval: Duration,
}

impl Policy {
    /// A mark of the trail is due after each chunk of a small object, as chunks have up to 508 KiB.
    ///
    /// 128 MiB are a second or two of a fast disk's time, 10 s of waiting are little to lose on a slow link; both
    /// keep the cost of a checkpoint (one more flush) out of sight. A note is a write of 128 bytes to the page cache.
    pub(super) fn of_this_machine() -> Self {
        Self {
            boot: sidecar::boot_id(),
            trail_bytes: 256 * 1024,
            note_bytes: 1024 * 1024,
            note_interval: Duration::from_millis(250),
            checkpoint_bytes: 128 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}
