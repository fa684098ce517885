//! How relays at the hub and at sites open an object for a transfer, and where its bytes come from.

use super::events::{Event, Request};
use super::questions::{Next, PATIENCE, Place, Questions, Waiter};
use super::world::World;
use crate::link::ENVELOPE_BYTES;
use crate::relay::Transfer;

/// The size of an object's description with its headers, in bytes.
const DESCRIPTION_BYTES: u64 = 300;

impl World {
    /// Returns the place of a transfer's relay. Those at the hub have the first numbers.
    fn place(&self, relay: usize) -> Place {
        relay.checked_sub(self.relays.len()).map_or(Place::Hub(relay), Place::Edge)
    }

    /// Accepts a request at the site, or at a random relay of the hub.
    pub(super) fn request(&mut self, request: &Request) {
        let relay = if self.plan.is_local(request.consumer) {
            self.relays.len() + self.plan.site(request.consumer)
        } else {
            self.random.below(self.relays.len())
        };

        let number = self.transfers.len();
        let id = number as u128;
        let transfer = Transfer::new(id, relay, request.consumer, request.inbox, &request.request, self.events.now);
        self.transfers.push(Some(Box::new(transfer)));
        match self.place(relay) {
            Place::Hub(hub) => self.open_at_hub(hub, number),
            Place::Edge(site) => self.open_at_edge(site, number),
        }
        self.serve(number);
    }

    /// Asks the store for the object, or for its description if a transfer can use what others read.
    fn open_at_hub(&mut self, hub: usize, number: usize) {
        let now = self.events.now;
        let relay = &mut self.relays[hub];
        if self.plan.shares_reads && relay.has_something(now) {
            relay.handle_transfer();
            return self.ask(Place::Hub(hub), Waiter::Transfer(number));
        }

        relay.handle_open();
        relay.handle_transfer();
        self.events.schedule(now + self.plan.store_delay, Event::Opened(number));
    }

    /// Starts the edge relay's own download for the first request. All others ask for the current version.
    fn open_at_edge(&mut self, site: usize, number: usize) {
        let edge = &mut self.sites[site].edge;
        if edge.has_begun {
            return self.ask(Place::Edge(site), Waiter::Transfer(number));
        }

        edge.has_begun = true;
        edge.opening.push(number);
        self.start(self.plan.edge_consumer(site));
    }

    pub(super) fn opened(&mut self, number: usize) {
        let now = self.events.now;
        let Some(transfer) = &mut self.transfers[number] else { return };
        transfer.handle_opened(self.plan.size, now);
        self.serve(number);
    }

    fn questions(&mut self, place: Place) -> &mut Questions {
        match place {
            Place::Hub(hub) => &mut self.relays[hub].questions,
            Place::Edge(site) => &mut self.sites[site].edge.questions,
        }
    }

    fn ask(&mut self, place: Place, waiter: Waiter) {
        let next = self.questions(place).ask(waiter);
        self.carry_out(place, next);
    }

    pub(super) fn question_due(&mut self, place: Place, question: u64) {
        let next = self.questions(place).handle_due(question);
        self.carry_out(place, next);
    }

    fn carry_out(&mut self, place: Place, next: Next) {
        let now = self.events.now;
        match (next, place) {
            (Next::Send(question), Place::Hub(_)) => {
                self.events.schedule(now + self.plan.store_delay, Event::Described { place, question });
            }
            (Next::Send(question), Place::Edge(site)) => {
                self.events.schedule(now + self.plan.round_trip / 2, Event::Asked { site, question });
            }
            (Next::Wait(question), _) => self.events.schedule(now + PATIENCE, Event::QuestionDue { place, question }),
            (Next::Nothing, _) => {}
        }
    }

    /// Handles the question of an edge relay at a random relay of the hub.
    pub(super) fn asked(&mut self, site: usize, question: u64) {
        let hub = self.random.below(self.relays.len());
        self.ask(Place::Hub(hub), Waiter::Edge { site, question });
    }

    /// Hands a description to all that wait for it.
    pub(super) fn described(&mut self, place: Place, question: u64) {
        let (waiters, next) = self.questions(place).handle_answer(question);
        self.carry_out(place, next);

        for waiter in waiters {
            match (waiter, place) {
                (Waiter::Transfer(number), Place::Edge(site)) if !self.sites[site].edge.is_open => {
                    self.sites[site].edge.opening.push(number);
                }
                (Waiter::Transfer(number), Place::Edge(site)) => self.open_kept(site, number),
                (Waiter::Transfer(number), Place::Hub(_)) => self.opened(number),
                (Waiter::Edge { site, question }, _) => {
                    let at = self.carry_to_site(site, ENVELOPE_BYTES + DESCRIPTION_BYTES);
                    self.events.schedule(at, Event::Described { place: Place::Edge(site), question });
                }
            }
        }
    }

    fn open_kept(&mut self, site: usize, number: usize) {
        if self.sites[site].edge.kept < self.plan.size {
            self.sites[site].edge.filling.push(number);
        }
        self.opened(number);
    }

    /// Records what an edge relay's own download has, and serves it.
    pub(super) fn fill(&mut self, site: usize, is_accepted: bool, kept: u64) {
        let edge = &mut self.sites[site].edge;
        if is_accepted {
            edge.is_open = true;
            for number in std::mem::take(&mut edge.opening) {
                self.open_kept(site, number);
            }
        }

        let edge = &mut self.sites[site].edge;
        if edge.kept < kept {
            edge.kept = kept;
            for number in std::mem::take(&mut edge.filling) {
                self.serve(number);
                if self.transfers[number].is_some() && kept < self.plan.size {
                    self.sites[site].edge.filling.push(number);
                }
            }
        }
    }

    /// Returns the exclusive end of the bytes that a relay can send.
    pub(super) fn available(&self, relay: usize) -> u64 {
        match self.place(relay) {
            Place::Hub(_) => self.plan.size,
            Place::Edge(site) => self.sites[site].edge.kept,
        }
    }

    /// Records the bytes that a transfer has taken since its offset was `read`.
    pub(super) fn take(&mut self, transfer: &Transfer, read: u64) {
        if let Place::Hub(hub) = self.place(transfer.relay) {
            self.relays[hub].take(read, transfer.read, self.plan.shares_reads);
        }
    }

    pub(super) fn end_transfer(&mut self, transfer: &Transfer) {
        if let Place::Hub(hub) = self.place(transfer.relay) {
            self.relays[hub].handle_transfer_end(self.events.now);
        }
    }
}
