//! The relay: answers requests on the bus and streams objects to whoever asked.
//!
//! [`Relay::start`] subscribes; every request and transfer runs as a task on one tracker; [`Relay::wait`] returns when
//! all of them have ended after a shutdown.

mod handlers;
mod health;
mod registry;
mod service;
mod transfer;

pub use self::health::Readiness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use uuid::Uuid;

use crate::bus::{self, Bus, Subscription};
use crate::metrics::RelayMetrics;
use crate::proto::subject::{DeliveryAllow, Operation, Prefix, QUEUE_GROUP};
use crate::proto::{HEADERS_MAX_BYTES, StoreName};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::store::budget::Budget;

/// How many `stat` and `list` requests a relay serves at once; above, it answers `busy`.
const QUERIES_MAX: usize = 64;

/// The stores that a relay reads from, by name.
pub type Stores = BTreeMap<StoreName, Arc<dyn Store>>;

/// What a relay holds itself to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first tokens of every subject.
    pub prefix: Prefix,
    /// The reply subjects that it publishes to.
    pub delivery_allow: DeliveryAllow,
    /// How many transfers may run at once; above, it answers `busy`.
    pub transfers_max: usize,
    /// What a transfer takes from the memory budget for as long as it runs, in bytes: the frame that it holds, and
    /// the read buffer that the frame pins.
    pub transfer_reserve_bytes: u64,
    /// Memory for object bytes, shared by all transfers and their read-ahead.
    pub budget: Budget,
    /// The largest chunk payload, in bytes; the server's `max_payload` may lower it.
    pub chunk_max_bytes: usize,
    /// Store frames smaller than this are put together, in bytes.
    pub gather_min_bytes: usize,
    /// How far past what was sent credit may reach, in bytes.
    pub window_max_bytes: u64,
    /// The longest silence towards a consumer.
    pub beat_interval: Duration,
    /// How long to wait for any word of a consumer that gives no credit.
    pub idle_timeout: Duration,
    /// How long transfers may go on after a shutdown was asked for.
    pub drain_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            delivery_allow: DeliveryAllow::default(),
            transfers_max: 1000,
            transfer_reserve_bytes: 512 * 1024,
            budget: Budget::new(512 * 1024 * 1024),
            // Just below a power of two with its headers; larger chunks were no faster and cost memory and fairness.
            chunk_max_bytes: 512 * 1024 - HEADERS_MAX_BYTES,
            gather_min_bytes: 64 * 1024,
            // Half of what nats-server lets one connection have pending.
            window_max_bytes: 32 * 1024 * 1024,
            beat_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(15),
            drain_grace: Duration::from_secs(30),
        }
    }
}

/// Why a relay could not start or stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to serve.
    #[error("no store is configured")]
    NoStore,
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
}

/// What all tasks of one relay share.
#[derive(Debug)]
struct Shared {
    bus: Arc<dyn Bus>,
    stores: Stores,
    options: Options,
    /// The service id, also a token of every control subject.
    instance: String,
    transfers: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    registry: registry::Registry,
    service: service::Service,
    metrics: Arc<RelayMetrics>,
    readiness: watch::Sender<Readiness>,
    shutdown: Shutdown,
    /// Tells transfers that the grace is over.
    goaway: CancellationToken,
    tasks: TaskTracker,
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
}

impl Relay {
    /// Subscribes and begins to serve.
    ///
    /// # Errors
    /// When there is no store, or the bus does not take the subscriptions.
    pub async fn start(
        bus: Arc<dyn Bus>,
        stores: Stores,
        options: Options,
        metrics: Arc<RelayMetrics>,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        if stores.is_empty() {
            return Err(Error::NoStore);
        }
        let instance = Uuid::new_v4().simple().to_string();
        let service = service::Service::new(&instance, &options, stores.keys());
        let shared = Arc::new(Shared {
            bus,
            transfers: Arc::new(Semaphore::new(options.transfers_max)),
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            registry: registry::Registry::default(),
            service,
            metrics,
            readiness: watch::Sender::default(),
            shutdown,
            goaway: CancellationToken::new(),
            tasks: TaskTracker::new(),
            instance,
            stores,
            options,
        });
        let controls = shared.options.prefix.controls(&shared.instance);
        let controls = shared.bus.subscribe(&controls, None).await?;
        shared.tasks.spawn(registry::dispatch(Arc::clone(&shared), controls));
        for subject in shared.service.subjects() {
            let questions = shared.bus.subscribe(&subject, None).await?;
            shared.tasks.spawn(service::answer(Arc::clone(&shared), questions));
        }
        let endpoints: Vec<_> = shared.stores.keys().cloned().collect();
        for store in endpoints {
            for operation in Operation::ALL {
                let subject = shared.options.prefix.request(operation, &store);
                let requests = shared.bus.subscribe(&subject, Some(QUEUE_GROUP)).await?;
                shared.tasks.spawn(serve(Arc::clone(&shared), operation, store.clone(), requests));
            }
        }
        shared.tasks.spawn(health::watch(Arc::clone(&shared)));
        shared.tasks.spawn(drain(Arc::clone(&shared)));
        shared.bus.flush().await?;
        info!(instance = %shared.instance, prefix = %shared.options.prefix, stores = shared.stores.len(), "serving");
        Ok(Self { shared })
    }

    /// Returns the service id.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.shared.instance
    }

    /// Returns how many transfers are under way.
    #[must_use]
    pub fn transfers_active(&self) -> usize {
        self.shared.registry.len()
    }

    /// Watches whether the relay can serve.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared.readiness.subscribe()
    }

    /// Waits until the relay was asked to stop and every transfer has ended.
    ///
    /// # Errors
    /// When the last messages could not be sent.
    pub async fn wait(self) -> Result<(), Error> {
        self.shared.tasks.wait().await;
        tokio::select! {
            flushed = self.shared.bus.flush() => flushed?,
            () = self.shared.shutdown.force.cancelled() => {}
        }
        info!(instance = %self.shared.instance, "stopped");
        Ok(())
    }
}

/// Serves one endpoint until a shutdown.
async fn serve(shared: Arc<Shared>, operation: Operation, store: StoreName, mut requests: Subscription) {
    loop {
        let request = tokio::select! {
            biased;
            () = shared.shutdown.force.cancelled() => return,
            () = shared.shutdown.drain.cancelled() => break,
            request = requests.next() => request,
        };
        let Some(request) = request else {
            return warn!(%store, operation = operation.name(), "the subscription ended");
        };
        handlers::handle(&shared, operation, &store, request).await;
    }
    requests.close();
    while let Some(request) = requests.next().await {
        handlers::handle(&shared, operation, &store, request).await;
    }
}

/// Ends the relay's transfers when a shutdown's grace is over, and lets the tracker close.
async fn drain(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.shutdown.drain.cancelled() => {}
        () = shared.shutdown.force.cancelled() => {}
    }
    info!(transfers = shared.registry.len(), grace = ?shared.options.drain_grace, "draining");
    shared.tasks.close();
    let grace = tokio::time::sleep(shared.options.drain_grace);
    tokio::select! {
        () = shared.shutdown.force.cancelled() => {}
        () = grace => {}
        () = shared.registry.emptied() => {}
    }
    shared.goaway.cancel();
}
