//! Whether the relay can serve, and why not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Shared;
use crate::proto::StoreName;

/// How often the stores are asked for a sign of life.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a store may take to give one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the relay can serve, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether there is a connection to nats-server.
    pub connected: bool,
    /// Whether the relay is shutting down.
    pub draining: bool,
    /// What is wrong with each store; `None` if it answers.
    pub stores: BTreeMap<StoreName, Option<String>>,
}

impl Readiness {
    /// Returns whether requests can be served: connected, not draining, and at least one store answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.connected && !self.draining && self.stores.values().any(Option::is_none)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_ready() { "ready" } else { "not ready" })?;
        write!(f, "\nnats: {}", if self.connected { "connected" } else { "not connected" })?;
        if self.draining {
            f.write_str("\ndraining")?;
        }
        for (store, failure) in &self.stores {
            write!(f, "\nstore {store}: {}", failure.as_deref().unwrap_or("ok"))?;
        }
        Ok(())
    }
}

/// Keeps the relay's readiness up to date until a shutdown.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut status = shared.bus.status();
    let mut probe_at = Instant::now();
    loop {
        let connected = status.borrow_and_update().connected;
        shared.readiness.send_if_modified(|readiness| {
            let changed = readiness.connected != connected;
            readiness.connected = connected;
            changed
        });
        tokio::select! {
            () = shared.shutdown.drain.cancelled() => break,
            () = shared.shutdown.force.cancelled() => break,
            Ok(()) = status.changed() => {}
            () = tokio::time::sleep_until(probe_at) => {
                probe_stores(&shared).await;
                probe_at = Instant::now() + PROBE_INTERVAL;
            }
        }
    }
    shared.readiness.send_modify(|readiness| readiness.draining = true);
}

async fn probe_stores(shared: &Shared) {
    let probes = shared.stores.iter().map(|(name, store)| async move {
        let failure = match timeout(PROBE_TIMEOUT, store.probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
        };
        (name.clone(), failure)
    });
    let found: BTreeMap<_, _> = join_all(probes).await.into_iter().collect();
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
