//! Memory that stores may fill with bytes that nobody has asked for yet.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::crowd::Crowd;

/// A count of bytes that every reader of the process draws from before it reads ahead.
///
/// No reader waits for it: one that gets nothing continues without reading ahead, and then holds no more than the
/// piece that it hands out. Clones share one count.
#[derive(Clone, Debug)]
pub struct Budget {
    kib: Arc<Semaphore>,
    total_kib: usize,
    crowd: Crowd,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// Makes a budget of `bytes`, counted in whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let kib = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { kib: Arc::new(Semaphore::new(kib)), total_kib: kib, crowd: Crowd::default() }
    }

    /// Returns the readers that draw from it.
    #[must_use]
    pub const fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Takes `bytes`, rounded up to whole KiB; `None` when that much is not left.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let permit = Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()?;
        Some(Reservation { _permit: permit })
    }

    /// Returns how many bytes there are in all.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_kib as u64 * 1024
    }

    /// Returns how many bytes are taken.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.available_bytes())
    }

    /// Returns how many bytes are left.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.kib.available_permits() as u64 * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reservation_comes_back() {
        let budget = Budget::new(10 * 1024);
        let held = budget.try_reserve(6 * 1024 + 1).unwrap();
        assert_eq!((budget.available_bytes(), budget.reserved_bytes()), (3 * 1024, 7 * 1024));
        assert!(budget.clone().try_reserve(4 * 1024).is_none());
        drop(held);
        assert!(budget.try_reserve(10 * 1024).is_some());
    }
}
