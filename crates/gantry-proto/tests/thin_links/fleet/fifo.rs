//! Links without events of their own: when a message has been carried is known once it is queued.

use std::time::Duration;

/// A queue of messages, first in, first out, that carries them at a rate.
pub(super) struct Fifo {
    /// In bytes per second.
    rate: u64,
    /// When it has carried everything that is queued.
    free_at: Duration,
    pub(super) carried_bytes: u64,
}

impl Fifo {
    pub(super) const fn new(rate: u64) -> Self {
        Self { rate, free_at: Duration::ZERO, carried_bytes: 0 }
    }

    /// Queues a message of `bytes` at the time `at`. Returns when all of it has been carried. Messages must be queued in
    /// the order of their times.
    pub(super) fn carry(&mut self, at: Duration, bytes: u64) -> Duration {
        self.carried_bytes += bytes;
        self.free_at = self.free_at.max(at) + Duration::from_nanos(bytes * 1_000_000_000 / self.rate);
        self.free_at
    }
}
