//! What can go wrong on the in-memory bus.

use std::time::Duration;

/// A client of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) usize);

/// Something that happens to deliveries. One message to three subscriptions is three deliveries.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The subjects it strikes, with NATS' wildcards.
    pub subject: String,
    /// The publisher whose messages it strikes; `None` for all.
    pub from: Option<ClientId>,
    /// The subscriber whose messages it strikes; `None` for all.
    pub to: Option<ClientId>,
    /// Which of these deliveries it strikes.
    pub when: When,
    /// What happens to them.
    pub action: Action,
}

impl Fault {
    /// Makes a fault on every delivery; narrow it with the other methods.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { subject: ">".to_owned(), from: None, to: None, when: When::Always, action }
    }

    /// Strikes only subjects that match.
    #[must_use]
    pub fn subject(mut self, pattern: impl Into<String>) -> Self {
        self.subject = pattern.into();
        self
    }

    /// Strikes only what `client` publishes.
    #[must_use]
    pub const fn from(mut self, client: ClientId) -> Self {
        self.from = Some(client);
        self
    }

    /// Strikes only what `client` hears.
    #[must_use]
    pub const fn to(mut self, client: ClientId) -> Self {
        self.to = Some(client);
        self
    }

    /// Strikes only some.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

/// Which deliveries a fault strikes, of those that match it otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// Each with this probability, from 0 to 1.
    Probability(f64),
    /// The one at this position, counted from 1.
    Nth(u64),
    /// Each that comes after so many.
    After(u64),
}

/// What happens to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is lost. A publisher is not told: [`NO_RESPONDERS`](gantry_bus::NO_RESPONDERS) is the server's word for
    /// nobody listening.
    Drop,
    /// It arrives twice.
    Repeat,
    /// It arrives so much later. What follows without a delay overtakes it.
    Delay(Duration),
    /// It arrives later by a random time up to this, so that several change their order.
    Jitter(Duration),
    /// One bit of its payload is turned; an empty payload stays.
    Corrupt,
}

/// What becomes of what a client publishes while it is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileCut {
    /// The publish waits for the connection, as with a full queue.
    Wait,
    /// The publish succeeds and the message is lost, as with a write buffer that a reconnect drops.
    Lose,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages published, those that a cut lost included.
    pub published: u64,
    /// Messages put before a subscriber, each repetition included.
    pub delivered: u64,
    /// Publishes that nobody heard and whose publisher was told so.
    pub no_responders: u64,
    /// Deliveries that [`Action::Drop`] lost.
    pub dropped: u64,
    /// Deliveries that [`Action::Repeat`] doubled.
    pub repeated: u64,
    /// Deliveries that came later.
    pub delayed: u64,
    /// Deliveries with a turned bit.
    pub corrupted: u64,
    /// Messages that a cut lost, on either side.
    pub cut: u64,
    /// Deliveries that a full subscription lost.
    pub overflowed: u64,
}
