//! The rate of a download, over the last few seconds.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time over which the rate is averaged.
const SPAN: Duration = Duration::from_secs(5);

/// The shortest time that yields a rate.
const SPAN_MIN: Duration = Duration::from_millis(200);

/// The interval between samples, which bounds their number.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Rate {
    samples: VecDeque<(Instant, u64)>,
    last: Option<u64>,
    moved_at: Instant,
}

impl Rate {
    pub(super) const fn new(now: Instant) -> Self {
        Self { samples: VecDeque::new(), last: None, moved_at: now }
    }

    /// Records the number of bytes so far. A change of `marker` counts as progress.
    pub(super) fn add(&mut self, marker: u64, bytes: u64, now: Instant) {
        if self.last.is_none_or(|last| last != marker) {
            // The bytes of an earlier download appear at once, and are not part of the rate.
            if self.last.is_none() || self.last == Some(0) {
                self.samples.clear();
            }
            self.last = Some(marker);
            self.moved_at = now;
        }

        let is_due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_INTERVAL);
        if is_due {
            self.samples.push_back((now, bytes));
        }
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN) {
            self.samples.pop_front();
        }
    }

    /// Returns how long there has been no progress.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        now.duration_since(self.moved_at)
    }

    pub(super) fn bytes_per_s(&self) -> Option<u64> {
        let ((from, before), (to, after)) = (self.samples.front()?, self.samples.back()?);
        let span = to.duration_since(*from);
        if span < SPAN_MIN {
            return None;
        }
        let millis = u64::try_from(span.as_millis()).ok()?;
        after.saturating_sub(*before).saturating_mul(1000).checked_div(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_covers_the_last_seconds_only() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for second in 0..20 {
            let bytes = if second < 10 { second * 100 } else { 1000 + (second - 10) * 10 };
            rate.add(bytes, bytes, start + Duration::from_secs(second));
        }
        assert_eq!(rate.bytes_per_s(), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_an_earlier_download_are_not_part_of_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        rate.add(0, 0, start);
        rate.add(1_000_000, 1_000_000, start + Duration::from_secs(1));
        rate.add(1_000_010, 1_000_010, start + Duration::from_secs(2));
        assert_eq!(rate.bytes_per_s(), Some(10));
    }
}
