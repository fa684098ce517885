//! The relay: answers requests on the bus and streams objects to whoever asked.
//!
//! [`Relay::start`] subscribes; every request and transfer runs as a task on one tracker; [`Relay::wait`] returns when
//! all of them have ended after a shutdown.

mod buses;
mod caution;
mod discovery;
pub mod metrics;
mod outbox;
mod pacer;
mod peers;
mod readiness;
mod registry;
mod requests;
pub mod shutdown;
mod stores;
mod supervision;
mod throttle;
mod transfer;

pub use self::buses::Buses;
pub use self::discovery::subjects as service_subjects;
pub use self::readiness::{Readiness, probe};
pub use self::stores::Replaced;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use uuid::Uuid;

use crate::metrics::RelayMetrics;
use crate::shutdown::Shutdown;
use gantry_bus::rate::RateLimit;
use gantry_bus::{self as bus, Status};
use gantry_proto::subject::{DeliveryAllow, Prefix};
use gantry_proto::{HEADERS_MAX_BYTES, StoreName};
use gantry_store::Store;
use gantry_store::budget::Budget;

/// How many `stat` and `list` requests a relay serves at once; above, it answers `busy`.
const QUERIES_MAX: usize = 64;

/// How many refusals may wait for the bus at once; above, the requests behind them wait, too.
const REFUSALS_MAX: usize = 1024;

/// How long the last messages of a relay may take to be sent: without a connection they never are.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// What a transfer takes from the memory budget for as long as it runs, in bytes: the frames that it holds, the
    /// read buffers that they pin, and what the allocator keeps around them.
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
    /// How long to wait for any word of a consumer that gives no credit or promised to keep alive, and for the bus to
    /// take or bring any message.
    pub idle_timeout: Duration,
    /// How long transfers may go on after a shutdown was asked for.
    pub drain_grace: Duration,
    /// What each transfer is held to, in bytes per second.
    pub transfer_rate_max: Option<NonZeroU64>,
    /// What all transfers together are held to.
    pub rate_limit: Option<RateLimit>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            delivery_allow: DeliveryAllow::default(),
            transfers_max: 1000,
            // Measured with 512 transfers at work: 1.2 MiB each from S3 and 1.4 from a directory, with all that the
            // allocator keeps around them.
            transfer_reserve_bytes: 1536 * 1024,
            budget: Budget::new(512 * 1024 * 1024),
            // Just below a power of two with its headers; larger chunks were no faster and cost memory and fairness.
            chunk_max_bytes: 512 * 1024 - HEADERS_MAX_BYTES,
            gather_min_bytes: 64 * 1024,
            // Half of what nats-server lets one connection have pending.
            window_max_bytes: 32 * 1024 * 1024,
            beat_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(15),
            drain_grace: Duration::from_secs(30),
            transfer_rate_max: None,
            rate_limit: None,
        }
    }
}

impl Options {
    /// Returns how many transfers find both a place and their share of the memory budget.
    fn places(&self) -> u64 {
        let by_memory = self.budget.total_bytes().checked_div(self.transfer_reserve_bytes);
        by_memory.unwrap_or(u64::MAX).min(self.transfers_max as u64)
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
    /// A connection was lost, and nats-server does not let us make it again.
    #[error("the {connection} connection to NATS can't be made again: {reason}")]
    Lost {
        /// `requests` or `data`.
        connection: &'static str,
        /// Why.
        reason: String,
    },
    /// A task ended that the relay can't do without.
    #[error("the relay's {0} task ended: see the log, and restart the relay")]
    TaskEnded(String),
}

/// What all tasks of one relay share.
#[derive(Debug)]
struct Shared {
    buses: Buses,
    /// The state of the data connection.
    data_status: watch::Receiver<Status>,
    /// The connection that can't be made again.
    lost: OnceLock<Lost>,
    stores: stores::StoreTable,
    options: Options,
    /// The service id, also a token of every control subject.
    instance: String,
    /// A token of the reply subject of every message, which is not published anywhere else.
    secret: String,
    transfers: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    outbox: outbox::Outbox,
    caution: caution::Caution,
    registry: registry::Registry,
    service: discovery::Service,
    metrics: Arc<RelayMetrics>,
    readiness: watch::Sender<Readiness>,
    /// Asks for the stores to be probed now.
    probe: Notify,
    shutdown: Shutdown,
    /// Tells transfers that the grace is over.
    goaway: CancellationToken,
    tasks: TaskTracker,
    supervision: supervision::Supervision,
    throttle: throttle::Throttle,
}

/// A connection that can't be made again, and why.
#[derive(Debug)]
struct Lost {
    connection: buses::Connection,
    reason: String,
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
        buses: impl Into<Buses>,
        stores: Stores,
        options: Options,
        metrics: Arc<RelayMetrics>,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        if stores.is_empty() {
            return Err(Error::NoStore);
        }
        let instance = Uuid::new_v4().simple().to_string();
        let service = discovery::Service::new(&instance, &options);
        metrics.transfers_max.set(options.places());
        let buses = buses.into();
        let shared = Arc::new(Shared {
            data_status: buses.data.status(),
            buses,
            lost: OnceLock::new(),
            secret: Uuid::new_v4().simple().to_string(),
            transfers: Arc::new(Semaphore::new(options.transfers_max)),
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            outbox: outbox::Outbox::new(),
            caution: caution::Caution::default(),
            registry: registry::Registry::default(),
            service,
            metrics,
            readiness: watch::Sender::default(),
            probe: Notify::new(),
            shutdown,
            goaway: CancellationToken::new(),
            tasks: TaskTracker::new(),
            supervision: supervision::Supervision::default(),
            throttle: throttle::Throttle::default(),
            instance,
            stores: stores::StoreTable::default(),
            options,
        });
        let events = buses::Connection::ALL.map(|connection| shared.buses.of(connection).events());
        registry::start(&shared).await?;
        for subject in shared.service.subjects() {
            let questions = shared.buses.requests.subscribe(&subject, None).await?;
            supervision::spawn(&shared, "service", None, discovery::answer(Arc::clone(&shared), questions));
        }
        let served = stores::replace(&shared, stores).await?;
        supervision::spawn(&shared, "health", None, readiness::watch(Arc::clone(&shared), events));
        supervision::spawn(&shared, "log", None, throttle::report(Arc::clone(&shared)));
        // The relay can do without it: it only compares.
        shared.tasks.spawn(peers::watch(Arc::clone(&shared)));
        supervision::spawn(&shared, "drain", None, drain(Arc::clone(&shared)));
        shared.buses.flush().await?;
        info!(instance = %shared.instance, prefix = %shared.options.prefix, stores = served.added.len(), "serving");
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

    /// Serves `stores` and nothing else from now on. Transfers under way go on with what they began with; a store
    /// that stays is replaced between two requests.
    ///
    /// # Errors
    /// When there is no store, or the bus does not take the subscriptions. Then all that was served still is.
    pub async fn replace_stores(&self, stores: Stores) -> Result<Replaced, Error> {
        let replaced = stores::replace(&self.shared, stores).await?;
        self.shared.buses.requests.flush().await?;
        self.shared.probe.notify_one();
        Ok(replaced)
    }

    /// Waits until the relay was asked to stop and every transfer has ended.
    ///
    /// # Errors
    /// When the last messages could not be sent, when a connection can't be made again, or when a task ended that the
    /// relay can't do without.
    pub async fn wait(&self) -> Result<(), Error> {
        tokio::select! {
            () = self.shared.tasks.wait() => {}
            () = self.cut_off() => {
                warn!("there is no connection to NATS: ending what waits for it");
                self.shared.shutdown.force.cancel();
            }
            task = self.shared.supervision.broken() => return self.give_up(task).await,
        }
        if let Some(Lost { connection, reason }) = self.shared.lost.get() {
            return Err(Error::Lost { connection: connection.name(), reason: reason.clone() });
        }
        tokio::select! {
            flushed = timeout(LAST_WORDS_TIMEOUT, self.shared.buses.flush()) => match flushed {
                Ok(flushed) => flushed?,
                Err(_) => warn!("there is no connection to NATS to send the last messages over"),
            },
            () = self.shared.shutdown.force.cancelled() => {}
        }
        info!(instance = %self.shared.instance, "stopped");
        Ok(())
    }

    /// Sends the consumers to other relays, as far as that works, and returns why.
    async fn give_up(&self, task: String) -> Result<(), Error> {
        self.shared.shutdown.drain.cancel();
        self.shared.goaway.cancel();
        let told = async {
            self.shared.registry.emptied().await;
            self.shared.buses.flush().await
        };
        // Whether they heard or not, the relay ends.
        drop(timeout(LAST_WORDS_TIMEOUT, told).await);
        self.shared.shutdown.force.cancel();
        Err(Error::TaskEnded(task))
    }

    /// Returns when the grace is over and there has been no connection for a while: whatever waits for one, to tell its
    /// consumer or to unsubscribe, would wait on.
    async fn cut_off(&self) {
        self.shared.goaway.cancelled().await;
        let mut status = self.shared.data_status.clone();
        while status.wait_for(|status| !status.connected).await.is_ok() {
            let again = timeout(LAST_WORDS_TIMEOUT, status.wait_for(|status| status.connected)).await;
            if again.is_err() {
                return;
            }
        }
        // The bus is gone, and with it all that waits for it.
        std::future::pending().await
    }
}

impl Shared {
    /// Takes note that a request or control message came: as long as the data connection stands, it may only be slow.
    fn see_requests(&self) {
        if self.data_status.borrow().connected {
            self.outbox.see_bus();
        }
    }

    /// Stops the relay, since a connection can't be made again.
    fn lose(&self, connection: buses::Connection, reason: String) {
        self.lost.get_or_init(|| Lost { connection, reason });
        self.shutdown.drain.cancel();
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
    tokio::select! {
        () = shared.registry.emptied() => {}
        () = shared.shutdown.force.cancelled() => {}
        () = tokio::time::sleep(LAST_WORDS_TIMEOUT) => {
            warn!(transfers = shared.registry.len(), "transfers can't tell their consumers: ending them");
            shared.shutdown.force.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_no_more_than_the_memory_budget_has_shares() {
        let of = |transfers_max, budget_mib: u64| {
            let budget = Budget::new(budget_mib << 20);
            Options { transfers_max, transfer_reserve_bytes: 1 << 20, budget, ..Options::default() }.places()
        };
        assert_eq!((of(1000, 512), of(256, 512), of(1, 8)), (512, 256, 1));
        assert_eq!(Options { transfer_reserve_bytes: 0, ..Options::default() }.places(), 1000);
        assert_eq!(Options::default().places(), 341);
    }
}
