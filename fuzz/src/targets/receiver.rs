//! The consumer's state machine against a relay that sends anything, at any time.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{Chunk, Get, Location, Output, Prefix, Receiver, Span, receiver, subject};
use crate::machine::{Number, Position, Said};

#[derive(Arbitrary, Debug)]
struct Input {
    window_initial: Number,
    window_near: Option<Number>,
    window_max: Number,
    chunk_max: Number,
    start: u8,
    end: Option<u16>,
    events: Vec<Event>,
}

#[derive(Arbitrary, Debug)]
enum Event {
    Said { said: Said, is_ours: bool },
    Write(u16),
    Later(Number),
    Timeout,
    Due,
    Disconnected,
    Connected,
    NoResponders,
    Share(Number),
}

/// An upper bound on the outputs that one event can cause.
const OUTPUTS_MAX: usize = 8;

/// An upper bound on the memory that the receiver requests, whatever the relay claims.
const HELD_MAX: u64 = 4 * 1024 * 1024;

/// Returns where the consumer is connected.
fn here() -> Arc<Location> {
    Arc::new(Location { server: "here".to_owned(), cluster: None })
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let window_max = input.window_max.0 % HELD_MAX + 1;
    let settings = receiver::Settings {
        prefix: Prefix::default(),
        window_initial: input.window_initial.0 % HELD_MAX,
        near: input.window_near.map(|window| (here(), window.0 % HELD_MAX)),
        window_max,
        chunk_max: input.chunk_max.0 % HELD_MAX,
        stall_timeout: Duration::from_secs(3),
        no_relay_patience: Duration::from_millis(1500),
        patience: Duration::from_secs(120),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(5),
        jitter_seed: 1,
    };
    let start = u64::from(input.start);
    let end = input.end.map(|len| start + u64::from(len));
    let get = Get::at("s/a/b").expect("the address is valid").range(Span { start, end });
    let mut world = World {
        receiver: Receiver::new(settings, get, Duration::ZERO),
        now: Duration::ZERO,
        end,
        delivered: start,
        written: start,
        position: Position { start, seq: 0, offset: start },
        granted: start,
        controlled: 0,
        window_max,
    };
    world.settle();
    for event in input.events {
        world.handle(event);
        world.settle();
    }
}

/// A driver, and the state for checking the invariants.
struct World {
    receiver: Receiver,
    now: Duration,
    end: Option<u64>,
    delivered: u64,
    written: u64,
    /// The position of an honest relay's next message.
    position: Position,
    /// The credit in this transfer, an absolute offset.
    granted: u64,
    /// The credit of this transfer's last control message.
    controlled: u64,
    window_max: u64,
}

impl World {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Said { said, is_ours } => {
                let (headers, payload) = said.encode(is_ours, self.position);
                self.receiver.handle_message(&headers, payload, self.now);
                if matches!(said, Said::Next { .. }) && self.receiver.next_offset() > self.position.offset {
                    self.position.offset = self.receiver.next_offset();
                    self.position.seq += 1;
                }
            }
            Event::Write(len) => {
                self.written = self.written.saturating_add(u64::from(len)).min(self.delivered);
                self.receiver.handle_written(self.written, self.now);
            }
            Event::Later(by) => self.now = self.now.saturating_add(Duration::from_millis(by.0 % 200_000)),
            Event::Timeout => self.receiver.handle_timeout(self.now),
            Event::Due => {
                if let Some(due) = self.receiver.poll_timeout() {
                    self.now = self.now.max(due);
                    self.receiver.handle_timeout(self.now);
                }
            }
            Event::Disconnected => self.receiver.handle_disconnected(),
            Event::Connected => self.receiver.handle_connected(self.now),
            Event::NoResponders => self.receiver.handle_no_responders(self.now),
            Event::Share(share) => self.receiver.handle_window_limit(share.0),
        }
    }

    /// Handles the machine's outputs, and checks them against the invariants.
    fn settle(&mut self) {
        while let Some(chunk) = self.receiver.poll_deliver() {
            self.take(&chunk);
        }
        for count in 0.. {
            assert!(count < OUTPUTS_MAX, "one event has too many outputs");
            let Some(output) = self.receiver.poll_output() else { break };
            self.act(output);
        }
        assert!(self.receiver.written_offset() <= self.receiver.next_offset());
        if self.receiver.outcome() == Some(Ok(())) {
            assert_eq!(self.delivered, self.written, "done before all bytes are written");
            let object = self.receiver.object().expect("a relay accepted");
            let end = self.end.map_or(object.size, |end| end.min(object.size));
            assert!(self.delivered == end || self.position.start >= end, "done at {} of {end}", self.delivered);
        }
    }

    fn take(&mut self, chunk: &Chunk) {
        assert_eq!(chunk.offset, self.delivered, "a gap, or bytes twice");
        assert!(chunk.is_intact() && !chunk.payload.is_empty());
        self.delivered = chunk.limit().expect("it fits");
        let size = self.receiver.object().map_or(0, |object| object.size);
        assert!(self.delivered <= self.end.unwrap_or(u64::MAX).min(size), "more bytes than requested");
        assert!(self.delivered <= self.granted, "more bytes than credit allows");
        assert!(self.delivered - self.written <= self.window_max, "more bytes than a window are held");
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Request(request) => {
                assert_eq!(request.start, self.receiver.next_offset());
                assert!(request.credit.is_some_and(|credit| credit >= request.start), "{:?}", request.credit);
                assert_eq!(request.end, self.end);
                // Nobody but the relay knows whether it is near.
                let near = request.near.map_or(0, |near| near.credit);
                self.begin_transfer(request.credit.unwrap_or_default().max(near));
                self.position = Position { start: request.start, seq: 0, offset: request.start };
            }
            Output::Control { subject, control } => {
                assert!(is_control_of_ours(&subject), "a message to {subject:?}");
                if !control.cancel {
                    self.grant(control.credit);
                }
            }
            Output::Accepted(accepted) => {
                assert!(accepted.object.size < 1 << 63 && accepted.start <= accepted.end);
            }
            Output::Recovering(_) => {}
        }
    }

    /// Applies the credit of a request.
    fn begin_transfer(&mut self, credit: u64) {
        self.check_window(credit);
        self.granted = credit;
        self.controlled = 0;
    }

    /// Applies the credit of a control message, which never decreases within a transfer.
    fn grant(&mut self, credit: u64) {
        assert!(credit >= self.controlled, "credit falls");
        self.check_window(credit);
        self.controlled = credit;
        self.granted = self.granted.max(credit);
    }

    fn check_window(&self, credit: u64) {
        let ahead = credit.saturating_sub(self.written);
        assert!(ahead <= self.window_max, "credit runs ahead of what was written");
    }
}

/// Returns whether the subject is the control subject of the relay that sends [`Said`].
fn is_control_of_ours(subject: &str) -> bool {
    subject.starts_with("gantry.v1.ctl.relay.") && subject::is_literal(subject)
}
