//! Limits how many lines of one kind are logged. Requests make the relay log, and a client that may send requests must not
//! be able to fill a disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::lifetime::Lifetime;

/// The interval that each limit applies to.
const INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of logged refusals of one kind within [`INTERVAL`]: enough to find the cause.
pub(crate) const REFUSALS: u64 = 10;

/// Maximum number of logged transfers of one outcome within [`INTERVAL`]. This is 200 per second, which is more than in
/// any known use, and amounts to 4 GB a day.
pub(crate) const TRANSFERS: u64 = 2000;

/// Counts lines by kind, which is a constant of this program.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<HashMap<&'static str, Count>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    logged: u64,
    left_out: u64,
}

impl Throttle {
    /// Counts one more line of its kind, and returns whether to log it.
    pub(crate) fn admits(&self, kind: &'static str, max: u64) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(kind).or_default();
        let is_admitted = count.logged < max;
        if is_admitted {
            count.logged += 1;
        } else {
            count.left_out = count.left_out.saturating_add(1);
        }
        is_admitted
    }

    /// Starts a new interval, and returns the counts of the last one.
    fn begin(&self) -> HashMap<&'static str, Count> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reports at the end of each interval how many lines were left out, until a shutdown.
pub(crate) async fn report(throttle: Arc<Throttle>, lifetime: Arc<Lifetime>) {
    let mut ends = interval(INTERVAL);
    ends.set_missed_tick_behavior(MissedTickBehavior::Delay);

    loop {
        tokio::select! {
            _ = ends.tick() => {}
            () = lifetime.shutdown.force.cancelled() => return,
            () = lifetime.goaway.cancelled() => return,
        }

        for (kind, Count { left_out, .. }) in throttle.begin() {
            if left_out > 0 {
                warn!(kind, lines = left_out, seconds = INTERVAL.as_secs(), "more lines of this kind were left out");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_does_not_suppress_other_lines() {
        let throttle = Throttle::default();
        let admitted = (0..1000).filter(|_| throttle.admits("denied", REFUSALS)).count();
        assert_eq!(admitted as u64, REFUSALS);
        assert!(throttle.admits("busy", REFUSALS));
        let counts = throttle.begin();
        assert_eq!(counts["denied"], Count { logged: REFUSALS, left_out: 1000 - REFUSALS });
        assert_eq!(counts["busy"], Count { logged: 1, left_out: 0 });
        assert!(throttle.admits("denied", REFUSALS), "the next interval has lines of its own");
    }
}
