//! How many ranges to fetch ahead: as many as it takes for the consumer not to wait.

use std::time::Duration;

use tokio::time::Instant;

use super::Limits;

/// How much is handed out before the first look: enough to tell a fast consumer from one that wants little.
const FIRST_LOOK_BYTES: u64 = 1024 * 1024;

/// Measures which share of its time a consumer waits for the store, and sets how far to read ahead by it.
#[derive(Debug)]
pub(super) struct Pace {
    ahead: usize,
    ahead_max: usize,
    /// How much is handed out between two looks.
    range_bytes: u64,
    left_bytes: u64,
    since: Option<Instant>,
    asked: Option<Instant>,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            ahead: 0,
            ahead_max: limits.concurrency_max.saturating_sub(1),
            range_bytes: limits.range_bytes,
            left_bytes: limits.range_bytes.min(FIRST_LOOK_BYTES),
            since: None,
            asked: None,
            waited: Duration::ZERO,
        }
    }

    /// Returns how many ranges should be fetched beside the current one.
    pub(super) const fn ahead(&self) -> usize {
        self.ahead
    }

    /// Notes that the consumer asks for bytes.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
        self.since.get_or_insert(now);
    }

    /// Notes that the consumer got what it asked for.
    pub(super) fn given(&mut self, now: Instant, len: u64) {
        self.waited += self.asked.take().map_or(Duration::ZERO, |asked| now - asked);
        self.left_bytes = self.left_bytes.saturating_sub(len);
        if self.left_bytes > 0 {
            return;
        }
        let total = self.since.map_or(Duration::ZERO, |since| now - since);
        // Twice as many in flight while the store is what the consumer waits for; one less when it hardly waits. The
        // gap between the two keeps the number from swinging.
        if self.waited > total / 4 {
            self.ahead = self.ahead_max.min(2 * self.ahead + 1);
        } else if self.waited < total / 20 {
            self.ahead = self.ahead.saturating_sub(1);
        }
        self.left_bytes = self.range_bytes;
        self.since = Some(now);
        self.waited = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `looks` times between two looks, with the store and the consumer taking so many milliseconds each.
    fn run(pace: &mut Pace, now: &mut Instant, looks: usize, store_ms: u64, consumer_ms: u64) -> Vec<usize> {
        (0..looks)
            .map(|_| {
                pace.asked(*now);
                *now += Duration::from_millis(store_ms);
                pace.given(*now, 8 << 20);
                *now += Duration::from_millis(consumer_ms);
                pace.ahead()
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn reads_ahead_while_the_store_is_waited_for() {
        let mut now = Instant::now();
        let mut pace = Pace::new(&Limits { concurrency_max: 4, range_bytes: 8 << 20, ..Limits::default() });
        assert_eq!(pace.ahead(), 0);
        assert_eq!(run(&mut pace, &mut now, 3, 10, 10), [1, 3, 3]);
        assert_eq!(run(&mut pace, &mut now, 3, 10, 90), [3, 3, 3]);
        assert_eq!(run(&mut pace, &mut now, 4, 0, 100), [2, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_stays_one() {
        let mut now = Instant::now();
        let mut pace = Pace::new(&Limits { concurrency_max: 1, ..Limits::default() });
        assert_eq!(run(&mut pace, &mut now, 2, 10, 0), [0, 0]);
    }
}
