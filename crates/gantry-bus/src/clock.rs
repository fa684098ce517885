//! A clock for timeouts that excludes the time during which the process did not run.
//!
//! After SIGSTOP, `docker pause` or a closed lid, every timeout has expired, although the awaited event may have
//! occurred meanwhile and only needs to be read. A timeout on this clock therefore continues where it stopped.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The interval at which a sleeping task reads the clock.
const TICK: Duration = Duration::from_millis(500);

/// The shortest time between two readings that counts as a suspension of the process. On an overloaded machine, a task
/// that is due may wait for some ticks.
const STOP_MIN: Duration = Duration::from_secs(2);

/// A clock that stops while the process is suspended. It detects suspensions while at least one task sleeps on it.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    read_at: Instant,
    stopped: Duration,
}

impl Clock {
    /// Starts a clock at 0.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { started: now, state: Mutex::new(State { read_at: now, stopped: Duration::ZERO }) }
    }

    /// Returns how long the process has run since the clock started. The result never decreases.
    #[must_use]
    pub fn now(&self) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now().max(state.read_at);

        let unread = now.duration_since(state.read_at);
        if unread >= STOP_MIN {
            state.stopped += unread.saturating_sub(TICK);
        }
        state.read_at = now;
        now.duration_since(self.started).saturating_sub(state.stopped)
    }

    /// Waits until the clock shows `at`.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    pub async fn sleep_until(&self, at: Duration) {
        loop {
            let rest = at.saturating_sub(self.now());
            if rest.is_zero() {
                return;
            }
            sleep(rest.min(TICK)).await;
        }
    }

    /// Waits for `work`, but at most for `limit`. Returns `None` if `work` has not ended by then.
    ///
    /// # Cancel safety
    /// As for `work`.
    pub async fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let end = self.now().saturating_add(limit);
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.sleep_until(end) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn counts_the_time_while_a_task_sleeps_on_it() {
        let clock = Clock::start();

        clock.sleep_until(100 * SECOND).await;

        assert_eq!(clock.now(), 100 * SECOND);
        assert_eq!(clock.timeout(SECOND, std::future::pending::<()>()).await, None);
        assert_eq!(clock.now(), 101 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_count_a_suspension_of_the_process() {
        let clock = Clock::start();
        clock.sleep_until(10 * SECOND).await;

        // No task runs in the meantime.
        advance(150 * SECOND).await;

        assert!(clock.now() <= 10 * SECOND + TICK, "{:?}", clock.now());
        let rest = Instant::now();
        clock.sleep_until(20 * SECOND).await;
        assert!(rest.elapsed() >= 9 * SECOND, "{:?}", rest.elapsed());
    }
}
