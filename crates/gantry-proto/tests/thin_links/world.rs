//! A world: consumers at a site, relays at a hub, the link between them, and one virtual clock.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gantry_proto::receiver::Output;
use gantry_proto::subject::transfer_of_control;
use gantry_proto::{Control, GetRequest, Headers, TransferId};

use crate::consumer::Consumer;
use crate::link::{Link, Packet};
use crate::random::Random;
use crate::relay::{Health, Transfer};
use crate::report::Report;

/// After this time a world ends, even if some consumers have not.
const END: Duration = Duration::from_secs(1800);

/// What happens in a world. By default, everyone starts within 50 ms, and nothing changes.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) consumers: usize,
    /// The size of the object, in bytes.
    pub(crate) size: u64,
    /// The link's rate, in bytes per second, and its round trip.
    pub(crate) rate: u64,
    pub(crate) round_trip: Duration,
    /// Changes of the link's rate, and of relays.
    pub(crate) changes: Vec<(Duration, Change)>,
    pub(crate) relays: usize,
    /// Each consumer starts at a random time within this.
    pub(crate) start_within: Duration,
    /// The time between two consumers' starts, instead of a random one.
    pub(crate) apart: Option<Duration>,
    /// The rate of the disks of every second consumer, in bytes per second.
    pub(crate) write_rate: Option<u64>,
    /// The mean time between two messages of other traffic.
    pub(crate) probe_every: Duration,
}

impl Scenario {
    pub(crate) const fn new(consumers: usize, size: u64, rate: u64, round_trip: Duration) -> Self {
        Self {
            consumers,
            size,
            rate,
            round_trip,
            changes: Vec::new(),
            relays: 1,
            start_within: Duration::from_millis(50),
            apart: None,
            write_rate: None,
            probe_every: Duration::from_millis(100),
        }
    }
}

/// A change in the middle of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// The link's rate, in bytes per second.
    Rate(u64),
    Relay(usize, Health),
}

enum Event {
    Start(usize),
    Request {
        consumer: usize,
        inbox: u64,
        request: GetRequest,
    },
    Control {
        consumer: usize,
        inbox: u64,
        subject: String,
        control: Control,
    },
    /// The link has carried its first message.
    Carried,
    Arrive(Packet),
    /// Nobody hears the consumer's last message.
    Nobody {
        consumer: usize,
        inbox: u64,
    },
    ConsumerTimer(usize),
    RelayTimer(TransferId),
    Written {
        consumer: usize,
        len: u64,
    },
    Probe,
    Change(Change),
}

pub(crate) struct World {
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    random: Random,
    scenario: Scenario,
    link: Link,
    relays: Vec<Health>,
    consumers: BTreeMap<usize, Consumer>,
    transfers: BTreeMap<TransferId, Transfer>,
    opened: u128,
    probes: Vec<Duration>,
}

impl World {
    /// Runs a scenario to its end.
    pub(crate) fn run(scenario: &Scenario, seed: u64) -> Report {
        let mut world = Self {
            now: Duration::ZERO,
            events: BTreeMap::new(),
            scheduled: 0,
            random: Random::new(seed),
            link: Link::new(scenario.rate, scenario.round_trip / 2),
            relays: vec![Health::Up; scenario.relays],
            consumers: BTreeMap::new(),
            transfers: BTreeMap::new(),
            opened: 0,
            probes: Vec::new(),
            scenario: scenario.clone(),
        };

        for index in 0..scenario.consumers {
            let at = match scenario.apart {
                Some(apart) => apart * u32::try_from(index).expect("few consumers"),
                None => world.random.up_to(scenario.start_within),
            };
            world.schedule(at, Event::Start(index));
        }
        for (at, change) in scenario.changes.clone() {
            world.schedule(at, Event::Change(change));
        }
        world.schedule(scenario.probe_every, Event::Probe);

        while !world.is_over()
            && let Some(((at, _), event)) = world.events.pop_first()
        {
            world.now = at;
            world.handle(event);
        }
        Report::new(&world.scenario, &world.consumers, world.probes, world.link.crossed_bytes)
    }

    fn is_over(&self) -> bool {
        let ended = self.consumers.values().filter(|consumer| consumer.ended_at.is_some()).count();
        ended == self.scenario.consumers || self.now > END
    }

    fn schedule(&mut self, pause: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + pause, self.scheduled), event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(index) => {
                let write_rate = self.scenario.write_rate.filter(|_| index % 2 == 0);
                self.consumers.insert(index, Consumer::new(index, write_rate, self.now));
                self.pump(index);
            }
            Event::Request { consumer, inbox, request } => self.open(consumer, inbox, &request),
            Event::Control { consumer, inbox, subject, control } => self.control(consumer, inbox, &subject, control),
            Event::Carried => self.carried(),
            Event::Arrive(Packet::Probe { sent }) => self.probes.push(self.now - sent + self.link.delay),
            Event::Arrive(Packet::Message { consumer, inbox, headers, payload }) => {
                self.arrive(consumer, inbox, &headers, payload);
            }
            Event::Nobody { consumer, inbox } => self.nobody(consumer, inbox),
            Event::ConsumerTimer(consumer) => self.consumer_timer(consumer),
            Event::RelayTimer(id) => self.relay_timer(id),
            Event::Written { consumer, len } => self.written(consumer, len),
            Event::Probe => self.probe(),
            Event::Change(Change::Rate(rate)) => self.link.set_rate(rate),
            Event::Change(Change::Relay(relay, health)) => self.relays[relay] = health,
        }
    }

    fn open(&mut self, consumer: usize, inbox: u64, request: &GetRequest) {
        let listening: Vec<_> = (0..self.relays.len()).filter(|&at| self.relays[at] != Health::Dead).collect();
        if listening.is_empty() {
            return self.schedule(self.link.delay, Event::Nobody { consumer, inbox });
        }

        let relay = listening[self.random.below(listening.len())];
        if self.relays[relay] == Health::Up {
            self.opened += 1;
            let mut transfer = Transfer::new(self.opened, relay, consumer, inbox, request, self.now);
            transfer.handle_opened(self.scenario.size, self.now);
            let id = transfer.envelope.transfer.expect("an id");
            self.transfers.insert(id, transfer);
            self.serve(id);
        }
    }

    fn control(&mut self, consumer: usize, inbox: u64, subject: &str, control: Control) {
        let Some(id) = transfer_of_control(subject) else { return };
        let relay = subject.split('.').nth(3).and_then(|instance| instance.strip_prefix("relay"));
        let relay: usize = relay.and_then(|number| number.parse().ok()).expect("a relay's number");

        match self.relays[relay] {
            Health::Dead => self.schedule(self.link.delay, Event::Nobody { consumer, inbox }),
            Health::Frozen => {}
            Health::Up => {
                if let Some(transfer) = self.transfers.get_mut(&id) {
                    transfer.sender.handle_control(control, self.now);
                    self.serve(id);
                }
            }
        }
    }

    /// Lets a transfer publish everything that it can.
    fn serve(&mut self, id: TransferId) {
        let Some(mut transfer) = self.transfers.remove(&id) else { return };
        if self.relays[transfer.relay] != Health::Up {
            return;
        }

        while let Some(body) = transfer.next_message(self.scenario.size, self.now) {
            let consumer = &self.consumers[&transfer.consumer];
            if consumer.inbox != transfer.inbox && self.now > consumer.moved_at + self.link.delay {
                // nats-server reports that nobody listens on the inbox.
                return;
            }
            let (headers, payload) = transfer.envelope.encode(&body);
            self.send(Packet::Message { consumer: transfer.consumer, inbox: transfer.inbox, headers, payload });
        }

        if transfer.sender.outcome().is_some() {
            return;
        }
        if let Some(at) = transfer.sender.poll_timeout()
            && transfer.timer_at.is_none_or(|set| at < set)
        {
            let at = at.max(self.now);
            transfer.timer_at = Some(at);
            self.schedule(at.saturating_sub(self.now), Event::RelayTimer(id));
        }
        self.transfers.insert(id, transfer);
    }

    fn relay_timer(&mut self, id: TransferId) {
        let now = self.now;
        let Some(transfer) = self.transfers.get_mut(&id).filter(|transfer| transfer.timer_at == Some(now)) else {
            return;
        };
        if self.relays[transfer.relay] == Health::Up {
            transfer.timer_at = None;
            transfer.sender.handle_timeout(self.now);
        }
        self.serve(id);
    }

    fn send(&mut self, packet: Packet) {
        if let Some(takes) = self.link.push(packet) {
            self.schedule(takes, Event::Carried);
        }
    }

    fn carried(&mut self) {
        let (packet, next) = self.link.pop();
        if let Some(packet) = packet {
            self.schedule(self.link.delay, Event::Arrive(packet));
        }
        if let Some(takes) = next {
            self.schedule(takes, Event::Carried);
        }
    }

    fn arrive(&mut self, index: usize, inbox: u64, headers: &Headers, payload: Bytes) {
        let Some(consumer) = self.consumers.get_mut(&index) else { return };
        if consumer.inbox == inbox {
            consumer.receiver.handle_message(headers, payload, self.now);
            self.pump(index);
        }
    }

    fn nobody(&mut self, index: usize, inbox: u64) {
        let Some(consumer) = self.consumers.get_mut(&index) else { return };
        if consumer.inbox == inbox {
            consumer.receiver.handle_no_responders(self.now);
            self.pump(index);
        }
    }

    fn consumer_timer(&mut self, index: usize) {
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(&index).filter(|consumer| consumer.timer_at == Some(now)) else {
            return;
        };
        consumer.timer_at = None;
        consumer.receiver.handle_timeout(self.now);
        self.pump(index);
    }

    fn written(&mut self, index: usize, len: u64) {
        let Some(consumer) = self.consumers.get_mut(&index) else { return };
        consumer.handle_written(len, self.now);
        self.pump(index);
    }

    fn probe(&mut self) {
        self.send(Packet::Probe { sent: self.now });
        let every = self.scenario.probe_every;
        let pause = every / 2 + self.random.up_to(every);
        self.schedule(pause, Event::Probe);
    }

    /// Carries out everything that a consumer can do now.
    fn pump(&mut self, index: usize) {
        let (now, delay) = (self.now, self.link.delay);
        let Some(consumer) = self.consumers.get_mut(&index) else { return };
        let mut events = Vec::new();
        if let Some((len, takes)) = consumer.write(now) {
            events.push((takes, Event::Written { consumer: index, len }));
        }

        while let Some(output) = consumer.receiver.poll_output() {
            match output {
                Output::Request(request) => {
                    consumer.inbox += 1;
                    consumer.moved_at = now;
                    events.push((delay, Event::Request { consumer: index, inbox: consumer.inbox, request }));
                }
                Output::Control { subject, control } => {
                    consumer.controls += 1;
                    events.push((delay, Event::Control { consumer: index, inbox: consumer.inbox, subject, control }));
                }
                Output::Accepted(_) | Output::Recovering(_) => {}
            }
        }

        if consumer.receiver.outcome().is_some() {
            consumer.ended_at.get_or_insert(now);
        } else if let Some(at) = consumer.receiver.poll_timeout()
            && consumer.timer_at.is_none_or(|set| at < set)
        {
            let at = at.max(now);
            consumer.timer_at = Some(at);
            events.push((at.saturating_sub(now), Event::ConsumerTimer(index)));
        }
        for (pause, event) in events {
            self.schedule(pause, event);
        }
    }
}
