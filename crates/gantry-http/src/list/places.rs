//! Where pages of recent listings began.
//!
//! V1 continues a listing after a name, and not every store can begin there. It would have to be read from its start for
//! each page.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use gantry_proto::StoreName;

use super::wanted::Wanted;

/// The number of places that are kept, each of at most about 11 KiB.
const PLACES_MAX: usize = 256;

/// Recent places, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<VecDeque<Place>>);

#[derive(Debug)]
struct Place {
    store: StoreName,
    prefix: String,
    is_recursive: bool,
    after: String,
    token: String,
}

impl Place {
    fn is(&self, store: &StoreName, wanted: &Wanted, after: &str) -> bool {
        self.after == after
            && self.store == *store
            && self.prefix == wanted.prefix
            && self.is_recursive == wanted.is_recursive
    }
}

impl Places {
    /// Returns the store's token of the page after a name.
    pub(super) fn find(&self, store: &StoreName, wanted: &Wanted, after: &str) -> Option<String> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().rev().find(|place| place.is(store, wanted, after)).map(|place| place.token.clone())
    }

    /// Keeps the token of the page after a name.
    pub(super) fn note(&self, store: &StoreName, wanted: &Wanted, after: &str, token: &str) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place| !place.is(store, wanted, after));
        if places.len() == PLACES_MAX {
            places.pop_front();
        }

        places.push_back(Place {
            store: store.clone(),
            prefix: wanted.prefix.clone(),
            is_recursive: wanted.is_recursive,
            after: after.to_owned(),
            token: token.to_owned(),
        });
    }
}
