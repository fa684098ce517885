//! Shares of a limited quantity, such as places or bytes. No store can take what is guaranteed to the others.
//!
//! Half of the total is divided equally among the stores. No other store can take a store's part, even while that store
//! does not use it. The other half is first come, first served. A single store may therefore use everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A limited quantity that several stores share. Clones are the same quantity.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    total: u64,
    /// A smaller amount is useless to a store, so guaranteed parts are multiples of this.
    unit: u64,
    taken: u64,
    stores: BTreeMap<Arc<str>, Member>,
}

#[derive(Debug, Default)]
struct Member {
    taken: u64,
    /// The number of shares and permits of this store.
    handles: usize,
}

impl Shares {
    /// Divides `total`, which is taken in multiples of `unit`. A `unit` of 0 counts as 1.
    #[must_use]
    pub fn new(total: u64, unit: u64) -> Self {
        let state = State { total, unit: unit.max(1), taken: 0, stores: BTreeMap::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the share of the store with this name. It has a guaranteed part as long as any of its shares or permits
    /// exists.
    #[must_use]
    pub fn of_store(&self, name: &str) -> Share {
        Share::new(self.clone(), Some(Arc::from(name)))
    }

    /// Returns a share without a guaranteed part.
    #[must_use]
    pub fn of_nobody(&self) -> Share {
        Share::new(self.clone(), None)
    }

    /// Returns the total.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Returns the amount that is taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.lock().taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the part that is guaranteed to each store: at least one unit, if there are enough for all.
    fn guaranteed(&self) -> u64 {
        let stores = self.stores.len().max(1) as u64;
        let in_units = |amount: u64| amount - amount % self.unit;
        in_units(self.total / 2 / stores).max(self.unit.min(in_units(self.total / stores)))
    }

    /// Returns how much the store can take now.
    fn available_to(&self, store: Option<&Arc<str>>) -> u64 {
        let guaranteed = self.guaranteed();
        let others = self.stores.iter().filter(|(name, _)| Some(*name) != store);
        let unused: u64 = others.map(|(_, member)| guaranteed.saturating_sub(member.taken)).sum();

        self.total.saturating_sub(self.taken).saturating_sub(unused)
    }

    fn give(&mut self, store: Option<&Arc<str>>, amount: u64) {
        self.taken += amount;
        if let Some(member) = store.and_then(|name| self.stores.get_mut(name)) {
            member.taken += amount;
        }
    }

    fn take_back(&mut self, store: Option<&Arc<str>>, amount: u64) {
        self.taken -= amount;
        if let Some(member) = store.and_then(|name| self.stores.get_mut(name)) {
            member.taken -= amount;
        }
    }
}

/// The share of one store.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    store: Option<Arc<str>>,
}

impl Share {
    fn new(shares: Shares, store: Option<Arc<str>>) -> Self {
        if let Some(name) = &store {
            shares.lock().stores.entry(Arc::clone(name)).or_default().handles += 1;
        }
        Self { shares, store }
    }

    /// Takes `amount`. Returns `None` if less is available to this store.
    #[must_use]
    pub fn try_take(&self, amount: u64) -> Option<Permit> {
        let mut state = self.shares.lock();
        if amount > state.available_to(self.store.as_ref()) {
            return None;
        }

        state.give(self.store.as_ref(), amount);
        drop(state);
        Some(Permit { share: self.clone(), amount })
    }

    /// Returns whether `amount` in addition is within the part that no other store can take.
    #[must_use]
    pub fn guarantees(&self, amount: u64) -> bool {
        let state = self.shares.lock();
        let member = self.store.as_ref().and_then(|name| state.stores.get(name));
        member.is_some_and(|member| member.taken + amount <= state.guaranteed())
    }

    /// Returns the quantity that this is a share of.
    #[must_use]
    pub const fn shares(&self) -> &Shares {
        &self.shares
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        Self::new(self.shares.clone(), self.store.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(name) = &self.store else { return };
        let mut state = self.shares.lock();
        let Some(member) = state.stores.get_mut(name) else { return };

        member.handles -= 1;
        if member.handles == 0 {
            state.stores.remove(name);
        }
    }
}

/// An amount that a store has taken. It is returned when dropped.
#[derive(Debug)]
#[must_use = "dropping it returns the amount"]
pub struct Permit {
    share: Share,
    amount: u64,
}

impl Permit {
    /// Returns the amount above `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        let surplus = self.amount.saturating_sub(amount);
        self.amount -= surplus;
        self.share.shares.lock().take_back(self.share.store.as_ref(), surplus);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.shares.lock().take_back(self.share.store.as_ref(), self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes single units until no more are available.
    fn take_all(share: &Share) -> Vec<Permit> {
        std::iter::from_fn(|| share.try_take(1)).collect()
    }

    #[test]
    fn a_single_store_may_take_everything() {
        let shares = Shares::new(8, 1);
        let only = shares.of_store("only");

        let permits = take_all(&only);
        assert_eq!((permits.len(), shares.taken()), (8, 8));

        drop(permits);
        assert_eq!(shares.taken(), 0);
    }

    #[test]
    fn a_greedy_store_can_not_take_the_guaranteed_parts_of_others() {
        let shares = Shares::new(16, 1);
        let [greedy, one, other] = ["greedy", "one", "other"].map(|name| shares.of_store(name));

        // Each is guaranteed a third of 8, in whole units.
        let taken = take_all(&greedy);
        assert_eq!(taken.len(), 12);
        assert_eq!([take_all(&one).len(), take_all(&other).len()], [2, 2]);

        // What the greedy store returns is first come, first served.
        drop(taken);
        assert_eq!(take_all(&one).len(), 12);
    }

    #[test]
    fn each_store_has_at_least_one_unit_if_there_are_enough() {
        let shares = Shares::new(5, 1);
        let stores: Vec<_> = (0..5).map(|number| shares.of_store(&number.to_string())).collect();
        let _taken = take_all(&stores[0]);
        assert!(stores.iter().skip(1).all(|store| store.try_take(1).is_some()));

        let shares = Shares::new(100, 30);
        let [greedy, other] = ["greedy", "other"].map(|name| shares.of_store(name));
        let _taken = take_all(&greedy);
        assert!(other.try_take(30).is_some(), "a guaranteed part is in whole units");
    }

    #[test]
    fn all_shares_of_a_name_are_one_and_a_store_without_any_has_no_part() {
        let shares = Shares::new(8, 1);
        let (one, again) = (shares.of_store("one"), shares.of_store("one"));
        let other = shares.of_store("other");
        let held = again.try_take(6).unwrap();
        assert!(one.try_take(1).is_none() && shares.of_nobody().try_take(1).is_none());

        drop(other);
        assert!(one.try_take(2).is_some());

        // A removed store keeps its part until the last of its permits returns.
        drop((one, again));
        let newcomer = shares.of_store("newcomer");
        assert_eq!(take_all(&newcomer).len(), 2);
        drop(held);
        assert_eq!(take_all(&newcomer).len(), 8);
    }

    #[test]
    fn a_permit_can_return_a_part_of_its_amount() {
        let shares = Shares::new(8, 1);
        let mut permit = shares.of_store("s").try_take(8).unwrap();

        permit.shrink_to(3);
        assert_eq!(shares.taken(), 3);
        permit.shrink_to(5);
        assert_eq!(shares.taken(), 3);

        drop(permit);
        assert_eq!(shares.taken(), 0);
    }
}
