//! Chunks that credit cuts short: how long they wait, and how many are sent.

use std::time::Duration;

use super::super::limits::{FRAGMENT_MAX_BYTES, FRAGMENTS_BURST, FRAGMENTS_EVERY, MORE_CREDIT_WITHIN};
use super::super::quota::Quota;

/// The number of chunks at the start of a transfer that are not held back for more credit, unless they are fragments. A
/// consumer's window starts small, and grows with each of them.
const PROMPT_CHUNKS: u64 = 4;

/// Decides when a chunk that credit cuts short may be sent.
#[derive(Debug)]
pub(super) struct ShortChunks {
    /// Below this, in bytes, a chunk is a fragment, and the number of fragments is limited.
    fragment_max: u64,
    fragments: Quota,
    /// Until when the current chunk waits for more credit.
    until: Option<Duration>,
}

impl ShortChunks {
    /// `chunk_max` is the largest chunk payload, in bytes.
    pub(super) fn new(chunk_max: u64) -> Self {
        let fragment_max = (chunk_max / 8).min(FRAGMENT_MAX_BYTES);
        Self { fragment_max, fragments: Quota::new(FRAGMENTS_BURST, FRAGMENTS_EVERY), until: None }
    }

    /// Returns whether a chunk of `len` bytes is one of those whose number is limited.
    pub(super) const fn is_fragment(&self, len: u64) -> bool {
        len < self.fragment_max
    }

    /// Returns whether chunk `seq`, of `len` bytes, is sent at once, because it is one of the first.
    pub(super) const fn is_prompt(&self, seq: u64, len: u64) -> bool {
        seq == 0 || (seq < PROMPT_CHUNKS && !self.is_fragment(len))
    }

    /// Decides whether a chunk that credit cuts to `len` bytes may be sent now.
    pub(super) fn may_send(&mut self, len: u64, now: Duration) -> bool {
        let until = *self.until.get_or_insert_with(|| now.saturating_add(MORE_CREDIT_WITHIN));
        now >= until && (!self.is_fragment(len) || self.fragments.try_take(now))
    }

    /// Returns when [`Self::may_send`] will return `true`; `None` if it was not called yet.
    pub(super) fn due_at(&self, len: u64) -> Option<Duration> {
        let until = self.until?;
        Some(if self.is_fragment(len) { until.max(self.fragments.allowed_at()) } else { until })
    }

    /// Records that a chunk was sent. The wait for the next one starts again.
    pub(super) const fn handle_sent(&mut self) {
        self.until = None;
    }
}
