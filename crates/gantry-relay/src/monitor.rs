//! Watches the connections and the stores, and reports what affects readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::buses::{Buses, Connection};
use crate::discovery::Service;
use crate::lifetime::Lifetime;
use crate::metrics::{ConnectionLabel, RelayMetrics, StoreLabel};
use crate::peers;
use crate::readiness::Board;
use crate::stores::StoreTable;
use crate::subjects::Subjects;
use gantry_bus::{Event, Status};
use gantry_proto::printable;
use gantry_store::Store;

/// How often the stores are probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum time between two warnings about the same problem.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The time limit for a store's answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Watches the connections and the stores.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) buses: Buses,
    pub(crate) stores: Arc<StoreTable>,
    pub(crate) service: Arc<Service>,
    pub(crate) board: Arc<Board>,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) lifetime: Arc<Lifetime>,
    pub(crate) metrics: Arc<RelayMetrics>,
    /// Requests a probe of the stores now.
    pub(crate) probe: Arc<Notify>,
}

impl Monitor {
    /// Keeps the relay's readiness up to date until a shutdown.
    pub(crate) async fn watch(self, events: [broadcast::Receiver<Event>; 2]) {
        // Concurrently, so that a slow store does not delay the reports of a lost connection or a shutdown.
        let [requests, data] = events;
        let watching = async {
            tokio::join!(
                self.watch_connection(Connection::Requests),
                self.watch_connection(Connection::Data),
                self.watch_events(Connection::Requests, requests),
                self.watch_events(Connection::Data, data),
                self.watch_stores(),
            )
        };

        tokio::select! {
            () = self.lifetime.stopping() => {}
            _ = watching => {}
        }

        self.metrics.draining.set(1);
        self.board.update(|readiness| {
            readiness.draining = true;
            true
        });
    }

    async fn watch_connection(&self, connection: Connection) {
        let label = ConnectionLabel { connection: connection.name() };
        let up = self.metrics.nats_connected.get_or_create_owned(&label);
        let reconnects = self.metrics.nats_reconnects.get_or_create_owned(&label);

        let mut status = self.buses.of(connection).status();
        let mut epoch = status.borrow().epoch;
        loop {
            let Status { connected, epoch: now } = *status.borrow_and_update();
            up.set(i64::from(connected));
            reconnects.inc_by(now.saturating_sub(epoch));
            let is_renewed = now > epoch;
            epoch = epoch.max(now);

            self.show_connection(connection, connected, is_renewed);
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    fn show_connection(&self, connection: Connection, connected: bool, is_renewed: bool) {
        if connection == Connection::Requests && (is_renewed || !connected) {
            self.service.note_gap();
        }

        self.board.update(|readiness| {
            let shown = match connection {
                Connection::Requests => &mut readiness.connected,
                Connection::Data => &mut readiness.data_connected,
            };
            let is_changed = *shown != connected || is_renewed;
            *shown = connected;

            if is_renewed && connection == Connection::Requests {
                self.board.forget_denied(readiness);
            }
            is_changed
        });
    }

    /// Reports what nats-server denies: the server reports it only once, and afterwards messages are just missing.
    /// Stops the relay if the connection is lost permanently.
    async fn watch_events(&self, connection: Connection, mut events: broadcast::Receiver<Event>) {
        let mut warned_at: Option<Instant> = None;
        let mut is_comparing_denied = false;
        loop {
            let event = events.recv().await;
            if let Ok(Event::PublishDenied(subject) | Event::SubscribeDenied(subject)) = &event
                && event.as_ref().is_ok_and(|event| peers::is_about_comparing(event, self.subjects.instance()))
            {
                if !std::mem::replace(&mut is_comparing_denied, true) {
                    peers::note_denied(subject);
                }
                continue;
            }

            count(&self.metrics, event.as_ref().ok());
            match event {
                Ok(Event::SubscribeDenied(subject)) => {
                    error!(subject, "nats-server forbids the relay to subscribe: grant that to its user");
                    self.board.denied().insert(subject);
                    self.board.show_denied(&self.stores.names());
                }
                // There may be one for every chunk.
                Ok(Event::PublishDenied(subject)) if warned_at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) => {
                    warned_at = Some(Instant::now());
                    warn!(subject, "nats-server forbids the relay to publish there: grant that to its user");
                }
                Ok(Event::SlowConsumer) => warn!("nats-server or the client dropped messages to the relay"),
                Ok(Event::LameDuck) => info!("nats-server is shutting down"),
                Ok(Event::Closed(reason)) => self.lifetime.lose(connection, reason),
                Ok(Event::PublishDenied(_)) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn watch_stores(&self) {
        loop {
            let probe_at = Instant::now() + PROBE_INTERVAL;
            self.probe_stores().await;
            tokio::select! {
                () = self.probe.notified() => {}
                () = sleep_until(probe_at) => {}
            }
        }
    }

    async fn probe_stores(&self) {
        let probes = self.stores.snapshot().into_iter().map(|(name, store)| async move {
            let failure = probe(&*store).await.err();
            (name, failure)
        });
        let found: BTreeMap<_, _> = join_all(probes).await.into_iter().collect();

        for (store, failure) in &found {
            let up = self.metrics.store_up.get_or_create_owned(&StoreLabel { store: store.to_string() });
            up.set(i64::from(failure.is_none()));
        }

        self.board.update(|readiness| {
            for (store, failure) in &found {
                match (readiness.stores.get(store), failure) {
                    (Some(Some(_)), None) => info!(%store, "the store answers again"),
                    (Some(None) | None, Some(failure)) => warn!(%store, failure, "the store does not answer"),
                    (Some(None) | None, None) | (Some(Some(_)), Some(_)) => {}
                }
            }
            let is_changed = readiness.stores != found;
            readiness.stores = found;
            is_changed
        });
    }
}

fn count(metrics: &RelayMetrics, event: Option<&Event>) {
    match event {
        Some(Event::PublishDenied(_)) => metrics.deny("publish"),
        Some(Event::SubscribeDenied(_)) => metrics.deny("subscribe"),
        Some(Event::SlowConsumer) => {
            metrics.nats_slow.inc();
        }
        Some(Event::LameDuck | Event::Closed(_)) | None => {}
    }
}

/// Checks whether a store answers.
///
/// # Errors
/// If the store does not answer, with the reason as text for users.
///
/// # Cancel safety
/// Nothing is lost if the future is dropped before it is ready.
pub async fn probe(store: &dyn Store) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, store.probe()).await {
        // The reason appears in pages and logs line by line, and may contain text from the store.
        Ok(answer) => answer.map_err(|error| printable::text(&error.to_string()).into_owned()),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}
