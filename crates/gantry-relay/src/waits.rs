//! What a transfer waits for, and for how long. Shows why a transfer is slow.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

/// A counter of seconds.
pub(crate) type Seconds = Counter<f64, AtomicU64>;

/// What a transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For the store to open the object, or to deliver its bytes.
    Store,
    /// For its turn behind other transfers, or for the connection to NATS to take a message.
    Bus,
    /// For credit: for the consumer, or for the link to it.
    Credit,
    /// For the relay's own rate limits.
    Limits,
}

impl Wait {
    pub(crate) const ALL: [Self; 4] = [Self::Store, Self::Bus, Self::Credit, Self::Limits];

    /// Returns the name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Bus => "bus",
            Self::Credit => "credit",
            Self::Limits => "limits",
        }
    }
}

/// The time that one transfer has waited.
#[derive(Debug)]
pub(crate) struct Waits {
    totals: [Duration; Wait::ALL.len()],
    /// The counters of the transfer's store, in the order of [`Wait::ALL`].
    counters: [Seconds; Wait::ALL.len()],
    current: Option<(Wait, Instant)>,
}

impl Waits {
    pub(crate) fn new(counters: [Seconds; Wait::ALL.len()]) -> Self {
        Self { totals: Default::default(), counters, current: None }
    }

    /// Records what the transfer waits for from now on.
    pub(crate) fn note(&mut self, wait: Option<Wait>) {
        let now = Instant::now();
        if let Some((wait, since)) = self.current {
            let waited = now - since;
            self.totals[wait as usize] += waited;
            self.counters[wait as usize].inc_by(waited.as_secs_f64());
        }
        self.current = wait.map(|wait| (wait, now));
    }

    /// Returns how long the transfer has waited until the last note, in milliseconds.
    pub(crate) fn total_ms(&self, wait: Wait) -> u64 {
        u64::try_from(self.totals[wait as usize].as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_is_counted_separately() {
        let counters = [(); 4].map(|()| Seconds::default());
        let mut waits = Waits::new(counters.clone());

        for (wait, ms) in [(Some(Wait::Store), 5), (None, 100), (Some(Wait::Credit), 20), (Some(Wait::Credit), 30)] {
            waits.note(wait);
            sleep(Duration::from_millis(ms)).await;
        }
        waits.note(None);

        assert_eq!(Wait::ALL.map(|wait| waits.total_ms(wait)), [5, 0, 50, 0]);
        assert_eq!(counters.map(|counter| (counter.get() * 1000.0).round()), [5.0, 0.0, 50.0, 0.0]);
    }
}
