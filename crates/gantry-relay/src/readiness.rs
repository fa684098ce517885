//! Whether the relay can serve, and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

use super::buses::Connection;
use super::{Shared, peers};
use crate::metrics::{ConnectionLabel, RelayMetrics, StoreLabel};
use gantry_bus::{Event, Status};
use gantry_proto::subject::Operation;
use gantry_proto::{StoreName, printable};
use gantry_store::Store;

/// How often the stores are asked for a sign of life.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How often to warn of the same trouble.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// How long a store may take to give one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the relay can serve, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether there is a connection to nats-server that hears requests.
    pub connected: bool,
    /// Whether there is the one that answers them.
    pub data_connected: bool,
    /// Whether the relay is shutting down.
    pub draining: bool,
    /// The subjects without which no object can be had and that nats-server forbids the relay to subscribe to.
    pub denied: BTreeSet<String>,
    /// What is wrong with each store; `None` if it answers.
    pub stores: BTreeMap<StoreName, Option<String>>,
}

impl Readiness {
    /// Returns whether requests can be served: connected twice, not draining, nothing denied, and at least one store answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let connected = self.connected && self.data_connected;
        connected && !self.draining && self.denied.is_empty() && self.stores.values().any(Option::is_none)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_ready() { "ready" } else { "not ready" })?;
        f.write_str(match (self.connected, self.data_connected) {
            (true, true) => "\nnats: connected",
            (false, true) => "\nnats: not connected for requests",
            (true, false) => "\nnats: not connected for data",
            (false, false) => "\nnats: not connected",
        })?;
        if self.draining {
            f.write_str("\ndraining")?;
        }
        for subject in &self.denied {
            write!(f, "\nnats-server forbids to subscribe to {}", printable::text(subject))?;
        }
        for (store, failure) in &self.stores {
            write!(f, "\nstore {store}: {}", failure.as_deref().unwrap_or("ok"))?;
        }
        Ok(())
    }
}

/// Keeps the relay's readiness up to date until a shutdown.
pub(super) async fn watch(shared: Arc<Shared>, events: [broadcast::Receiver<Event>; 2]) {
    // Side by side: a lost connection and a shutdown show at once, however long a store takes to answer.
    let [requests, data] = events;
    let watching = async {
        tokio::join!(
            watch_connection(&shared, Connection::Requests),
            watch_connection(&shared, Connection::Data),
            watch_events(&shared, Connection::Requests, requests),
            watch_events(&shared, Connection::Data, data),
            watch_stores(&shared),
        )
    };
    tokio::select! {
        () = shared.shutdown.drain.cancelled() => {}
        () = shared.shutdown.force.cancelled() => {}
        _ = watching => {}
    }
    shared.metrics.draining.set(1);
    shared.readiness.send_modify(|readiness| readiness.draining = true);
}

async fn watch_connection(shared: &Shared, connection: Connection) {
    let label = ConnectionLabel { connection: connection.name() };
    let (up, reconnects) = (
        shared.metrics.nats_connected.get_or_create_owned(&label),
        shared.metrics.nats_reconnects.get_or_create_owned(&label),
    );
    let mut status = shared.buses.of(connection).status();
    let mut epoch = status.borrow().epoch;
    loop {
        let Status { connected, epoch: now } = *status.borrow_and_update();
        up.set(i64::from(connected));
        reconnects.inc_by(now.saturating_sub(epoch));
        let renewed = now > epoch;
        epoch = epoch.max(now);
        shared.readiness.send_if_modified(|readiness| {
            let shown = match connection {
                Connection::Requests => &mut readiness.connected,
                Connection::Data => &mut readiness.data_connected,
            };
            let changed = *shown != connected || renewed;
            *shown = connected;
            if renewed && connection == Connection::Requests {
                // The server says it again if it still forbids them.
                shared.stores.denied().clear();
                readiness.denied.clear();
            }
            changed
        });
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Reports what nats-server forbids: it does so in passing, and all that follows from it is silence. Stops the relay when
/// the connection is lost for good.
async fn watch_events(shared: &Shared, connection: Connection, mut events: broadcast::Receiver<Event>) {
    let mut warned: Option<Instant> = None;
    let mut is_comparing_denied = false;
    loop {
        let event = events.recv().await;
        if let Ok(Event::PublishDenied(subject) | Event::SubscribeDenied(subject)) = &event
            && event.as_ref().is_ok_and(|event| peers::is_about_comparing(event, &shared.instance))
        {
            if !std::mem::replace(&mut is_comparing_denied, true) {
                peers::note_denied(subject);
            }
            continue;
        }
        count(&shared.metrics, event.as_ref().ok());
        match event {
            Ok(Event::SubscribeDenied(subject)) => {
                error!(subject, "nats-server forbids the relay to subscribe: grant that to its user");
                shared.stores.denied().insert(subject);
                show_denied(shared);
            }
            // There may be one for every chunk.
            Ok(Event::PublishDenied(subject)) if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) => {
                warned = Some(Instant::now());
                warn!(subject, "nats-server forbids the relay to publish there: grant that to its user");
            }
            Ok(Event::SlowConsumer) => warn!("nats-server or the client dropped messages to the relay"),
            Ok(Event::LameDuck) => info!("nats-server is shutting down"),
            Ok(Event::Closed(reason)) => shared.lose(connection, reason),
            Ok(Event::PublishDenied(_)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Shows what is forbidden of what is served now.
pub(super) fn show_denied(shared: &Shared) {
    shared.readiness.send_if_modified(|readiness| {
        let mut denied = shared.stores.denied().clone();
        denied.retain(|subject| is_vital(shared, subject));
        let changed = readiness.denied != denied;
        readiness.denied = denied;
        changed
    });
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

/// Returns whether no object can be had without the subject. A relay may well be forbidden to list.
fn is_vital(shared: &Shared, subject: &str) -> bool {
    let prefix = &shared.options.prefix;
    subject == prefix.controls(&shared.instance)
        || shared.stores.snapshot().keys().any(|store| subject == prefix.request(Operation::Get, store))
}

async fn watch_stores(shared: &Shared) {
    loop {
        let probe_at = Instant::now() + PROBE_INTERVAL;
        probe_stores(shared).await;
        tokio::select! {
            () = shared.probe.notified() => {}
            () = sleep_until(probe_at) => {}
        }
    }
}

async fn probe_stores(shared: &Shared) {
    let probes = shared.stores.snapshot().into_iter().map(|(name, store)| async move {
        let failure = probe(&*store).await.err();
        (name, failure)
    });
    let found: BTreeMap<_, _> = join_all(probes).await.into_iter().collect();
    for (store, failure) in &found {
        let up = shared.metrics.store_up.get_or_create_owned(&StoreLabel { store: store.to_string() });
        up.set(i64::from(failure.is_none()));
    }
    shared.readiness.send_if_modified(|readiness| {
        for (store, failure) in &found {
            match (readiness.stores.get(store), failure) {
                (Some(Some(_)), None) => info!(%store, "the store answers again"),
                (Some(None) | None, Some(failure)) => warn!(%store, failure, "the store does not answer"),
                (Some(None) | None, None) | (Some(Some(_)), Some(_)) => {}
            }
        }
        let changed = readiness.stores != found;
        readiness.stores = found;
        changed
    });
}

/// Asks a store for a sign of life.
///
/// # Errors
/// With the reason, for a person, when it gives none.
pub async fn probe(store: &dyn Store) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, store.probe()).await {
        // It goes into pages and logs line by line, and may hold the store's own words.
        Ok(answer) => answer.map_err(|error| printable::text(&error.to_string()).into_owned()),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}
