//! Where ranges ended, and the transfers that continue there.
//!
//! A range that starts where another one ended belongs to a sequential reader. Its transfer continues past its end, and
//! waits there for the next range.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::counts::Counting;
use crate::descriptions::Subject;
use crate::flow::Flow;

/// The number of ends that are remembered. More readers than these are not recognised as sequential.
const ENDS_MAX: usize = 256;

/// How long an end is remembered. A slower reader is limited by itself, and not by round trips.
const END_AGE: Duration = Duration::from_secs(10);

/// A place in one version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) offset: u64,
    pub(crate) version: Arc<Version>,
}

/// One version of an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) subject: Subject,
    pub(crate) etag: String,
}

/// The ends of ranges, and the waiting transfers.
#[derive(Debug)]
pub(crate) struct Trails {
    /// How long a transfer waits.
    idle: Duration,
    /// The places of transfers that read ahead, waiting or not.
    places: Arc<Semaphore>,
    counting: Arc<Counting>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    ends: VecDeque<(Spot, Instant)>,
    /// The transfer that has waited longest first. Each has a place, which bounds their number.
    waiting: VecDeque<Waiting>,
    /// Whether a task ends the transfers that wait for too long.
    is_watched: bool,
}

#[derive(Debug)]
struct Waiting {
    spot: Spot,
    since: Instant,
    flow: Flow,
}

impl Trails {
    pub(crate) fn new(places: usize, idle: Duration, counting: Arc<Counting>) -> Self {
        Self { idle, places: Arc::new(Semaphore::new(places)), counting, state: Mutex::default() }
    }

    /// Returns whether a range of some version ended at this offset, or a transfer waits there.
    pub(crate) fn expects(&self, subject: &Subject, offset: u64) -> bool {
        let state = self.state();
        let is_there = |spot: &Spot| spot.offset == offset && spot.version.subject == *subject;

        state.waiting.iter().any(|waiting| is_there(&waiting.spot)) || state.ends.iter().any(|(end, _)| is_there(end))
    }

    /// Returns the transfer that waits at a spot.
    pub(crate) fn take(&self, spot: &Spot) -> Option<Flow> {
        let mut state = self.state();
        let index = state.waiting.iter().position(|waiting| waiting.spot == *spot)?;

        state.waiting.remove(index).map(|waiting| waiting.flow)
    }

    /// Returns a place for a transfer that reads ahead, if a range ended at `spot` and one is free. Of the transfers that
    /// wait, the one that has waited longest leaves its place.
    pub(crate) fn place_after(&self, spot: &Spot) -> Option<OwnedSemaphorePermit> {
        let mut state = self.state();
        let index = state.ends.iter().position(|(end, _)| end == spot)?;
        let (_, ended) = state.ends.remove(index)?;
        if ended.elapsed() > END_AGE {
            return None;
        }

        if self.places.available_permits() == 0
            && let Some(longest) = state.waiting.pop_front()
        {
            self.abandon(&mut state, longest);
        }
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Remembers that a range ended at `spot`.
    pub(crate) fn end_at(&self, spot: Spot) {
        self.state().end_at(spot);
    }

    /// Lets a transfer wait at a spot for the next range.
    pub(crate) fn wait_at(self: &Arc<Self>, spot: Spot, flow: Flow) {
        let mut state = self.state();
        let since = Instant::now();
        state.waiting.push_back(Waiting { spot, since, flow });

        if !std::mem::replace(&mut state.is_watched, true) {
            tokio::spawn(watch(Arc::downgrade(self), since + self.idle));
        }
    }

    /// Ends the transfers that have waited for too long. Returns when the next one is due, or `None` if none waits.
    fn end_idle(&self) -> Option<Instant> {
        let mut state = self.state();

        let now = Instant::now();
        while let Some(longest) = state.waiting.pop_front() {
            let due = longest.since + self.idle;
            if due > now {
                state.waiting.push_front(longest);
                return Some(due);
            }
            self.abandon(&mut state, longest);
        }

        state.is_watched = false;
        None
    }

    /// Cancels a waiting transfer. Its reader is still recognised as sequential.
    fn abandon(&self, state: &mut State, waiting: Waiting) {
        Counting::add(&self.counting.ahead_abandoned, 1);
        state.end_at(waiting.spot);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_at(&mut self, spot: Spot) {
        if self.ends.len() == ENDS_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back((spot, Instant::now()));
    }
}

/// Ends transfers that wait for too long, until none waits.
async fn watch(trails: Weak<Trails>, mut due: Instant) {
    loop {
        sleep_until(due).await;

        let next = trails.upgrade().and_then(|trails| trails.end_idle());
        let Some(next) = next else { return };
        due = next;
    }
}
