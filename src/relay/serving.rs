//! The stores that are served now: their subscriptions, and their replacement while transfers run.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::StreamExt;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Error, Shared, Stores, handlers};
use crate::bus::Subscription;
use crate::metrics::StoreLabel;
use crate::proto::StoreName;
use crate::proto::subject::{Operation, QUEUE_GROUP};
use crate::store::Store;

/// The stores that are served now.
#[derive(Debug, Default)]
pub(super) struct Serving {
    stores: RwLock<BTreeMap<StoreName, Served>>,
    /// Held while they are replaced.
    replacing: Mutex<()>,
}

#[derive(Debug)]
struct Served {
    /// What new requests read from; a running transfer keeps what it began with.
    store: watch::Sender<Arc<dyn Store>>,
    /// Ends the subscriptions.
    stop: CancellationToken,
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

impl Serving {
    /// Returns the stores as they are now.
    pub(super) fn snapshot(&self) -> Stores {
        self.read().iter().map(|(name, served)| (name.clone(), Arc::clone(&served.store.borrow()))).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<StoreName, Served>> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<StoreName, Served>> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `stores` and nothing else from now on. Transfers under way go on with what they began with.
pub(super) async fn replace(shared: &Arc<Shared>, stores: Stores) -> Result<Replaced, Error> {
    if stores.is_empty() {
        return Err(Error::NoStore);
    }
    let _replacing = shared.serving.replacing.lock().await;
    let mut replaced = Replaced::default();
    let gone: Vec<_> = shared.serving.read().keys().filter(|name| !stores.contains_key(name)).cloned().collect();
    for (name, store) in stores {
        let known = shared.serving.read().get(&name).map(|served| served.store.send_replace(Arc::clone(&store)));
        if known.is_some() {
            replaced.kept.push(name);
        } else {
            add(shared, &name, store).await?;
            replaced.added.push(name);
        }
    }
    // Last, so that a bus that takes no subscription leaves all that was served.
    for name in gone {
        remove(shared, &name);
        replaced.removed.push(name);
    }
    Ok(replaced)
}

async fn add(shared: &Arc<Shared>, name: &StoreName, store: Arc<dyn Store>) -> Result<(), Error> {
    let served = Served { store: watch::Sender::new(store), stop: CancellationToken::new() };
    let mut subscribed = Vec::new();
    for operation in Operation::ALL {
        let subject = shared.options.prefix.request(operation, name);
        subscribed.push((operation, shared.bus.subscribe(&subject, Some(QUEUE_GROUP)).await?));
    }
    shared.service.add(name);
    shared.metrics.add_store(name.as_str());
    for (operation, requests) in subscribed {
        let endpoint = Endpoint {
            operation,
            name: name.clone(),
            store: served.store.subscribe(),
            stop: served.stop.clone(),
            shared: Arc::clone(shared),
        };
        shared.tasks.spawn(endpoint.serve(requests));
    }
    shared.serving.write().insert(name.clone(), served);
    Ok(())
}

fn remove(shared: &Shared, name: &StoreName) {
    if let Some(served) = shared.serving.write().remove(name) {
        served.stop.cancel();
        shared.service.remove(name);
        shared.metrics.store_up.remove(&StoreLabel { store: name.to_string() });
        info!(store = %name, "no longer serving the store");
    }
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

    async fn handle(&self, request: crate::bus::Message) {
        let store = Arc::clone(&self.store.borrow());
        handlers::handle(&self.shared, self.operation, &self.name, store, request).await;
    }
}
