//! The largest message that nats-server accepts on a connection.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The smallest limit that is assumed, in bytes. It leaves room for a chunk of 4 KiB and its headers.
const LIMIT_MIN: usize = 8 * 1024;

/// A message limit below the one that the server announces. An account may have such a limit.
///
/// nats-server reports an account's limit to the client in a later message, which async-nats ignores. It closes the
/// connection at the first message that is larger. Afterwards, the limit is assumed to be at most the next smaller
/// power of two.
#[derive(Debug)]
pub(super) struct PayloadLimit {
    /// The largest message that may be accepted, in bytes.
    limit: AtomicUsize,
    /// The largest message of the current connection, in bytes.
    largest: AtomicUsize,
}

impl PayloadLimit {
    pub(super) const fn new() -> Self {
        Self { limit: AtomicUsize::new(usize::MAX), largest: AtomicUsize::new(0) }
    }

    /// Returns the limit, in bytes. `announced` is the server's announced limit.
    pub(super) fn of(&self, announced: usize) -> usize {
        announced.min(self.limit.load(Ordering::Relaxed))
    }

    /// Records that a message of `len` bytes is sent.
    pub(super) fn note_sent(&self, len: usize) {
        self.largest.fetch_max(len, Ordering::Relaxed);
    }

    /// Records a new connection.
    pub(super) fn note_connected(&self) {
        self.largest.store(0, Ordering::Relaxed);
    }

    /// Records that the server closes the connection because a message was too large.
    pub(super) fn note_exceeded(&self) {
        self.note_refused(self.largest.load(Ordering::Relaxed));
    }

    /// Records that the server closes the connection at messages of `len` bytes.
    pub(super) fn note_refused(&self, len: usize) {
        let smaller = len.saturating_sub(1).checked_ilog2().map_or(0, |exponent| 1 << exponent);
        let limit = smaller.max(LIMIT_MIN);
        if limit < self.limit.fetch_min(limit, Ordering::Relaxed) {
            tracing::warn!(limit, "nats-server accepts no messages as large as it announced: using smaller ones");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_violation_lowers_the_limit_to_the_next_power_of_two() {
        let payload = PayloadLimit::new();
        payload.note_sent(100);
        payload.note_sent(520_192);

        payload.note_exceeded();
        assert_eq!(payload.of(1 << 20), 262_144);
        // Another report of the same connection's end.
        payload.note_exceeded();
        assert_eq!(payload.of(1 << 20), 262_144);
        payload.note_connected();
        payload.note_sent(262_144);
        payload.note_exceeded();

        assert_eq!(payload.of(1 << 20), 131_072);
        assert_eq!(payload.of(65_536), 65_536);
        payload.note_connected();
        payload.note_sent(10);
        payload.note_exceeded();
        assert_eq!(payload.of(1 << 20), LIMIT_MIN);
    }
}
