//! The state that all connections of a bus share: its reports, its servers, and its message limit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::ServerAddr;
use tokio::sync::{broadcast, watch};

use super::losses::Losses;
use super::payload::PayloadLimit;
use super::pool::Pool;
use crate::{Event, Status};

/// How many events a reader may lag behind. Events are rare: a few denied subjects, a burst of slow consumers.
const EVENTS: usize = 64;

/// The state that all connections of a bus share.
pub(super) struct Shared {
    pub(super) reports: Reports,
    pub(super) payload: PayloadLimit,
    pool: Mutex<Pool>,
}

/// The reports of a bus, independent of its current connection.
pub(super) struct Reports {
    status: watch::Sender<Status>,
    events: broadcast::Sender<Event>,
    losses: Losses,
    /// The server's last error, which may be the reason why it closed the connection.
    last_error: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(pool: Pool) -> Self {
        Self { reports: Reports::new(), payload: PayloadLimit::new(), pool: Mutex::new(pool) }
    }

    /// Returns a copy of the servers.
    pub(super) fn pool(&self) -> Pool {
        self.lock_pool().clone()
    }

    /// Replaces the servers.
    pub(super) fn set_pool(&self, pool: Pool) {
        *self.lock_pool() = pool;
    }

    /// Records the members of a cluster that the server at `by` has named.
    pub(super) fn discover(&self, by: &ServerAddr, members: &[String]) {
        self.lock_pool().discover(by, members);
    }

    /// Records that this server is about to close, or does not respond. Returns whether there is another one.
    pub(super) fn leave(&self, addr: &ServerAddr) -> bool {
        let mut pool = self.lock_pool();
        pool.note_failure(addr);
        pool.has_other_than(addr)
    }

    fn lock_pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reports {
    pub(super) fn new() -> Self {
        Self {
            status: watch::Sender::new(Status { connected: true, epoch: 1 }),
            events: broadcast::Sender::new(EVENTS),
            losses: Losses::default(),
            last_error: Mutex::default(),
        }
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(super) fn emit(&self, event: Event) {
        tracing::debug!(?event, "nats-server reports");
        // There may be no listeners.
        drop(self.events.send(event));
    }

    /// Reports the state of the current connection.
    pub(super) fn refresh(&self, connected: bool, epoch: u64) {
        self.set(Status { connected, epoch });
    }

    /// Reports that there is no connection.
    pub(super) fn disconnected(&self) {
        let epoch = self.status.borrow().epoch;
        self.set(Status { connected: false, epoch });
    }

    /// Logs that a connection could not be established.
    pub(super) fn failing(&self, reason: &dyn std::fmt::Display) {
        self.losses.failing(reason);
    }

    /// Records an error that the server has reported.
    pub(super) fn note_error(&self, text: &str) {
        *self.lock_error() = Some(text.to_owned());
    }

    /// Returns the error that the server has reported since the last call.
    pub(super) fn take_error(&self) -> Option<String> {
        self.lock_error().take()
    }

    fn lock_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, new: Status) {
        self.status.send_if_modified(|status| {
            match (status.connected, new.connected) {
                (true, false) => self.losses.lost(),
                (false, true) => self.losses.restored(new.epoch),
                (true, true) | (false, false) => {}
            }
            let changed = *status != new;
            *status = new;
            changed
        });
    }
}
