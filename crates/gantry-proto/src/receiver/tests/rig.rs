//! A receiver and a sender on virtual time, with one link of a given rate between them.

use std::collections::VecDeque;

use super::super::super::sender::{self, Identity, Sender};
use super::*;

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
const TICK: Duration = Duration::from_millis(5);

/// A message of the relay in flight on the link.
struct Packet {
    headers: Headers,
    payload: Bytes,
    /// The number of the request whose inbox it goes to.
    inbox: u64,
    /// The bytes that the link has not carried yet.
    left: u64,
}

pub(super) struct Rig {
    pub(super) receiver: Receiver,
    /// In bytes per second.
    pub(super) rate: u64,
    half_trip: Duration,
    pub(super) now: Duration,
    relay: Option<Sender>,
    inbox: u64,
    up: VecDeque<(Duration, Output)>,
    queue: VecDeque<Packet>,
    down: VecDeque<(Duration, Packet)>,
    /// The maximum number of bytes queued for the link.
    pub(super) queued_max: u64,
}

impl Rig {
    /// Starts a download of an endless object with the consumer's default settings.
    pub(super) fn new(rate: u64, round_trip: Duration) -> Self {
        let settings = Settings {
            prefix: Prefix::default(),
            window_initial: 4 * KIB,
            near: None,
            window_max: 24 * MIB,
            chunk_max: MIB,
            stall_timeout: STALL,
            no_relay_patience: NO_RELAY_PATIENCE,
            patience: Duration::from_secs(120),
            backoff_min: 100 * MS,
            backoff_max: BACKOFF_MAX,
            jitter_seed: 1,
        };
        Self {
            receiver: Receiver::new(settings, Get::at("s/a/b").unwrap(), START),
            rate,
            half_trip: round_trip / 2,
            now: START,
            relay: None,
            inbox: 0,
            up: VecDeque::new(),
            queue: VecDeque::new(),
            down: VecDeque::new(),
            queued_max: 0,
        }
    }

    /// Advances the time, and returns how many bytes arrived meanwhile.
    pub(super) fn run(&mut self, time: Duration) -> u64 {
        let (until, before) = (self.now + time, self.receiver.next_offset());
        while self.now < until {
            self.now += TICK;
            self.ask();
            self.serve();
            self.carry();
            self.hear();
        }
        self.receiver.next_offset() - before
    }

    fn ask(&mut self) {
        while let Some(output) = self.receiver.poll_output() {
            if matches!(output, Output::Request(_)) {
                self.inbox += 1;
            }
            self.up.push_back((self.now + self.half_trip, output));
        }
    }

    fn serve(&mut self) {
        while self.up.front().is_some_and(|(due, _)| *due <= self.now) {
            match self.up.pop_front().unwrap().1 {
                Output::Request(request) => self.begin(&request),
                Output::Control { subject, control } if subject == control_of(self.id()) => {
                    if let Some(relay) = &mut self.relay {
                        relay.handle_control(control, self.now);
                    }
                }
                Output::Control { .. } | Output::Accepted(_) | Output::Recovering(_) => {}
            }
        }
        let Some(mut relay) = self.relay.take() else { return };
        relay.handle_timeout(self.now);
        loop {
            while relay.wants_data() {
                relay.handle_data(Bytes::from_static(&[0; 65_536]));
            }
            if let Some(body) = relay.poll_transmit(self.now) {
                self.send(&body);
            } else if relay.wants_turn() {
                relay.handle_turn();
            } else {
                break;
            }
        }
        self.relay = Some(relay);
    }

    fn id(&self) -> TransferId {
        transfer(self.inbox.into())
    }

    fn begin(&mut self, request: &GetRequest) {
        let settings = sender::Settings {
            chunk_max: 508 << 10,
            gather_min: 65_536,
            window_max: 32 * MIB,
            beat_interval: SECOND,
            idle_timeout: 15 * SECOND,
        };
        let Accepted { transfer, instance, control, .. } = accepted(self.id(), request.start);

        let mut relay = Sender::new(settings, request, Identity { transfer, instance, control, host: None }, self.now);
        relay.handle_opened(ObjectInfo { size: OFFSET_MAX, ..object() }, self.now);
        self.relay = Some(relay);
    }

    fn send(&mut self, body: &Body) {
        let (headers, payload) = Envelope { transfer: Some(self.id()), context: None }.encode(body);
        let left = payload.len() as u64 + 200;
        self.queue.push_back(Packet { headers, payload, inbox: self.inbox, left });
    }

    fn carry(&mut self) {
        self.queued_max = self.queued_max.max(self.queue.iter().map(|packet| packet.left).sum());
        let mut budget = self.rate * u64::try_from(TICK.as_millis()).unwrap() / 1000;
        while let Some(packet) = self.queue.front_mut() {
            let taken = budget.min(packet.left);
            packet.left -= taken;
            budget -= taken;
            if packet.left > 0 {
                break;
            }
            let packet = self.queue.pop_front().unwrap();
            self.down.push_back((self.now + self.half_trip, packet));
        }
    }

    fn hear(&mut self) {
        while self.down.front().is_some_and(|(due, _)| *due <= self.now) {
            let (_, packet) = self.down.pop_front().unwrap();
            if packet.inbox == self.inbox {
                self.receiver.handle_message(&packet.headers, packet.payload, self.now);
            }
        }
        while self.receiver.poll_deliver().is_some() {}
        self.receiver.handle_written(self.receiver.next_offset(), self.now);
        while self.receiver.poll_timeout().is_some_and(|at| at <= self.now) {
            self.receiver.handle_timeout(self.now);
        }
        assert_eq!(self.receiver.outcome(), None);
    }
}
