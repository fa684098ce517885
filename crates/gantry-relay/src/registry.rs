//! The transfers and queries in progress, and what is known about the consumers of the transfers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, watch};

use gantry_proto::{Control, TransferId};

/// The state that a consumer has reported for its transfer. Each message carries the complete state, so only the latest
/// matters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// The highest credit, and whether to stop.
    pub(crate) control: Control,
    /// Whether nats-server reported that nobody listens on the delivery subject.
    pub(crate) gone: bool,
}

/// A `stat` or `list` request. A consumer sends it again, exactly the same, if no answer arrives soon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Query {
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) payload: Bytes,
}

/// The transfers and queries in progress.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    transfers: Mutex<HashMap<TransferId, watch::Sender<Heard>>>,
    /// The `stat` and `list` requests that are not answered yet.
    queries: Mutex<HashSet<Query>>,
    emptied: Notify,
    /// Shows the number of transfers as a metric.
    active: Gauge<i64, AtomicI64>,
}

impl Registry {
    pub(crate) fn new(active: Gauge<i64, AtomicI64>) -> Self {
        Self { active, ..Self::default() }
    }

    /// Adds a transfer. It is removed when the entry is dropped.
    pub(crate) fn enter(self: &Arc<Self>, transfer: TransferId) -> Entry {
        let (sender, heard) = watch::channel(Heard::default());
        self.lock().insert(transfer, sender);
        self.active.inc();

        Entry { registry: Arc::clone(self), transfer, heard }
    }

    /// Adds a query. It is removed when the entry is dropped. Returns `None` if the same query is already in progress,
    /// whose answer serves this one too.
    pub(crate) fn enter_query(self: &Arc<Self>, query: Query) -> Option<QueryEntry> {
        let is_new = self.lock_queries().insert(query.clone());
        is_new.then(|| QueryEntry { registry: Arc::clone(self), query })
    }

    /// Returns the number of transfers in progress.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns the number of queries in progress.
    pub(crate) fn queries(&self) -> usize {
        self.lock_queries().len()
    }

    /// Waits until no transfer and no query is in progress.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_idle() {
                return;
            }
            emptied.await;
        }
    }

    fn is_idle(&self) -> bool {
        self.len() == 0 && self.queries() == 0
    }

    /// Applies a consumer's control message. Returns whether there is such a transfer.
    pub(crate) fn hear_control(&self, transfer: TransferId, control: Control) -> bool {
        self.update(transfer, |heard| heard.control.merge(control))
    }

    /// Records that nobody receives a transfer's messages.
    pub(crate) fn hear_gone(&self, transfer: TransferId) {
        self.update(transfer, |heard| heard.gone = true);
    }

    fn update(&self, transfer: TransferId, update: impl FnOnce(&mut Heard)) -> bool {
        let transfers = self.lock();
        let Some(sender) = transfers.get(&transfer) else { return false };
        sender.send_modify(update);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TransferId, watch::Sender<Heard>>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_queries(&self) -> MutexGuard<'_, HashSet<Query>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer's place in the registry.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Arc<Registry>,
    pub(crate) transfer: TransferId,
    pub(crate) heard: watch::Receiver<Heard>,
}

impl Entry {
    /// Returns whether nobody ever received the messages of a transfer that ended after `took`. If it lasted for a beat
    /// interval, a consumer may have received the beat and left afterwards.
    pub(crate) fn was_unheard(&self, took: Duration, beat_interval: Duration) -> bool {
        let Heard { control, gone } = *self.heard.borrow();
        gone && took < beat_interval && control == Control::default()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.transfer);
        self.registry.active.dec();

        if self.registry.is_idle() {
            self.registry.emptied.notify_waiters();
        }
    }
}

/// A query's place in the registry.
#[derive(Debug)]
pub(crate) struct QueryEntry {
    registry: Arc<Registry>,
    query: Query,
}

impl Drop for QueryEntry {
    fn drop(&mut self) {
        self.registry.lock_queries().remove(&self.query);

        if self.registry.is_idle() {
            self.registry.emptied.notify_waiters();
        }
    }
}
