//! The faults of the in-memory bus.

use std::time::Duration;

/// Identifies a client of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) usize);

/// A fault of deliveries. One message to three subscriptions counts as three deliveries.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The affected subjects, with NATS wildcards.
    pub subject: String,
    /// The publisher whose messages are affected; `None` for all.
    pub from: Option<ClientId>,
    /// The subscriber whose messages are affected; `None` for all.
    pub to: Option<ClientId>,
    /// Which of these deliveries are affected.
    pub when: When,
    /// The effect on them.
    pub action: Action,
}

impl Fault {
    /// Creates a fault of every delivery. The other methods restrict it.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { subject: ">".to_owned(), from: None, to: None, when: When::Always, action }
    }

    /// Restricts the fault to matching subjects.
    #[must_use]
    pub fn subject(mut self, pattern: impl Into<String>) -> Self {
        self.subject = pattern.into();
        self
    }

    /// Restricts the fault to messages that `client` publishes.
    #[must_use]
    pub const fn from(mut self, client: ClientId) -> Self {
        self.from = Some(client);
        self
    }

    /// Restricts the fault to messages that `client` receives.
    #[must_use]
    pub const fn to(mut self, client: ClientId) -> Self {
        self.to = Some(client);
        self
    }

    /// Restricts the fault to some of the matching deliveries.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

/// Which of the matching deliveries a fault affects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All of them.
    Always,
    /// Each one with this probability, from 0 to 1.
    Probability(f64),
    /// The one at this position, starting at 1.
    Nth(u64),
    /// Every one after this number of deliveries.
    After(u64),
}

/// The effect of a fault on a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is lost, and the publisher is not notified: [`NO_RESPONDERS`](gantry_bus::NO_RESPONDERS) reports only that
    /// there are no subscribers.
    Drop,
    /// It arrives twice.
    Repeat,
    /// It arrives later by this time. Messages without a delay can overtake it.
    Delay(Duration),
    /// It arrives later by a random time of up to this, which can reorder messages.
    Jitter(Duration),
    /// One bit of its payload is flipped. An empty payload is unchanged.
    Corrupt,
}

/// What happens to messages that a client publishes while its connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileCut {
    /// The publish waits for the connection, as it does when the queue is full.
    Wait,
    /// The publish succeeds and the message is lost, like one in a write buffer that a reconnect discards.
    Lose,
}

/// Counts of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages published, including those lost in a cut.
    pub published: u64,
    /// Messages delivered to a subscriber, including repetitions.
    pub delivered: u64,
    /// Messages without a subscriber, of which the publisher was notified.
    pub no_responders: u64,
    /// Deliveries lost by [`Action::Drop`].
    pub dropped: u64,
    /// Deliveries duplicated by [`Action::Repeat`].
    pub repeated: u64,
    /// Deliveries that were delayed.
    pub delayed: u64,
    /// Deliveries with a flipped bit.
    pub corrupted: u64,
    /// Messages lost in a cut, in either direction.
    pub cut: u64,
    /// Deliveries lost because a subscription's buffer was full.
    pub overflowed: u64,
}
