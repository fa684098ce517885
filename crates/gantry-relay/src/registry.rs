//! The transfers and queries in progress, and what is known about the consumers of the transfers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, watch};

use crate::active::{ActiveTransfer, Activity};
use gantry_proto::{Control, StoreName, TransferId};

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

/// A transfer in progress.
#[derive(Debug)]
struct Listed {
    heard: watch::Sender<Heard>,
    activity: Arc<Activity>,
}

/// The transfers and queries in progress.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    transfers: Mutex<HashMap<TransferId, Listed>>,
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
    pub(crate) fn enter(self: &Arc<Self>, transfer: TransferId, activity: Activity) -> Entry {
        let (sender, heard) = watch::channel(Heard::default());
        let activity = Arc::new(activity);
        self.lock().insert(transfer, Listed { heard: sender, activity: Arc::clone(&activity) });
        self.active.inc();

        Entry { registry: Arc::clone(self), transfer, heard, activity }
    }

    /// Describes the transfers in progress.
    pub(crate) fn active(&self) -> Vec<ActiveTransfer> {
        self.lock().iter().map(|(transfer, listed)| listed.activity.describe(*transfer)).collect()
    }

    /// Returns a view of the transfers in progress for operators.
    pub(crate) fn view(self: &Arc<Self>) -> ActiveTransfers {
        ActiveTransfers(Arc::clone(self))
    }

    /// Returns the number of transfers of a store.
    pub(crate) fn active_of(&self, store: &StoreName) -> usize {
        self.lock().values().filter(|listed| listed.activity.store == *store).count()
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
        let Some(listed) = transfers.get(&transfer) else { return false };
        listed.heard.send_modify(update);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TransferId, Listed>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_queries(&self) -> MutexGuard<'_, HashSet<Query>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transfers in progress of a relay.
#[derive(Clone, Debug)]
pub struct ActiveTransfers(Arc<Registry>);

impl ActiveTransfers {
    /// Returns the transfers in progress, the longest first.
    #[must_use]
    pub fn list(&self) -> Vec<ActiveTransfer> {
        let mut transfers = self.0.active();
        transfers.sort_by_key(|transfer| std::cmp::Reverse(transfer.ms));
        transfers
    }
}

/// A transfer's place in the registry.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Arc<Registry>,
    pub(crate) transfer: TransferId,
    pub(crate) heard: watch::Receiver<Heard>,
    pub(crate) activity: Arc<Activity>,
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::waits::Wait;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_in_progress_is_described_as_far_as_it_is_known() {
        let registry = Arc::new(Registry::default());
        let transfers = registry.view();
        let store: StoreName = "s".parse().unwrap();
        let entry = |id, shown| registry.enter(TransferId(Uuid::from_u128(id)), Activity::new(store.clone(), shown));
        let json = |index: usize| serde_json::to_value(&transfers.list()[index]).unwrap();

        let first = entry(1, Some(("a/b".to_owned(), Some("job 7".to_owned()))));
        tokio::time::advance(Duration::from_millis(5)).await;
        let _second = entry(2, None);
        first.activity.note_size(100);
        first.activity.note_sent(30);
        first.activity.note_wait(Some(Wait::Credit));

        let expected = json!({ "transfer": TransferId(Uuid::from_u128(1)).to_string(), "store": "s",
            "key": "a/b", "correlation": "job 7", "size": 100, "sent_bytes": 30, "ms": 5, "waits_for": "credit" });
        assert_eq!(json(0), expected);
        let expected = json!({ "transfer": TransferId(Uuid::from_u128(2)).to_string(), "store": "s",
            "sent_bytes": 0, "ms": 0 });
        assert_eq!(json(1), expected);
        assert_eq!(registry.active_of(&store), 2);

        drop(first);
        assert_eq!(transfers.list().len(), 1);
    }
}
