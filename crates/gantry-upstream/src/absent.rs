//! The stores that no relay served a short time ago.
//!
//! A relay may be reconnecting, so a client asks for over a second before it concludes that a store does not exist.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use gantry_proto::StoreName;

/// The number of stores that are remembered. Clients choose the names.
const STORES_MAX: usize = 256;

/// The absent stores, each with the reason.
#[derive(Debug)]
pub(crate) struct Absent {
    age_max: Duration,
    stores: Mutex<HashMap<StoreName, (Instant, String)>>,
}

impl Absent {
    pub(crate) fn new(age_max: Duration) -> Self {
        Self { age_max, stores: Mutex::default() }
    }

    /// Returns the reason why a store is absent, if it was a short time ago.
    pub(crate) fn reason(&self, store: &StoreName) -> Option<String> {
        let stores = self.stores();
        let (since, reason) = stores.get(store)?;
        (since.elapsed() < self.age_max).then(|| reason.clone())
    }

    pub(crate) fn note(&self, store: &StoreName, reason: &str) {
        let mut stores = self.stores();

        stores.retain(|_, (since, _)| since.elapsed() < self.age_max);
        if stores.len() < STORES_MAX {
            stores.insert(store.clone(), (Instant::now(), reason.to_owned()));
        }
    }

    fn stores(&self) -> MutexGuard<'_, HashMap<StoreName, (Instant, String)>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
