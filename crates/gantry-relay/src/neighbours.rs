//! The stores that other relays have served lately.
//!
//! A consumer that finds no relay for a store asks the others. If one of them knows that the store was served a short time
//! ago, its relay is probably restarting, and the consumer should try again later. Otherwise there is no such store.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use gantry_proto::StoreName;

/// How long a store is remembered after its relay was last heard. Relays are heard about once a minute.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// The maximum number of remembered stores. Any client that may ask relays for their description can name stores.
const STORES_MAX: usize = 1000;

/// The stores that other relays have served lately.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<BTreeMap<StoreName, Instant>>);

impl Neighbours {
    /// Records that another relay currently serves these stores.
    pub(crate) fn note(&self, stores: impl IntoIterator<Item = StoreName>) {
        let now = Instant::now();
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| now.duration_since(*at) < REMEMBERED);

        for store in stores {
            if heard.len() < STORES_MAX || heard.contains_key(&store) {
                heard.insert(store, now);
            }
        }
    }

    /// Returns whether another relay has served the store lately.
    pub(crate) fn has_served(&self, store: &StoreName) -> bool {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(store).is_some_and(|at| at.elapsed() < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stores_are_remembered_for_15_minutes_and_in_limited_number() {
        let neighbours = Neighbours::default();
        let store = |n: usize| -> StoreName { format!("s{n}").parse().unwrap() };
        neighbours.note((0..STORES_MAX + 1).map(store));
        assert!(neighbours.has_served(&store(0)));
        assert!(!neighbours.has_served(&store(STORES_MAX)));

        advance(REMEMBERED).await;
        assert!(!neighbours.has_served(&store(0)));
        neighbours.note([store(STORES_MAX)]);
        assert!(neighbours.has_served(&store(STORES_MAX)));
    }
}
