//! Which relay asks for an object's description, and for whom: as `gantry_store`'s `Descriptions`, one question for all
//! that wait for it, and none that was asked before they came.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long a question waits for the answer to the one before it.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// The relay that asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// A relay at the hub.
    Hub(usize),
    /// The edge relay of a site.
    Edge(usize),
}

/// What waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A transfer of the relay that asks.
    Transfer(usize),
    /// An edge relay's own question.
    Edge { site: usize, question: u64 },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send this question.
    Send(u64),
    /// Call [`Questions::handle_due`] for this question after [`PATIENCE`].
    Wait(u64),
    Nothing,
}

/// The questions of one relay.
#[derive(Default)]
pub(super) struct Questions {
    /// The number of the latest question.
    latest: u64,
    /// Whether the latest question waits for the answer to the one before it.
    is_held: bool,
    waiting: BTreeMap<u64, Vec<Waiter>>,
    pub(super) sent: u64,
}

impl Questions {
    pub(super) fn ask(&mut self, waiter: Waiter) -> Next {
        if self.is_held {
            self.waiting.entry(self.latest).or_default().push(waiter);
            return Next::Nothing;
        }

        self.is_held = self.waiting.contains_key(&self.latest);
        self.latest += 1;
        self.waiting.insert(self.latest, vec![waiter]);
        if self.is_held { Next::Wait(self.latest) } else { self.send() }
    }

    pub(super) fn handle_due(&mut self, question: u64) -> Next {
        if self.is_held && question == self.latest { self.send() } else { Next::Nothing }
    }

    /// Returns who waited for this answer.
    pub(super) fn handle_answer(&mut self, question: u64) -> (Vec<Waiter>, Next) {
        let waiters = self.waiting.remove(&question).unwrap_or_default();
        let next = if self.is_held && question + 1 == self.latest { self.send() } else { Next::Nothing };
        (waiters, next)
    }

    const fn send(&mut self) -> Next {
        self.is_held = false;
        self.sent += 1;
        Next::Send(self.latest)
    }
}
