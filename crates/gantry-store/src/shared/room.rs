//! What the readers of one store share: the kept bytes, and the store itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep};

use super::kept::{Kept, VersionId};
use super::limits::Limits;
use super::observe::{Observer, Report};
use super::source::Source;
use crate::budget::Holder;
use crate::descriptions::is_same;
use crate::{Budget, Error, Store};
use gantry_proto::{Key, ObjectInfo, Span};

/// How often bytes that nobody uses are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the readers of one store share.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) store: Arc<dyn Store>,
    pub(super) observer: Observer,
    /// Never locked while a source is polled. A source's own lock is taken first.
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) kept: Kept<Source>,
    is_swept: bool,
}

impl Room {
    pub(super) fn new(store: Arc<dyn Store>, budget: Budget, limits: Limits, observer: Observer) -> Arc<Self> {
        let state = State { kept: Kept::new(limits, budget.clone()), is_swept: false };
        let room = Arc::new(Self { store, observer, state: Mutex::new(state) });

        let holder: Weak<dyn Holder> = Arc::<Self>::downgrade(&room);
        budget.add_holder(holder);
        room
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a source of bytes of a version that is being read.
    pub(super) fn source(&self, object: Arc<ObjectInfo>, start: u64, end: u64) -> Source {
        let store = Arc::clone(&self.store);
        let opening = async move {
            let opened = store.open(&object.key, &object.pin(), Span { start, end: Some(end) }).await?;
            if !is_same(&opened.object, &object) {
                return Err(Error::Changed(format!("key {:?}: was replaced", object.key.as_str())));
            }
            Ok(opened.body)
        };
        Source::opening(opening.boxed(), start, end)
    }

    /// Accounts for the next bytes of a source, and keeps them if there is reason and room to do so.
    pub(super) fn push(self: &Arc<Self>, id: VersionId, source: &Source, piece: &Bytes) {
        let is_shared = self.lock().kept.is_shared(id);
        let piece = if is_shared { Bytes::copy_from_slice(piece) } else { piece.clone() };

        let mut state = self.lock();
        state.kept.push(id, source, piece, Instant::now());
        self.report(&mut state);

        if state.kept.reserved() > 0 && !state.is_swept {
            state.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Announces a reader of some version of an object, until the value is dropped.
    pub(super) fn expect<'a>(&'a self, key: &'a Key) -> Expected<'a> {
        self.lock().kept.expect(key);
        Expected { room: self, key }
    }

    fn report(&self, state: &mut State) {
        let evicted = state.kept.take_evicted();
        if evicted > 0 {
            self.observer.record(Report::Evicted(evicted));
        }
        self.observer.record(Report::Kept(state.kept.reserved()));
    }
}

/// A reader of a version that is not known yet.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    room: &'a Room,
    key: &'a Key,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.room.lock().kept.expect_no_more(self.key);
    }
}

impl Holder for Room {
    fn give_back(&self, bytes: u64, idle: Duration) {
        let mut state = self.lock();
        state.kept.evict(bytes, idle, Instant::now());
        self.report(&mut state);
    }
}

/// Discards bytes that have not been used for a while, until there are none.
async fn sweep(room: Weak<Room>) {
    loop {
        sleep(SWEEP_INTERVAL).await;

        let Some(room) = room.upgrade() else { return };
        let mut state = room.lock();
        state.kept.expire(Instant::now());
        room.report(&mut state);
        if state.kept.reserved() == 0 {
            state.is_swept = false;
            return;
        }
    }
}
