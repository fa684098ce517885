//! A hub, its sites and their devices, on one virtual clock.

use std::time::Duration;

use gantry_proto::Body;
use gantry_proto::receiver::Output;
use gantry_proto::subject::transfer_of_control;

use super::events::{Event, Events, Message, Request};
use super::fifo::Fifo;
use super::hub::Relay;
use super::plan::Plan;
use super::report::{Report, Tally};
use super::site::Site;
use crate::consumer::Consumer;
use crate::link::{ENVELOPE_BYTES, message_bytes};
use crate::random::Random;
use crate::relay::{Transfer, zeros};

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) events: Events,
    pub(super) random: Random,
    pub(super) relays: Vec<Relay>,
    /// Everything that leaves the hub.
    pub(super) egress: Fifo,
    pub(super) sites: Vec<Site>,
    /// Devices, then the edge relays' own downloads. `None` before the start and after the end.
    consumers: Vec<Option<Box<Consumer>>>,
    /// All transfers by their numbers. `None` after the end.
    pub(super) transfers: Vec<Option<Box<Transfer>>>,
    tally: Tally,
    active_sites: usize,
}

impl World {
    /// Runs a plan to its end.
    pub(super) fn run(plan: &Plan, seed: u64) -> Report {
        let devices = plan.sites * plan.devices;
        let mut world = Self {
            events: Events::default(),
            random: Random::new(seed),
            relays: (0..plan.hub_relays).map(|_| Relay::default()).collect(),
            egress: Fifo::new(plan.egress_rate),
            sites: (0..plan.sites).map(|site| Site::new(plan, site)).collect(),
            consumers: (0..devices + plan.sites).map(|_| None).collect(),
            transfers: Vec::new(),
            tally: Tally::default(),
            active_sites: plan.sites,
            plan: plan.clone(),
        };

        for device in 0..devices {
            let at = world.random.up_to(plan.starts_within);
            world.events.schedule(at, Event::Start(device));
        }
        for site in 0..plan.sites {
            let at = world.random.up_to(plan.probe_every);
            world.events.schedule(at, Event::Probe(site));
        }

        while world.active_sites > 0
            && world.events.now < plan.ends_at
            && let Some(event) = world.events.next()
        {
            world.handle(event);
        }
        Report::new(plan, world.tally, &world.sites, &world.relays, &world.egress, world.events.count())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(device) => self.start(device),
            Event::Request(request) => self.request(&request),
            Event::Control { transfer, control } => {
                let now = self.events.now;
                if let Some(Some(at_relay)) = self.transfers.get_mut(transfer) {
                    at_relay.sender.handle_control(control, now);
                    self.serve(transfer);
                }
            }
            Event::Message(message) => self.arrive(&message),
            Event::Opened(transfer) => self.opened(transfer),
            Event::Described { place, question } => self.described(place, question),
            Event::QuestionDue { place, question } => self.question_due(place, question),
            Event::Asked { site, question } => self.asked(site, question),
            Event::ConsumerTimer(consumer) => self.consumer_timer(consumer),
            Event::TransferTimer(transfer) => self.transfer_timer(transfer),
            Event::Probe(site) => self.probe(site),
        }
    }

    /// Starts a device, or the download of an edge relay.
    pub(super) fn start(&mut self, consumer: usize) {
        self.consumers[consumer] = Some(Box::new(Consumer::new(consumer, None, self.events.now)));
        self.pump(consumer);
    }

    /// Lets a transfer publish everything that it can.
    pub(super) fn serve(&mut self, number: usize) {
        let Some(mut transfer) = self.transfers[number].take() else { return };
        let now = self.events.now;
        let (available, read) = (self.available(transfer.relay), transfer.read);

        while let Some(body) = transfer.next_message(available, now) {
            if self.is_gone(&transfer) {
                self.take(&transfer, read);
                return self.end_transfer(&transfer);
            }
            let (headers, mut payload) = transfer.envelope.encode(&body);
            if matches!(body, Body::Chunk(_)) {
                // Messages of a whole fleet that the sender has copied would need gigabytes.
                payload = zeros(payload.len());
            }
            let bytes = message_bytes(&headers, &payload);
            let message = Message { consumer: transfer.consumer, inbox: transfer.inbox, headers, payload };
            let at = self.carry(transfer.consumer, bytes);
            self.events.schedule(at, Event::Message(Box::new(message)));
        }

        self.take(&transfer, read);
        if transfer.sender.outcome().is_some() {
            return self.end_transfer(&transfer);
        }
        if let Some(at) = transfer.sender.poll_timeout()
            && transfer.timer_at.is_none_or(|set| at < set)
        {
            let at = at.max(now);
            transfer.timer_at = Some(at);
            self.events.schedule(at, Event::TransferTimer(number));
        }
        self.transfers[number] = Some(transfer);
    }

    /// Returns whether nats-server reports that nobody listens on a transfer's inbox.
    fn is_gone(&self, transfer: &Transfer) -> bool {
        let Some(consumer) = &self.consumers[transfer.consumer] else { return true };
        consumer.inbox != transfer.inbox && self.events.now > consumer.moved_at + self.plan.delay(transfer.consumer)
    }

    /// Queues a relay's message to a consumer. Returns when it arrives.
    fn carry(&mut self, consumer: usize, bytes: u64) -> Duration {
        let site = self.plan.site(consumer);
        if self.plan.is_local(consumer) {
            let carried = self.sites[site].edge.link.carry(self.events.now, bytes);
            return carried + self.plan.delay(consumer);
        }
        self.carry_to_site(site, bytes)
    }

    /// Queues a message from the hub to a site. Returns when it arrives.
    pub(super) fn carry_to_site(&mut self, site: usize, bytes: u64) -> Duration {
        let left = self.egress.carry(self.events.now, bytes);
        self.sites[site].link.carry(left, bytes) + self.plan.round_trip / 2
    }

    fn transfer_timer(&mut self, number: usize) {
        let now = self.events.now;
        let Some(transfer) = &mut self.transfers[number] else { return };
        if transfer.timer_at == Some(now) {
            transfer.timer_at = None;
            transfer.sender.handle_timeout(now);
            self.serve(number);
        }
    }

    fn arrive(&mut self, message: &Message) {
        let now = self.events.now;
        let Some(consumer) = &mut self.consumers[message.consumer] else { return };
        if consumer.inbox == message.inbox {
            consumer.receiver.handle_message(&message.headers, message.payload.clone(), now);
            self.pump(message.consumer);
        }
    }

    fn consumer_timer(&mut self, number: usize) {
        let now = self.events.now;
        let Some(consumer) = &mut self.consumers[number] else { return };
        if consumer.timer_at == Some(now) {
            consumer.timer_at = None;
            consumer.receiver.handle_timeout(now);
            self.pump(number);
        }
    }

    /// Measures the round trip of other traffic: its reply is queued now.
    fn probe(&mut self, site: usize) {
        if self.sites[site].active == 0 {
            return;
        }

        let arrives = self.carry_to_site(site, ENVELOPE_BYTES);
        self.tally.probe(arrives - self.events.now + self.plan.round_trip / 2);
        let every = self.plan.probe_every;
        let pause = every / 2 + self.random.up_to(every);
        self.events.schedule(self.events.now + pause, Event::Probe(site));
    }

    /// Carries out everything that a consumer can do now.
    fn pump(&mut self, number: usize) {
        let (now, delay) = (self.events.now, self.plan.delay(number));
        let Some(mut consumer) = self.consumers[number].take() else { return };
        consumer.write(now);

        let mut is_accepted = false;
        while let Some(output) = consumer.receiver.poll_output() {
            match output {
                Output::Request(request) => {
                    consumer.inbox += 1;
                    consumer.moved_at = now;
                    let request = Request { consumer: number, inbox: consumer.inbox, request };
                    self.events.schedule(now + delay, Event::Request(Box::new(request)));
                }
                Output::Control { subject, control } => {
                    let id = transfer_of_control(&subject).expect("a control subject").0.as_u128();
                    let transfer = usize::try_from(id).expect("a transfer's number");
                    self.events.schedule(now + delay, Event::Control { transfer, control });
                    self.tally.controls += 1;
                }
                Output::Accepted(_) => is_accepted = true,
                Output::Recovering(_) => self.tally.recoveries += 1,
            }
        }

        let written = consumer.receiver.written_offset();
        if consumer.receiver.outcome().is_some() {
            self.end_consumer(number, &consumer);
        } else {
            if let Some(at) = consumer.receiver.poll_timeout()
                && consumer.timer_at.is_none_or(|set| at < set)
            {
                let at = at.max(now);
                consumer.timer_at = Some(at);
                self.events.schedule(at, Event::ConsumerTimer(number));
            }
            self.consumers[number] = Some(consumer);
        }
        if let Some(site) = self.plan.edge_of(number) {
            self.fill(site, is_accepted, written);
        }
    }

    fn end_consumer(&mut self, number: usize, consumer: &Consumer) {
        let is_done = matches!(consumer.receiver.outcome(), Some(Ok(())));
        if self.plan.edge_of(number).is_some() {
            // The patience of an edge relay's download ends only if nothing arrives for two minutes.
            assert!(is_done, "the download of an edge relay failed: {:?}", consumer.receiver.outcome());
            return;
        }

        let now = self.events.now;
        self.tally.end(consumer, is_done, now);
        let site = &mut self.sites[self.plan.site(number)];
        site.active -= 1;
        site.ended_at = now;
        self.active_sites -= usize::from(site.active == 0);
    }
}
