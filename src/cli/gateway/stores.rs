//! The stores that a connection to NATS may read.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use gantry_bus::Bus;
use gantry_http::Stores;
use gantry_proto::StoreName;
use gantry_proto::subject::Prefix;
use gantry_relay as relay;
use gantry_store::{Error, Store};
use gantry_upstream::Relays;

use crate::cli::survey::{self, Failed};

/// The stores of all relays with one prefix.
///
/// A store need not be found before it is read: whether it exists shows when a relay is asked for it.
#[derive(Debug)]
pub(super) struct Reachable {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) prefix: Prefix,
    pub(super) relays: Relays,
}

impl Stores for Reachable {
    fn names(&self) -> BoxFuture<'_, Result<Vec<StoreName>, Error>> {
        async move {
            let found = survey::stores(&*self.bus, &self.prefix, "").await.map_err(failed)?;
            Ok(found.iter().filter_map(|name| name.parse().ok()).collect())
        }
        .boxed()
    }

    fn store<'a>(&'a self, name: &'a StoreName) -> BoxFuture<'a, Result<Option<Arc<dyn Store>>, Error>> {
        let store: Arc<dyn Store> = Arc::new(self.relays.store(name.clone()));
        ready(Ok(Some(store))).boxed()
    }
}

/// The stores of relays once there is a connection to NATS. Until then, all of them are unavailable.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    reachable: OnceLock<Reachable>,
    /// Why there is no connection yet.
    problem: Mutex<Option<String>>,
}

impl Awaited {
    /// Serves these stores from now on.
    pub(super) fn connected(&self, reachable: Reachable) {
        self.reachable.get_or_init(|| reachable);
    }

    /// Records why there is no connection yet.
    pub(super) fn not_yet(&self, problem: String) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
    }

    fn reachable(&self) -> Result<&Reachable, Error> {
        self.reachable.get().ok_or_else(|| {
            let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
            Error::unavailable(format!("no connection to nats-server yet{reason}"))
        })
    }
}

impl Stores for Awaited {
    fn names(&self) -> BoxFuture<'_, Result<Vec<StoreName>, Error>> {
        match self.reachable() {
            Ok(reachable) => reachable.names(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn store<'a>(&'a self, name: &'a StoreName) -> BoxFuture<'a, Result<Option<Arc<dyn Store>>, Error>> {
        match self.reachable() {
            Ok(reachable) => reachable.store(name),
            Err(error) => ready(Err(error)).boxed(),
        }
    }
}

/// The stores that a relay serves itself. Clones share them.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Served(Arc<Mutex<relay::Stores>>);

impl Served {
    pub(in crate::cli) fn new(stores: relay::Stores) -> Self {
        Self(Arc::new(Mutex::new(stores)))
    }

    /// Serves exactly these stores from now on. Running responses keep theirs.
    pub(in crate::cli) fn replace(&self, stores: relay::Stores) {
        *self.stores() = stores;
    }

    fn stores(&self) -> MutexGuard<'_, relay::Stores> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stores for Served {
    fn names(&self) -> BoxFuture<'_, Result<Vec<StoreName>, Error>> {
        ready(Ok(self.stores().keys().cloned().collect())).boxed()
    }

    fn store<'a>(&'a self, name: &'a StoreName) -> BoxFuture<'a, Result<Option<Arc<dyn Store>>, Error>> {
        ready(Ok(self.stores().get(name).cloned())).boxed()
    }
}

fn failed(failed: Failed) -> Error {
    match failed {
        Failed::Denied(what) => Error::Denied(format!("nats-server denies {what}")),
        Failed::Bus(error) => Error::unavailable(error.to_string()),
    }
}
