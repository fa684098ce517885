//! What a relay at the hub keeps of the object, and what it reads from the store.

use std::time::Duration;

use super::questions::Questions;

/// How long bytes are kept after their last use.
const LINGER: Duration = Duration::from_secs(10);

/// The unit in which kept bytes are counted.
const PAGE_BYTES: u64 = 4096;

/// A relay at the hub.
#[derive(Default)]
pub(super) struct Relay {
    pub(super) questions: Questions,
    /// The pages that are kept, if reads are shared.
    kept: Vec<bool>,
    /// The number of transfers, and when the last one ended.
    transfers: usize,
    used_at: Duration,
    /// What was read from the store.
    pub(super) read_bytes: u64,
    pub(super) opened: u64,
}

impl Relay {
    /// Returns whether a transfer can use what others read.
    pub(super) fn has_something(&self, now: Duration) -> bool {
        self.transfers > 0 || (!self.kept.is_empty() && now <= self.used_at + LINGER)
    }

    pub(super) const fn handle_transfer(&mut self) {
        self.transfers += 1;
    }

    pub(super) const fn handle_transfer_end(&mut self, now: Duration) {
        self.transfers -= 1;
        self.used_at = now;
    }

    /// Records that the store is asked for the object's bytes.
    pub(super) fn handle_open(&mut self) {
        self.opened += 1;
        if self.transfers == 0 {
            self.kept.clear();
        }
    }

    /// Records that a transfer takes the bytes from `start` to `end`, exclusive, which are read unless they are kept.
    pub(super) fn take(&mut self, start: u64, end: u64, is_shared: bool) {
        if !is_shared {
            self.read_bytes += end - start;
            return;
        }

        let page = |offset: u64| usize::try_from(offset / PAGE_BYTES).expect("few pages");
        if self.kept.len() < page(end) + 1 {
            self.kept.resize(page(end) + 1, false);
        }

        let mut from = start;
        while from < end {
            let limit = ((from / PAGE_BYTES + 1) * PAGE_BYTES).min(end);
            let is_kept = &mut self.kept[page(from)];
            // A transfer that starts within a page takes the rest of it.
            if !std::mem::replace(is_kept, true) {
                self.read_bytes += limit - from;
            }
            from = limit;
        }
    }
}
