//! Limits how much of an object is read before the relay can know whether anyone receives it.
//!
//! A request may come from a consumer that has left, or have a reply subject without a listener. The relay learns this
//! from its first messages, after a round trip to nats-server. A nearby store can send megabytes in this time.

use std::time::Duration;

use tokio::time::Instant;

/// Number of bytes that are returned without a wait. Smaller objects are not delayed.
const START_BYTES: u64 = 512 * 1024;

/// The minimum time between the first piece and further bytes. Several round trips to a nats-server in the same network
/// take less, and a download that lasts a second becomes 0.2 % slower.
const START_TIME: Duration = Duration::from_millis(2);

/// Counts the first bytes of a read.
#[derive(Debug, Default)]
pub(super) struct SlowStart {
    first_at: Option<Instant>,
    bytes: u64,
}

impl SlowStart {
    /// Records that `len` bytes are returned.
    pub(super) fn note_piece(&mut self, now: Instant, len: u64) {
        self.first_at.get_or_insert(now);
        self.bytes = self.bytes.saturating_add(len);
    }

    /// Returns when the next bytes may be returned, or `None` if that is now.
    pub(super) fn wait_until(&self, now: Instant) -> Option<Instant> {
        if self.bytes < START_BYTES {
            return None;
        }
        self.first_at.map(|first_at| first_at + START_TIME).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_first_bytes_of_a_read_wait() {
        let begun = Instant::now();
        let mut start = SlowStart::default();
        assert_eq!(start.wait_until(begun), None);

        start.note_piece(begun, START_BYTES - 1);
        assert_eq!(start.wait_until(begun), None);
        start.note_piece(begun, 1);
        assert_eq!(start.wait_until(begun), Some(begun + START_TIME));

        assert_eq!(start.wait_until(begun + START_TIME), None);
    }
}
