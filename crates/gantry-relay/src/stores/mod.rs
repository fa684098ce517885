//! The stores that are served now: their subscriptions, and their replacement while transfers run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{Error, Shared, Stores, readiness, requests, supervision};
use crate::metrics::StoreLabel;
use gantry_bus::Subscription;
use gantry_proto::StoreName;
use gantry_proto::subject::{Operation, QUEUE_GROUP};
use gantry_store::Store;

/// The stores that are served now.
#[derive(Debug, Default)]
pub(super) struct StoreTable {
    stores: RwLock<BTreeMap<StoreName, Served>>,
    /// The subjects that nats-server forbids the relay to subscribe to, also those without which it serves.
    denied: Mutex<BTreeSet<String>>,
    /// Held while the stores are replaced.
    replacing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Served {
    /// What new requests read from; a running transfer keeps what it began with.
    store: watch::Sender<Arc<dyn Store>>,
    /// By subject; dropping one ends its subscription.
    endpoints: BTreeMap<String, DropGuard>,
}

/// What replacing the stores changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Stores that are served now and were not before.
    pub added: Vec<StoreName>,
    /// Stores that were served and are made anew.
    pub kept: Vec<StoreName>,
    /// Stores that are not served any more.
    pub removed: Vec<StoreName>,
}

impl StoreTable {
    /// Returns the stores as they are now.
    pub(super) fn snapshot(&self) -> Stores {
        self.read().iter().map(|(name, served)| (name.clone(), Arc::clone(&served.store.borrow()))).collect()
    }

    /// Returns the subjects that nats-server forbids the relay to subscribe to.
    pub(super) fn denied(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether requests at the subject reach the relay, as far as nats-server has said.
    fn hears(&self, store: &StoreName, subject: &str) -> bool {
        self.read().contains_key(store) && !self.denied().contains(subject)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<StoreName, Served>> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<StoreName, Served>> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `stores` and nothing else from now on. Transfers under way go on with what they began with.
///
/// # Cancel safety
/// Dropped before it is ready, it has changed nothing, but may have forgotten what nats-server forbids.
pub(super) async fn replace(shared: &Arc<Shared>, stores: Stores) -> Result<Replaced, Error> {
    if stores.is_empty() {
        return Err(Error::NoStore);
    }
    let table = &shared.stores;
    let _replacing = table.replacing.lock().await;
    // All that can fail comes first, so that a bus that takes no subscription leaves all that was served.
    let subscribed = subscribe(shared, stores.keys()).await?;
    let gone: Vec<_> = table.read().keys().filter(|name| !stores.contains_key(name)).cloned().collect();
    let mut replaced = Replaced::default();
    for (name, store) in stores {
        let fingerprint = store.fingerprint();
        let known = table.read().get(&name).map(|served| served.store.send_replace(Arc::clone(&store)));
        if known.is_some() {
            replaced.kept.push(name.clone());
        } else {
            add(shared, &name, store);
            replaced.added.push(name.clone());
        }
        shared.service.mark(&name, fingerprint.as_ref());
    }
    for subscribed in subscribed {
        serve(shared, subscribed);
    }
    for name in gone {
        remove(shared, &name);
        replaced.removed.push(name);
    }
    readiness::show_denied(shared);
    Ok(replaced)
}

struct Subscribed {
    name: StoreName,
    operation: Operation,
    subject: String,
    requests: Subscription,
}

/// Subscribes to what the relay does not hear of these stores: all of a new one, and what nats-server forbade before.
async fn subscribe(shared: &Shared, names: impl Iterator<Item = &StoreName>) -> Result<Vec<Subscribed>, Error> {
    let mut all = Vec::new();
    let mut forgotten = BTreeSet::new();
    for name in names {
        for operation in Operation::ALL {
            let subject = shared.options.prefix.request(operation, name);
            if shared.stores.hears(name, &subject) {
                continue;
            }
            // Forgotten before, since nats-server's answer may come at any time after.
            forgotten.extend(shared.stores.denied().take(&subject));
            match shared.buses.requests.subscribe(&subject, Some(QUEUE_GROUP)).await {
                Ok(requests) => all.push(Subscribed { name: name.clone(), operation, subject, requests }),
                Err(error) => {
                    shared.stores.denied().append(&mut forgotten);
                    return Err(error.into());
                }
            }
        }
    }
    Ok(all)
}

fn add(shared: &Shared, name: &StoreName, store: Arc<dyn Store>) {
    shared.service.add(name);
    shared.metrics.add_store(name.as_str());
    let served = Served { store: watch::Sender::new(store), endpoints: BTreeMap::new() };
    shared.stores.write().insert(name.clone(), served);
}

/// Serves what arrives at a subscription, in place of the one that its subject had.
fn serve(shared: &Arc<Shared>, Subscribed { name, operation, subject, requests }: Subscribed) {
    let mut stores = shared.stores.write();
    let Some(served) = stores.get_mut(&name) else { return };
    let task = format!("{} of store {name}", operation.name());
    let stop = CancellationToken::new();
    served.endpoints.insert(subject, stop.clone().drop_guard());
    let endpoint = Endpoint { operation, name, store: served.store.subscribe(), stop, shared: Arc::clone(shared) };
    supervision::spawn(shared, task, Some(endpoint.stop.clone()), endpoint.serve(requests));
}

fn remove(shared: &Shared, name: &StoreName) {
    let Some(served) = shared.stores.write().remove(name) else { return };
    shared.stores.denied().retain(|subject| !served.endpoints.contains_key(subject));
    shared.service.remove(name);
    shared.metrics.store_up.remove(&StoreLabel { store: name.to_string() });
    shared.metrics.store_differing.remove(&StoreLabel { store: name.to_string() });
    info!(store = %name, "no longer serving the store");
}

/// One operation of one store.
struct Endpoint {
    operation: Operation,
    name: StoreName,
    store: watch::Receiver<Arc<dyn Store>>,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

impl Endpoint {
    /// Serves until a shutdown, or until the store is taken away; what has arrived by then is still answered.
    async fn serve(self, mut requests: Subscription) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.shared.shutdown.force.cancelled() => return,
                () = self.shared.shutdown.drain.cancelled() => break,
                () = self.stop.cancelled() => break,
                request = requests.next() => request,
            };
            let Some(request) = request else {
                return warn!(store = %self.name, operation = self.operation.name(), "the subscription ended");
            };
            self.handle(request).await;
        }
        requests.close();
        while let Some(request) = requests.next().await {
            self.handle(request).await;
        }
    }

    async fn handle(&self, request: gantry_bus::Message) {
        let store = Arc::clone(&self.store.borrow());
        requests::handle(&self.shared, self.operation, &self.name, store, request).await;
    }
}

#[cfg(test)]
mod tests;
