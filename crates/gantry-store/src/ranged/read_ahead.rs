//! Decides how many ranges to read ahead: as many as keep the consumer from waiting.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// Number of bytes before the first decision. A consumer's first window, usually 2 MiB, says nothing about its speed: the
/// relay takes that much at once. A range that is read ahead for a slow consumer costs the megabytes of the abandoned
/// response that S3 has already sent.
const FIRST_LOOK_BYTES: u64 = 4 * 1024 * 1024;

/// Measures the share of time during which a consumer waits for the store, and adjusts the read-ahead to it.
#[derive(Debug)]
pub(super) struct ReadAhead {
    ranges: usize,
    ranges_max: usize,
    /// The number of bytes between two decisions.
    range_bytes: u64,
    /// The number of bytes until the next decision.
    left_bytes: u64,
    /// When the measurement began.
    since: Option<Instant>,
    /// When the consumer began to wait.
    waits_since: Option<Instant>,
    /// How long the consumer has waited in this measurement.
    waited: Duration,
}

impl ReadAhead {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            ranges: 0,
            ranges_max: limits.concurrency_max.saturating_sub(1),
            range_bytes: limits.range_bytes,
            left_bytes: limits.range_bytes.min(FIRST_LOOK_BYTES),
            since: None,
            waits_since: None,
            waited: Duration::ZERO,
        }
    }

    /// Returns how many ranges should be fetched in addition to the current one.
    pub(super) const fn ranges(&self) -> usize {
        self.ranges
    }

    /// Records that the consumer requests bytes.
    pub(super) fn note_request(&mut self, now: Instant) {
        self.waits_since.get_or_insert(now);
        self.since.get_or_insert(now);
    }

    /// Records that the consumer received `len` bytes.
    pub(super) fn note_piece(&mut self, now: Instant, len: u64) {
        self.waited += self.waits_since.take().map_or(Duration::ZERO, |since| now - since);
        self.left_bytes = self.left_bytes.saturating_sub(len);
        if self.left_bytes > 0 {
            return;
        }

        let total = self.since.map_or(Duration::ZERO, |since| now - since);
        // Double the number of requests in flight if the consumer waits for the store, and drop one if it hardly waits.
        // The gap between the two conditions prevents oscillation.
        if self.waited > total / 4 {
            self.ranges = self.ranges_max.min(2 * self.ranges + 1);
        } else if self.waited < total / 20 {
            self.ranges = self.ranges.saturating_sub(1);
        }

        self.left_bytes = self.range_bytes;
        self.since = Some(now);
        self.waited = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates `decisions` decisions. The store and the consumer take these times in between.
    fn run(
        read_ahead: &mut ReadAhead,
        now: &mut Instant,
        decisions: usize,
        store_ms: u64,
        consumer_ms: u64,
    ) -> Vec<usize> {
        (0..decisions)
            .map(|_| {
                read_ahead.note_request(*now);
                *now += Duration::from_millis(store_ms);
                read_ahead.note_piece(*now, 8 << 20);
                *now += Duration::from_millis(consumer_ms);
                read_ahead.ranges()
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn reads_ahead_while_the_consumer_waits_for_the_store() {
        let mut now = Instant::now();
        let mut read_ahead = ReadAhead::new(&Limits { concurrency_max: 4, range_bytes: 8 << 20, ..Limits::default() });
        assert_eq!(read_ahead.ranges(), 0);
        assert_eq!(run(&mut read_ahead, &mut now, 3, 10, 10), [1, 3, 3]);
        assert_eq!(run(&mut read_ahead, &mut now, 3, 10, 90), [3, 3, 3]);
        assert_eq!(run(&mut read_ahead, &mut now, 4, 0, 100), [2, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_concurrency_of_one_allows_no_read_ahead() {
        let mut now = Instant::now();
        let mut read_ahead = ReadAhead::new(&Limits { concurrency_max: 1, ..Limits::default() });
        assert_eq!(run(&mut read_ahead, &mut now, 2, 10, 0), [0, 0]);
    }
}
