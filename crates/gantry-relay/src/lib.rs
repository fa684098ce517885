//! The relay: answers requests on the bus and streams objects to the consumers that requested them.
//!
//! [`Relay::start`] subscribes. Every request and transfer runs as a task on one tracker. [`Relay::wait`] returns when all
//! of them have ended after a shutdown.

mod active;
mod admission;
mod buses;
mod caution;
mod control;
mod discovery;
mod error;
mod lifetime;
pub mod metrics;
mod monitor;
mod neighbours;
mod options;
mod outbox;
mod pacer;
mod page;
mod peers;
mod readiness;
mod registry;
mod requester;
mod requests;
pub mod shutdown;
mod stores;
mod subjects;
mod throttle;
mod transfer;
mod waits;

pub use self::active::ActiveTransfer;
pub use self::buses::Buses;
pub use self::discovery::subjects as service_subjects;
pub use self::error::Error;
pub use self::monitor::probe;
pub use self::options::Options;
pub use self::readiness::Readiness;
pub use self::registry::ActiveTransfers;
pub use self::stores::{Replaced, Stores};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use self::buses::Connection;
use self::caution::Caution;
use self::control::Dispatcher;
use self::discovery::{Answers, Service};
use self::lifetime::{Lifetime, Lost};
use self::metrics::RelayMetrics;
use self::monitor::Monitor;
use self::outbox::Outbox;
use self::peers::Comparison;
use self::readiness::Board;
use self::registry::Registry;
use self::requester::Answering;
use self::requests::Requests;
use self::shutdown::Shutdown;
use self::stores::StoreTable;
use self::subjects::Subjects;
use self::throttle::Throttle;

/// The time limit for sending a relay's last messages. Without a connection they are never sent.
const LAST_MESSAGES_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum number of answers to probes that wait for the bus. Further probes remain unanswered.
const PROBE_ANSWERS_MAX: usize = 64;

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    buses: Buses,
    subjects: Arc<Subjects>,
    registry: Arc<Registry>,
    stores: Arc<StoreTable>,
    board: Arc<Board>,
    lifetime: Arc<Lifetime>,
    /// Requests a probe of the stores now.
    probe: Arc<Notify>,
}

impl Relay {
    /// Subscribes and starts to serve.
    ///
    /// # Errors
    /// [`Error::NoStore`] if there is no store, [`Error::Bus`] if the bus refuses a subscription.
    ///
    /// # Cancel safety
    /// Not cancel-safe: tasks that have been started keep running until `shutdown`.
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
        metrics.transfers_max.set(options.places());

        let parts = Parts::new(buses.into(), options, metrics, shutdown);
        let store_table = parts.store_table();
        let relay = parts.start(store_table, stores).await?;
        Ok(relay)
    }

    /// Returns the service id.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.subjects.instance()
    }

    /// Returns the number of transfers in progress.
    #[must_use]
    pub fn transfers_active(&self) -> usize {
        self.registry.len()
    }

    /// Returns a view of the transfers in progress.
    #[must_use]
    pub fn active_transfers(&self) -> ActiveTransfers {
        self.registry.view()
    }

    /// Watches whether the relay can serve.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.board.subscribe()
    }

    /// Serves exactly these `stores` from now on. Running transfers keep the stores they started with. A store that is
    /// in both sets is replaced between two requests.
    ///
    /// # Errors
    /// [`Error::NoStore`] if there is no store, [`Error::Bus`] if the bus refuses a subscription. Then the relay keeps
    /// serving the previous stores.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, either all stores or none have been replaced.
    pub async fn replace_stores(&self, stores: Stores) -> Result<Replaced, Error> {
        let replaced = self.stores.replace(stores).await?;
        self.buses.requests.flush().await?;
        self.probe.notify_one();
        Ok(replaced)
    }

    /// Waits until a shutdown was requested and every transfer has ended.
    ///
    /// # Errors
    /// - [`Error::Bus`] if the last messages could not be sent.
    /// - [`Error::Lost`] if a connection can't be restored.
    /// - [`Error::TaskEnded`] if a task that the relay needs has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready: call it again.
    pub async fn wait(&self) -> Result<(), Error> {
        tokio::select! {
            () = self.lifetime.tasks.wait() => {}
            () = self.cut_off() => {
                warn!("there is no connection to NATS: ending the tasks that wait for it");
                self.lifetime.shutdown.force.cancel();
            }
            task = self.lifetime.broken() => return self.abandon(task).await,
        }

        self.lost()?;
        tokio::select! {
            flushed = timeout(LAST_MESSAGES_TIMEOUT, self.buses.flush()) => match flushed {
                Ok(flushed) => flushed?,
                Err(_) => warn!("the last messages could not be sent: there is no connection to NATS"),
            },
            () = self.lifetime.shutdown.force.cancelled() => {}
        }
        info!(instance = self.instance(), "stopped");
        Ok(())
    }

    /// Returns an error if a connection can't be restored.
    fn lost(&self) -> Result<(), Error> {
        match self.lifetime.lost() {
            Some(Lost { connection, reason }) => {
                Err(Error::Lost { connection: connection.name(), reason: reason.clone() })
            }
            None => Ok(()),
        }
    }

    /// Sends the consumers to other relays if possible, and returns why the relay ends: a lost connection if that made
    /// the task end, otherwise the task.
    async fn abandon(&self, task: String) -> Result<(), Error> {
        self.lifetime.shutdown.drain.cancel();
        self.lifetime.goaway.cancel();

        let ending = async {
            self.registry.emptied().await;
            self.buses.flush().await
        };
        // The relay ends whether or not the consumers were notified.
        drop(timeout(LAST_MESSAGES_TIMEOUT, ending).await);

        self.lifetime.shutdown.force.cancel();
        self.lost().and(Err(Error::TaskEnded(task)))
    }

    /// Returns once the grace period is over and the connection has been down for a while. Tasks that need the
    /// connection to notify a consumer or to unsubscribe would wait forever.
    async fn cut_off(&self) {
        self.lifetime.goaway.cancelled().await;

        let mut status = self.buses.data.status();
        while status.wait_for(|status| !status.connected).await.is_ok() {
            let restored = timeout(LAST_MESSAGES_TIMEOUT, status.wait_for(|status| status.connected)).await;
            if restored.is_err() {
                return;
            }
        }
        // The bus is gone, and so is every task that waits for it.
        std::future::pending().await
    }
}

/// The parts of a relay, before it starts.
struct Parts {
    buses: Buses,
    options: Arc<Options>,
    subjects: Arc<Subjects>,
    service: Arc<Service>,
    registry: Arc<Registry>,
    board: Arc<Board>,
    lifetime: Arc<Lifetime>,
    outbox: Arc<Outbox>,
    metrics: Arc<RelayMetrics>,
    throttle: Arc<Throttle>,
}

impl Parts {
    fn new(buses: Buses, options: Options, metrics: Arc<RelayMetrics>, shutdown: Shutdown) -> Self {
        let options = Arc::new(options);
        let subjects = Arc::new(Subjects::new(options.prefix.clone()));
        let lifetime = Arc::new(Lifetime::new(shutdown));
        let throttle = Arc::new(Throttle::default());
        let registry = Arc::new(Registry::new(metrics.transfers_active.clone()));
        let outbox =
            Outbox::new(Arc::clone(&buses.data), options.idle_timeout, Arc::clone(&lifetime), Arc::clone(&throttle));

        Self {
            service: Arc::new(Service::new(subjects.instance(), &options, Arc::clone(&registry))),
            registry,
            board: Arc::new(Board::new(Arc::clone(&subjects))),
            outbox: Arc::new(outbox),
            buses,
            options,
            subjects,
            lifetime,
            metrics,
            throttle,
        }
    }

    /// Creates a table without stores, and the handler of their requests.
    fn store_table(&self) -> Arc<StoreTable> {
        let answering = Answering {
            outbox: Arc::clone(&self.outbox),
            service: Arc::clone(&self.service),
            metrics: Arc::clone(&self.metrics),
            throttle: Arc::clone(&self.throttle),
        };
        let transfers = transfer::Context {
            host: self.service.host().to_owned(),
            options: Arc::clone(&self.options),
            subjects: Arc::clone(&self.subjects),
            outbox: Arc::clone(&self.outbox),
            lifetime: Arc::clone(&self.lifetime),
            metrics: Arc::clone(&self.metrics),
            throttle: Arc::clone(&self.throttle),
            caution: Caution::default(),
        };
        let requests = Requests::new(
            Arc::clone(&self.options),
            Arc::clone(&self.registry),
            Arc::clone(&self.lifetime),
            Arc::new(answering),
            Arc::new(transfers),
        );

        Arc::new(StoreTable::new(stores::Context {
            bus: Arc::clone(&self.buses.requests),
            requests: Arc::new(requests),
            service: Arc::clone(&self.service),
            board: Arc::clone(&self.board),
            subjects: Arc::clone(&self.subjects),
            lifetime: Arc::clone(&self.lifetime),
            metrics: Arc::clone(&self.metrics),
        }))
    }

    /// Subscribes, and starts every task.
    async fn start(self, table: Arc<StoreTable>, stores: Stores) -> Result<Relay, Error> {
        let events = Connection::ALL.map(|connection| self.buses.of(connection).events());
        let dispatcher = Dispatcher {
            registry: Arc::clone(&self.registry),
            outbox: Arc::clone(&self.outbox),
            lifetime: Arc::clone(&self.lifetime),
            metrics: Arc::clone(&self.metrics),
            throttle: Arc::clone(&self.throttle),
            delivery_allow: self.options.delivery_allow.clone(),
            answers: Arc::new(Semaphore::new(PROBE_ANSWERS_MAX)),
        };
        dispatcher.start(&self.buses, &self.subjects).await?;
        self.answer_service_questions().await?;
        let served = table.replace(stores).await?;

        let probe = Arc::new(Notify::new());
        self.watch(&table, &probe, events);
        let draining = drain(Arc::clone(&self.lifetime), Arc::clone(&self.registry), self.options.drain_grace);
        self.lifetime.spawn_vital("drain", None, draining);
        self.buses.flush().await?;

        let host = self.service.host();
        info!(instance = self.subjects.instance(), host, prefix = %self.options.prefix, stores = served.added.len(), "serving");
        let Self { buses, subjects, registry, board, lifetime, .. } = self;
        Ok(Relay { buses, subjects, registry, stores: table, board, lifetime, probe })
    }

    async fn answer_service_questions(&self) -> Result<(), Error> {
        let answers = Arc::new(Answers {
            service: Arc::clone(&self.service),
            data: Arc::clone(&self.buses.data),
            delivery_allow: self.options.delivery_allow.clone(),
            lifetime: Arc::clone(&self.lifetime),
            metrics: Arc::clone(&self.metrics),
            throttle: Arc::clone(&self.throttle),
        });

        for subject in self.service.subjects() {
            let questions = self.buses.requests.subscribe(&subject, None).await?;
            self.lifetime.spawn_vital("service", None, Arc::clone(&answers).answer(questions));
        }
        Ok(())
    }

    /// Starts the tasks that watch the connections, the stores, the log and other relays.
    fn watch(
        &self,
        table: &Arc<StoreTable>,
        probe: &Arc<Notify>,
        events: [tokio::sync::broadcast::Receiver<gantry_bus::Event>; 2],
    ) {
        let monitor = Monitor {
            buses: self.buses.clone(),
            stores: Arc::clone(table),
            service: Arc::clone(&self.service),
            board: Arc::clone(&self.board),
            subjects: Arc::clone(&self.subjects),
            lifetime: Arc::clone(&self.lifetime),
            metrics: Arc::clone(&self.metrics),
            probe: Arc::clone(probe),
        };
        self.lifetime.spawn_vital("health", None, monitor.watch(events));

        let reporting = throttle::report(Arc::clone(&self.throttle), Arc::clone(&self.lifetime));
        self.lifetime.spawn_vital("log", None, reporting);

        let comparison = Comparison {
            bus: Arc::clone(&self.buses.requests),
            stores: Arc::clone(table),
            service: Arc::clone(&self.service),
            subjects: Arc::clone(&self.subjects),
            lifetime: Arc::clone(&self.lifetime),
            metrics: Arc::clone(&self.metrics),
        };
        // Not vital: it only compares.
        self.lifetime.tasks.spawn(comparison.run());
    }
}

/// Ends the relay's transfers and queries after the grace period of a shutdown, and lets the tracker close.
async fn drain(lifetime: Arc<Lifetime>, registry: Arc<Registry>, grace: Duration) {
    lifetime.stopping().await;
    info!(
        transfers = registry.len(),
        queries = registry.queries(),
        ?grace,
        "draining: a second signal ends all transfers"
    );
    lifetime.tasks.close();

    tokio::select! {
        () = lifetime.shutdown.force.cancelled() => {}
        () = tokio::time::sleep(grace) => {}
        () = registry.emptied() => {}
        never = report_drain(&registry, grace) => match never {},
    }
    match registry.len() {
        0 => info!("all transfers have ended"),
        transfers => info!(transfers, "sending the consumers to other relays"),
    }
    lifetime.goaway.cancel();

    tokio::select! {
        () = registry.emptied() => {}
        () = lifetime.shutdown.force.cancelled() => {}
        () = tokio::time::sleep(LAST_MESSAGES_TIMEOUT) => {
            warn!(transfers = registry.len(), "transfers can't notify their consumers: ending them");
            lifetime.shutdown.force.cancel();
        }
    }
}

/// Logs what a drain waits for, ten times in its grace but at most once a second.
async fn report_drain(registry: &Registry, grace: Duration) -> std::convert::Infallible {
    let interval = (grace / 10).max(Duration::from_secs(1));
    let mut left = grace;
    loop {
        tokio::time::sleep(interval).await;
        left = left.saturating_sub(interval);
        info!(transfers = registry.len(), queries = registry.queries(), ?left, "still draining");
    }
}
