//! Where pages of recent listings began.
//!
//! V1 continues a listing after a name, and not every store can begin there. It would have to be read from its start for
//! each page. In a store that does not list names in the order of their bytes, a name says nothing about what was listed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use gantry_proto::StoreName;

use super::wanted::{Start, Wanted};

/// The number of places that are kept, each of at most about 12 KiB.
const PLACES_MAX: usize = 256;

/// Recent places, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<VecDeque<Place>>);

#[derive(Debug)]
struct Place {
    store: StoreName,
    prefix: String,
    is_recursive: bool,
    marker: String,
    start: Start,
}

impl Place {
    fn is(&self, store: &StoreName, wanted: &Wanted, marker: &str) -> bool {
        self.marker == marker
            && self.store == *store
            && self.prefix == wanted.prefix
            && self.is_recursive == wanted.is_recursive
    }
}

impl Places {
    /// Returns the start of the page that continues after a name.
    pub(super) fn find(&self, store: &StoreName, wanted: &Wanted, marker: &str) -> Option<Start> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().rev().find(|place| place.is(store, wanted, marker)).map(|place| place.start.clone())
    }

    /// Keeps where the page that continues after a name begins.
    pub(super) fn note(&self, store: &StoreName, wanted: &Wanted, marker: &str, start: &Start) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place| !place.is(store, wanted, marker));
        if places.len() == PLACES_MAX {
            places.pop_front();
        }

        places.push_back(Place {
            store: store.clone(),
            prefix: wanted.prefix.clone(),
            is_recursive: wanted.is_recursive,
            marker: marker.to_owned(),
            start: start.clone(),
        });
    }
}
