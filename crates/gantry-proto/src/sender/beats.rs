//! The times at which a relay sends beats, so that it is never silent for long.

use std::time::Duration;

use super::super::message::{Body, Wait};

/// Time from the request to the first beat, unless another message comes first. The beat shows the consumer that its
/// request did not reach a frozen relay. If nobody listens, nats-server's answer to the beat arrives before a distant
/// S3's response, whose body is then not read. A nearby store responds sooner, so that the beat would only cost a
/// message.
pub(super) const FIRST_BEAT: Duration = Duration::from_millis(10);

/// The beats of one transfer.
#[derive(Debug)]
pub(super) struct Beats {
    interval: Duration,
    due_at: Duration,
    is_due: bool,
    /// The last beat that was sent at once because credit was used up.
    blocked: Option<Blocked>,
}

/// The state that a beat for credit has reported to the consumer.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    /// The credit that was used up, an absolute offset.
    credit: u64,
    at: Duration,
}

/// The position of the next chunk, which a beat announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) seq: u64,
    pub(super) offset: u64,
}

impl Beats {
    /// Creates the beats of a request that arrived at `now`.
    pub(super) fn new(interval: Duration, now: Duration) -> Self {
        let due_at = now.saturating_add(FIRST_BEAT.min(interval));
        Self { interval, due_at, is_due: false, blocked: None }
    }

    /// Returns when the next beat is due.
    pub(super) const fn due_at(&self) -> Duration {
        self.due_at
    }

    /// Returns when the last immediate beat for credit was sent.
    pub(super) fn blocked_at(&self) -> Option<Duration> {
        self.blocked.map(|blocked| blocked.at)
    }

    /// Makes a beat due at once.
    pub(super) const fn request(&mut self) {
        self.is_due = true;
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        self.is_due |= now >= self.due_at;
    }

    /// Records that a message of any type was sent.
    pub(super) fn handle_sent(&mut self, now: Duration) {
        self.is_due = false;
        self.due_at = self.due_at.max(now.saturating_add(self.interval));
    }

    /// Returns the beat that is due. `blocked` is the credit that blocks the transfer: the first beat about it is due
    /// at once.
    pub(super) fn poll(&mut self, next: Position, blocked: Option<u64>, now: Duration) -> Option<Body> {
        if let Some(credit) = blocked
            && self.blocked.is_none_or(|last| last.credit != credit)
        {
            self.blocked = Some(Blocked { credit, at: now });
            self.is_due = true;
        }

        let wait = if blocked.is_some() { Wait::Credit } else { Wait::Store };
        self.is_due.then_some(Body::Beat { seq: next.seq, offset: next.offset, wait })
    }
}
