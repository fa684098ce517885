//! How much may run at once, and each store's share of it.
//!
//! Requests to a store that does not answer keep their places until its timeouts end them. Each store therefore has a
//! share of all places that no other store can take.

use gantry_store::Budget;
use gantry_store::budget::Reservation;
use gantry_store::shares::{Permit, Share, Shares};

use crate::options::Options;
use gantry_proto::{Code, WireError};

/// Maximum number of `stat` and `list` requests served at once. Above it, the relay answers `busy`.
const QUERIES_MAX: u64 = 64;

/// How long a consumer should wait when the relay is at a limit.
const BUSY_RETRY_MS: u64 = 500;

/// The limits of a relay, which all its stores share.
#[derive(Debug)]
pub(crate) struct Limits {
    transfers: Shares,
    queries: Shares,
    budget: Budget,
    transfer_bytes: u64,
}

impl Limits {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            transfers: Shares::new(options.transfers_max as u64, 1),
            queries: Shares::new(QUERIES_MAX, 1),
            budget: options.budget.clone(),
            transfer_bytes: options.transfer_reserve_bytes,
        }
    }

    /// Returns the share of a store. It is released when dropped.
    pub(crate) fn of_store(&self, name: &str) -> StoreLimits {
        StoreLimits {
            transfers: self.transfers.of_store(name),
            queries: self.queries.of_store(name),
            budget: self.budget.of_store(name),
            transfer_bytes: self.transfer_bytes,
        }
    }
}

/// The share of one store.
#[derive(Debug)]
pub(crate) struct StoreLimits {
    transfers: Share,
    queries: Share,
    budget: Budget,
    transfer_bytes: u64,
}

/// A transfer's place. It is released when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _transfer: Permit,
    _memory: Reservation,
}

impl StoreLimits {
    /// Takes a place for a transfer.
    ///
    /// # Errors
    /// The refusal, if the relay is at a limit.
    pub(crate) fn admit_transfer(&self) -> Result<Place, WireError> {
        let transfer = self.transfers.try_take(1).ok_or_else(|| {
            let total = self.transfers.shares().total();
            busy(format!("this store's share of the relay's {total} transfers is taken"))
        })?;
        let memory = self.budget.try_admit(self.transfer_bytes);
        let memory = memory.ok_or_else(|| busy("this store's share of the relay's memory budget is used up"))?;

        Ok(Place { _transfer: transfer, _memory: memory })
    }

    /// Takes a place for a `stat` or `list`.
    ///
    /// # Errors
    /// The refusal, if the relay is at its limit.
    pub(crate) fn admit_query(&self) -> Result<Permit, WireError> {
        self.queries.try_take(1).ok_or_else(|| busy("too many requests at once"))
    }
}

fn busy(message: impl Into<String>) -> WireError {
    WireError::new(Code::Busy, message).with_retry_after_ms(BUSY_RETRY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_at_its_limit_does_not_use_another_stores_places() {
        let options = Options { transfers_max: 8, ..Options::default() };
        let limits = Limits::new(&options);
        let [silent, other] = ["silent", "other"].map(|name| limits.of_store(name));

        let transfers: Vec<_> = std::iter::from_fn(|| silent.admit_transfer().ok()).collect();
        let queries: Vec<_> = std::iter::from_fn(|| silent.admit_query().ok()).collect();
        assert_eq!((transfers.len(), queries.len()), (6, 48));
        assert_eq!(silent.admit_transfer().unwrap_err().code, Code::Busy);

        let places: Vec<_> = std::iter::from_fn(|| other.admit_transfer().ok()).collect();
        assert_eq!(places.len(), 2);
        assert!(other.admit_query().is_ok());
    }
}
