//! Limits how often a peer can trigger an action.

use std::time::Duration;

/// A rate limit with bursts: the generic cell rate algorithm. The caller passes the time. Source: ITU-T I.371, annex A.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    every: Duration,
    /// How far the schedule may run ahead of the current time.
    tolerance: Duration,
    /// The theoretical arrival time: when the next action would be due if all kept to the interval.
    due: Duration,
}

impl Quota {
    /// Allows `burst` actions at once, and then one per interval.
    pub(super) const fn new(burst: u32, every: Duration) -> Self {
        Self { every, tolerance: every.saturating_mul(burst.saturating_sub(1)), due: Duration::ZERO }
    }

    /// Returns when the next action is allowed, which may be in the past.
    pub(super) const fn allowed_at(&self) -> Duration {
        self.due.saturating_sub(self.tolerance)
    }

    /// Records an action at `now`.
    pub(super) fn take(&mut self, now: Duration) {
        self.due = self.due.max(now).saturating_add(self.every);
    }

    /// Records an action if it is allowed, and returns whether it is.
    pub(super) fn try_take(&mut self, now: Duration) -> bool {
        let is_allowed = now >= self.allowed_at();
        if is_allowed {
            self.take(now);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let mut quota = Quota::new(3, 10 * MS);
        let allowed = |quota: &mut Quota, now| (0..100).filter(|_| quota.try_take(now)).count();

        assert_eq!(allowed(&mut quota, MS), 3);
        assert_eq!(quota.allowed_at(), 11 * MS);
        assert_eq!(allowed(&mut quota, 11 * MS), 1);
        assert_eq!(allowed(&mut quota, 20 * MS), 0);
        assert_eq!(allowed(&mut quota, 1000 * MS), 3);
    }
}
