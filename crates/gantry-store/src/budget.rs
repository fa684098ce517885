//! Memory for bytes that stores read ahead.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::crowd::Crowd;

/// The number of bytes that all readers of the process may read ahead together.
///
/// No reader waits for it. A reader that gets nothing continues without reading ahead, and then holds only the piece that
/// it hands out. Clones share one budget.
#[derive(Clone, Debug)]
pub struct Budget {
    kib: Arc<Semaphore>,
    total_kib: usize,
    crowd: Crowd,
}

/// A share of a [`Budget`], which returns when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// Makes a budget of `bytes`, rounded down to whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let kib = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { kib: Arc::new(Semaphore::new(kib)), total_kib: kib, crowd: Crowd::default() }
    }

    /// Returns the count of the readers that share the budget.
    #[must_use]
    pub const fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Takes `bytes`, rounded up to whole KiB. Returns `None` if fewer are available.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let permit = Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()?;
        Some(Reservation { _permit: permit })
    }

    /// Returns the size of the budget, in bytes.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_kib as u64 * 1024
    }

    /// Returns how many bytes are reserved.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.available_bytes())
    }

    /// Returns how many bytes are available.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.kib.available_permits() as u64 * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reservation_returns_to_the_budget() {
        let budget = Budget::new(10 * 1024);

        let held = budget.try_reserve(6 * 1024 + 1).unwrap();
        assert_eq!((budget.available_bytes(), budget.reserved_bytes()), (3 * 1024, 7 * 1024));
        assert!(budget.clone().try_reserve(4 * 1024).is_none());

        drop(held);
        assert!(budget.try_reserve(10 * 1024).is_some());
    }
}
