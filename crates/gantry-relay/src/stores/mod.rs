//! The stores that are currently served: their subscriptions, and their replacement while transfers run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::admission::StoreLimits;
use crate::discovery::Service;
use crate::error::Error;
use crate::lifetime::Lifetime;
use crate::metrics::{RelayMetrics, StoreLabel};
use crate::readiness::Board;
use crate::requests::Requests;
use crate::subjects::Subjects;
use gantry_bus::{Bus, Message, Subscription};
use gantry_proto::StoreName;
use gantry_proto::subject::{Operation, QUEUE_GROUP};
use gantry_store::Store;

/// The stores that a relay reads from, by name.
pub type Stores = BTreeMap<StoreName, Arc<dyn Store>>;

/// What replacing the stores changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Stores that were added.
    pub added: Vec<StoreName>,
    /// Stores that are still served, through a new store object.
    pub kept: Vec<StoreName>,
    /// Stores that are no longer served.
    pub removed: Vec<StoreName>,
}

/// The stores that are currently served.
#[derive(Debug)]
pub(crate) struct StoreTable {
    stores: RwLock<BTreeMap<StoreName, Served>>,
    /// Held while the stores are replaced.
    replacing: tokio::sync::Mutex<()>,
    context: Context,
}

/// The parts of the relay that are needed to serve a store.
#[derive(Debug)]
pub(crate) struct Context {
    /// The connection that receives requests.
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) service: Arc<Service>,
    pub(crate) board: Arc<Board>,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) lifetime: Arc<Lifetime>,
    pub(crate) metrics: Arc<RelayMetrics>,
}

#[derive(Debug)]
struct Served {
    /// The store for new requests. A running transfer keeps the store it started with.
    store: watch::Sender<Arc<dyn Store>>,
    limits: Arc<StoreLimits>,
    /// The subscriptions, by subject. Dropping a guard ends a subscription.
    endpoints: BTreeMap<String, DropGuard>,
}

/// A subscription that is not served yet.
struct Subscribed {
    name: StoreName,
    operation: Operation,
    subject: String,
    requests: Subscription,
}

impl StoreTable {
    pub(crate) fn new(context: Context) -> Self {
        Self { stores: RwLock::default(), replacing: tokio::sync::Mutex::default(), context }
    }

    /// Returns the current stores.
    pub(crate) fn snapshot(&self) -> Stores {
        self.read().iter().map(|(name, served)| (name.clone(), Arc::clone(&served.store.borrow()))).collect()
    }

    /// Returns the names of the current stores.
    pub(crate) fn names(&self) -> Vec<StoreName> {
        self.read().keys().cloned().collect()
    }

    /// Serves exactly these `stores` from now on. Running transfers keep the stores they started with.
    ///
    /// # Errors
    /// [`Error::NoStore`] if there is no store, [`Error::Bus`] if the bus refuses a subscription. Then nothing changes.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the stores have not changed, but the relay may have forgotten which
    /// subjects nats-server forbids.
    pub(crate) async fn replace(&self, stores: Stores) -> Result<Replaced, Error> {
        if stores.is_empty() {
            return Err(Error::NoStore);
        }
        let _replacing = self.replacing.lock().await;

        // Everything that can fail comes first, so that nothing changes if the bus refuses a subscription.
        let subscribed = self.subscribe(stores.keys()).await?;
        let gone: Vec<_> = self.names().into_iter().filter(|name| !stores.contains_key(name)).collect();

        let mut replaced = Replaced::default();
        for (name, store) in stores {
            let fingerprint = store.fingerprint();
            let known = self.read().get(&name).map(|served| served.store.send_replace(Arc::clone(&store)));
            if known.is_some() {
                replaced.kept.push(name.clone());
            } else {
                self.add(&name, store);
                replaced.added.push(name.clone());
            }
            self.context.service.set_fingerprint(&name, fingerprint.as_ref());
        }

        for subscribed in subscribed {
            self.serve(subscribed);
        }
        for name in gone {
            self.remove(&name);
            replaced.removed.push(name);
        }

        self.context.board.show_denied(&self.names());
        Ok(replaced)
    }

    /// Subscribes to the subjects of these stores that do not reach the relay yet: all subjects of a new store, and
    /// those that nats-server has denied.
    async fn subscribe(&self, names: impl Iterator<Item = &StoreName>) -> Result<Vec<Subscribed>, Error> {
        let board = &self.context.board;
        let mut all = Vec::new();
        let mut forgotten = BTreeSet::new();

        for name in names {
            for operation in Operation::ALL {
                let subject = self.context.subjects.request(operation, name);
                if self.hears(name, &subject) {
                    continue;
                }

                // Forgotten before subscribing, since nats-server's answer may arrive at any time afterwards.
                forgotten.extend(board.denied().take(&subject));
                match self.context.bus.subscribe(&subject, Some(QUEUE_GROUP)).await {
                    Ok(requests) => all.push(Subscribed { name: name.clone(), operation, subject, requests }),
                    Err(error) => {
                        board.denied().append(&mut forgotten);
                        return Err(error.into());
                    }
                }
            }
        }
        Ok(all)
    }

    /// Returns whether requests on the subject reach the relay, as far as nats-server has reported.
    fn hears(&self, store: &StoreName, subject: &str) -> bool {
        self.read().contains_key(store) && !self.context.board.denied().contains(subject)
    }

    fn add(&self, name: &StoreName, store: Arc<dyn Store>) {
        self.context.service.add(name);
        self.context.metrics.add_store(name.as_str());

        let limits = Arc::new(self.context.requests.limits_of(name));
        let served = Served { store: watch::Sender::new(store), limits, endpoints: BTreeMap::new() };
        self.write().insert(name.clone(), served);
    }

    /// Serves a subscription, and ends the previous one of the same subject.
    fn serve(&self, Subscribed { name, operation, subject, requests }: Subscribed) {
        let mut stores = self.write();
        let Some(served) = stores.get_mut(&name) else { return };

        let task = format!("{} of store {name}", operation.name());
        let stop = CancellationToken::new();
        served.endpoints.insert(subject, stop.clone().drop_guard());

        let endpoint = Endpoint {
            operation,
            name,
            store: served.store.subscribe(),
            limits: Arc::clone(&served.limits),
            stop: stop.clone(),
            requests: Arc::clone(&self.context.requests),
            lifetime: Arc::clone(&self.context.lifetime),
        };
        self.context.lifetime.spawn_vital(task, Some(stop), endpoint.serve(requests));
    }

    fn remove(&self, name: &StoreName) {
        let Some(served) = self.write().remove(name) else { return };
        let Context { board, service, metrics, .. } = &self.context;

        board.denied().retain(|subject| !served.endpoints.contains_key(subject));
        service.remove(name);
        metrics.store_up.remove(&StoreLabel { store: name.to_string() });
        metrics.store_differing.remove(&StoreLabel { store: name.to_string() });
        info!(store = %name, "no longer serving the store");
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<StoreName, Served>> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<StoreName, Served>> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One operation of one store.
struct Endpoint {
    operation: Operation,
    name: StoreName,
    store: watch::Receiver<Arc<dyn Store>>,
    limits: Arc<StoreLimits>,
    stop: CancellationToken,
    requests: Arc<Requests>,
    lifetime: Arc<Lifetime>,
}

impl Endpoint {
    /// Serves until a shutdown, or until the store is removed. Requests that have already arrived are still answered.
    async fn serve(self, mut requests: Subscription) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.lifetime.shutdown.force.cancelled() => return,
                () = self.lifetime.shutdown.drain.cancelled() => break,
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

    async fn handle(&self, request: Message) {
        let store = Arc::clone(&self.store.borrow());
        self.requests.handle(self.operation, &self.name, &self.limits, store, request).await;
    }
}

#[cfg(test)]
mod tests;
