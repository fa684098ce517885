//! The events of a fleet, in the order of their times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;
use gantry_proto::{Control, GetRequest, Headers};

use super::questions::Place;

pub(super) enum Event {
    /// A device starts.
    Start(usize),
    /// A request arrives where it is served.
    Request(Box<Request>),
    /// A control message arrives at the transfer with this number.
    Control {
        transfer: usize,
        control: Control,
    },
    /// A relay's message arrives at a consumer.
    Message(Box<Message>),
    /// The store has opened the object for this transfer.
    Opened(usize),
    /// An answer arrives: the object is described for all that wait for it.
    Described {
        place: Place,
        question: u64,
    },
    /// A question has waited long enough for the answer to the one before it.
    QuestionDue {
        place: Place,
        question: u64,
    },
    /// The question of an edge relay arrives at the hub.
    Asked {
        site: usize,
        question: u64,
    },
    ConsumerTimer(usize),
    TransferTimer(usize),
    /// Other traffic of a site.
    Probe(usize),
}

pub(super) struct Request {
    pub(super) consumer: usize,
    pub(super) inbox: u64,
    pub(super) request: GetRequest,
}

pub(super) struct Message {
    pub(super) consumer: usize,
    pub(super) inbox: u64,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
}

/// The clock, and what happens next.
#[derive(Default)]
pub(super) struct Events {
    pub(super) now: Duration,
    /// The time in nanoseconds, the number and the slot of each event. Those of the same time happen in the order in
    /// which they were scheduled.
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// The events are apart, so that the queue is small enough for a processor's cache.
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl Events {
    /// Schedules an event. A time that has passed means now.
    pub(super) fn schedule(&mut self, at: Duration, event: Event) {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(event);

        self.scheduled += 1;
        let nanos = u64::try_from(at.max(self.now).as_nanos()).expect("a run ends within centuries");
        self.queue.push(Reverse((nanos, self.scheduled, slot)));
    }

    /// Advances the clock to the next event.
    pub(super) fn next(&mut self) -> Option<Event> {
        let Reverse((nanos, _, slot)) = self.queue.pop()?;
        self.now = Duration::from_nanos(nanos);
        self.free.push(slot);
        self.slots[slot].take()
    }

    /// Returns the number of all events so far.
    pub(super) const fn count(&self) -> u64 {
        self.scheduled
    }
}
