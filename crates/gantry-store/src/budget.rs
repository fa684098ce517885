//! Memory for the bytes of transfers, and for what stores read ahead.
//!
//! Admission and read-ahead have separate budgets. One half of the memory is only for the places of transfers, so that
//! read-ahead can't keep a request from being served. The other half is for read-ahead, and for further transfers. In
//! both halves each store has its own share.
//!
//! Bytes that are kept for other consumers use what is left of both halves. Their holders discard them for transfers. For
//! read-ahead they discard what is idle, and whatever is in the way of a part that is guaranteed to another store.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::crowd::Crowd;
use crate::shares::{Permit, Share, Shares};

/// The memory that one transfer needs, in bytes.
///
/// It covers the pieces that the transfer holds, the read buffers behind them, and the overhead of the allocator. With 512
/// active transfers it was measured as 1.2 MiB each from S3 and 1.4 MiB from a directory.
pub const PLACE_BYTES: u64 = 1536 * 1024;

/// How long kept bytes must have been unused before read-ahead may take their memory. While a fleet reads an object, each
/// of its blocks is used again much sooner.
const KEPT_IDLE: Duration = Duration::from_millis(1500);

/// The part of the budget that kept bytes leave to read-ahead, as a divisor. With a budget of 512 MiB, it is enough for one
/// object in S3: four ranges of 8 MiB, and the buffers behind their pieces.
const AHEAD_DIVISOR: u64 = 8;

/// Holds memory of a [`Budget`] that it can return at any time.
pub trait Holder: fmt::Debug + Send + Sync {
    /// Returns at least `bytes` to the budget, if that much has been unused for `idle`. Must not reserve memory.
    fn give_back(&self, bytes: u64, idle: Duration);
}

/// The memory for object bytes of all transfers and readers of the process. Clones share one budget.
///
/// No reader waits for memory. A reader that gets none continues without read-ahead, and then holds only the piece that
/// it returns.
#[derive(Clone, Debug)]
pub struct Budget {
    /// For places only.
    places: Share,
    /// For read-ahead, and for places once the first half is used up.
    common: Share,
    /// For kept bytes, which are taken from what is left.
    kept: Share,
    holders: Arc<Mutex<Vec<HolderOf>>>,
    store: Option<Arc<str>>,
    crowd: Crowd,
}

/// A holder, and its store.
#[derive(Clone, Debug)]
struct HolderOf {
    store: Option<Arc<str>>,
    holder: Weak<dyn Holder>,
}

/// A reserved part of a [`Budget`]. It is returned when dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: Permit,
}

impl Reservation {
    /// Returns what exceeds `bytes` to the budget.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.permit.shrink_to(bytes);
    }
}

impl Budget {
    /// Creates a budget of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let half = bytes / 2;
        let for_places = half - half % PLACE_BYTES;

        Self {
            places: Shares::new(for_places, PLACE_BYTES).of_nobody(),
            common: Shares::new(bytes - for_places, 1).of_nobody(),
            kept: Shares::new(bytes, 1).of_nobody(),
            holders: Arc::default(),
            store: None,
            crowd: Crowd::default(),
        }
    }

    /// Returns the share of the store with this name. It is a part of the same budget.
    #[must_use]
    pub fn of_store(&self, name: &str) -> Self {
        Self {
            places: self.places.shares().of_store(name),
            common: self.common.shares().of_store(name),
            kept: self.kept.shares().of_store(name),
            holders: Arc::clone(&self.holders),
            store: Some(Arc::from(name)),
            crowd: self.crowd.clone(),
        }
    }

    /// Returns the count of the readers that share the budget.
    #[must_use]
    pub const fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Takes `bytes` for a place of a transfer. Returns `None` if fewer are available, even without kept bytes.
    #[must_use]
    pub fn try_admit(&self, bytes: u64) -> Option<Reservation> {
        let permit = self.places.try_take(bytes).or_else(|| self.common.try_take(bytes))?;
        self.displace(0, |_| true);
        Some(Reservation { permit })
    }

    /// Takes `bytes` for reading ahead. Returns `None` if fewer are available, even without kept bytes that must give way.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let is_guaranteed = self.common.guarantees(bytes);
        // Nothing is taken before there is room: meanwhile, a holder would discard its blocks in favour of new ones.
        if !self.displace(bytes, |store| is_guaranteed && *store != self.store) {
            return None;
        }
        let permit = self.common.try_take(bytes)?;
        (self.reserved_bytes() <= self.total_bytes()).then_some(Reservation { permit })
    }

    /// Takes `bytes` for what a [`Holder`] keeps. Returns `None` if fewer are left.
    #[must_use]
    pub fn try_keep(&self, bytes: u64) -> Option<Reservation> {
        // Taken before the look at the whole: of two that take the last bytes at the same time, one or both see it.
        let permit = self.kept.try_take(bytes)?;
        let ahead = self.total_bytes() / AHEAD_DIVISOR;
        let in_use = self.common.shares().taken().min(ahead);
        (self.reserved_bytes() + (ahead - in_use) <= self.total_bytes()).then_some(Reservation { permit })
    }

    /// Lets the budget ask `holder` for memory, as long as it exists.
    pub fn add_holder(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|other| other.holder.strong_count() > 0);
        holders.push(HolderOf { store: self.store.clone(), holder });
    }

    /// Discards kept bytes until `bytes` fit in addition to all that is reserved: first those that are idle, then others of
    /// the stores that must give way. Returns whether they fit.
    fn displace(&self, bytes: u64, must_give_way: impl Fn(&Option<Arc<str>>) -> bool) -> bool {
        let lacking = || (self.reserved_bytes() + bytes).saturating_sub(self.total_bytes());
        if lacking() == 0 {
            return true;
        }

        // Holders have locks of their own, which must not be taken within this one.
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for idle in [KEPT_IDLE, Duration::ZERO] {
            let asked = holders.iter().filter(|holder| !idle.is_zero() || must_give_way(&holder.store));
            for holder in asked.filter_map(|asked| asked.holder.upgrade()) {
                holder.give_back(lacking(), idle);
                if lacking() == 0 {
                    return true;
                }
            }
        }
        false
    }

    /// Returns how many places of `bytes` fit, or `None` if they need no memory.
    #[must_use]
    pub fn places(&self, bytes: u64) -> Option<u64> {
        let in_half = |half: &Share| half.shares().total().checked_div(bytes);
        Some(in_half(&self.places)? + in_half(&self.common)?)
    }

    /// Returns the size of the budget, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.places.shares().total() + self.common.shares().total()
    }

    /// Returns how many bytes are reserved.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        [&self.places, &self.common, &self.kept].iter().map(|share| share.shares().taken()).sum()
    }

    /// Returns how many bytes are available.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.reserved_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET_BYTES: u64 = 512 << 20;

    fn admitted(budget: &Budget) -> Vec<Reservation> {
        std::iter::from_fn(|| budget.try_admit(PLACE_BYTES)).collect()
    }

    #[test]
    fn a_dropped_reservation_returns_to_the_budget() {
        let budget = Budget::new(10_000);

        let mut held = budget.try_reserve(6_001).unwrap();
        assert_eq!((budget.available_bytes(), budget.reserved_bytes()), (3_999, 6_001));
        assert!(budget.clone().try_reserve(4_000).is_none());

        held.shrink_to(6_000);
        assert!(budget.try_reserve(4_000).is_some());
        drop(held);
        assert!(budget.try_reserve(10_000).is_some());
    }

    #[test]
    fn read_ahead_does_not_keep_transfers_out() {
        let budget = Budget::new(BUDGET_BYTES).of_store("s");
        let ahead: Vec<_> = std::iter::from_fn(|| budget.try_reserve(1 << 20)).collect();
        assert!(ahead.len() >= 256, "{}", ahead.len());

        assert_eq!(admitted(&budget).len(), 170);
    }

    #[test]
    fn without_read_ahead_transfers_can_use_the_whole_budget() {
        let budget = Budget::new(BUDGET_BYTES).of_store("s");

        assert_eq!(budget.places(PLACE_BYTES), Some(341));
        assert_eq!(admitted(&budget).len(), 341);
    }

    /// Keeps blocks, as far as the budget has room for them.
    #[derive(Debug)]
    struct Keeper(Mutex<Vec<Reservation>>);

    impl Keeper {
        fn fill(budget: &Budget) -> Arc<Self> {
            let keeper = Arc::new(Self(Mutex::new(std::iter::from_fn(|| budget.try_keep(1 << 20)).collect())));
            let holder: Weak<dyn Holder> = Arc::<Self>::downgrade(&keeper);
            budget.add_holder(holder);
            keeper
        }

        fn kept_mib(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl Holder for Keeper {
        /// All blocks have been unused for a second.
        fn give_back(&self, bytes: u64, idle: Duration) {
            let count = if idle <= Duration::from_secs(1) { bytes.div_ceil(1 << 20) } else { 0 };
            let mut blocks = self.0.lock().unwrap();
            let left = blocks.len().saturating_sub(usize::try_from(count).unwrap());
            blocks.truncate(left);
        }
    }

    #[test]
    fn kept_bytes_take_what_is_left_and_give_way() {
        let budget = Budget::new(BUDGET_BYTES);
        let [fleet, other] = ["fleet", "other"].map(|name| budget.of_store(name));
        let keeper = Keeper::fill(&fleet);
        assert_eq!(keeper.kept_mib(), 384, "a quarter is for what the other store keeps");
        let others = Keeper::fill(&other);
        assert_eq!(others.kept_mib(), 64, "some is for read-ahead");

        let ahead = fleet.try_reserve(64 << 20);
        assert!(ahead.is_some());
        assert!(fleet.try_reserve(1 << 20).is_none(), "the blocks are in use");
        // What is guaranteed to the other store is not in use by it.
        let of_other = other.try_reserve(64 << 20);
        assert_eq!((of_other.is_some(), keeper.kept_mib(), others.kept_mib()), (true, 320, 64));
        assert!(other.try_reserve(1 << 20).is_none());

        // As many transfers as without kept bytes.
        drop((ahead, of_other));
        let places = [admitted(&fleet), admitted(&other)];
        assert_eq!(places.map(|places| places.len()), [256, 85]);
        assert!(budget.reserved_bytes() <= BUDGET_BYTES);
    }

    #[test]
    fn endless_transfers_of_one_store_leave_places_and_read_ahead_for_the_others() {
        let budget = Budget::new(BUDGET_BYTES);
        let [silent, other] = ["silent", "other"].map(|name| budget.of_store(name));

        let held = admitted(&silent);
        assert!(held.len() > 200, "{}", held.len());
        let ahead = other.try_reserve(32 << 20);
        assert!(ahead.is_some());
        assert!(admitted(&other).len() >= 42);
    }
}
