//! The subscriptions of the in-memory bus, and the routing of messages to them.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::fault::{Action, ClientId, Fault, Tally, When, WhileCut};
use gantry_bus::{Event, Message, NO_RESPONDERS, Status};
use gantry_proto::Headers;

/// Maximum number of events that a reader may lag behind.
const EVENTS: usize = 64;

pub(super) struct Network {
    pub(super) max_payload: usize,
    pub(super) subscription_messages: usize,
    pub(super) tally: Tally,
    random: u64,
    serial: u64,
    clients: Vec<Client>,
    /// By id, in ascending order: if two subscriptions match, the older one receives the message first.
    subscribers: BTreeMap<u64, Subscriber>,
    /// Each with the number of deliveries it has matched.
    faults: Vec<(Fault, u64)>,
}

struct Client {
    status: watch::Sender<Status>,
    events: broadcast::Sender<Event>,
    denied: Vec<String>,
    unsubscribable: Vec<String>,
    cut: Option<WhileCut>,
    received_bytes: u64,
}

struct Subscriber {
    client: ClientId,
    subject: String,
    queue: Option<String>,
    open: bool,
    /// By time of arrival, then in the order of sending.
    messages: BTreeMap<(Instant, u64), Message>,
    waker: Option<Waker>,
}

/// What a subscription returns to its reader.
pub(super) enum Next {
    /// A message that has arrived.
    Message(Box<Message>),
    /// No message before this time.
    Due(Instant),
    /// The subscription has ended.
    End,
}

impl Network {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            max_payload: 1 << 20,
            subscription_messages: 65_536,
            tally: Tally {
                published: 0,
                delivered: 0,
                no_responders: 0,
                dropped: 0,
                repeated: 0,
                delayed: 0,
                corrupted: 0,
                cut: 0,
                overflowed: 0,
            },
            random: seed,
            serial: 0,
            clients: Vec::new(),
            subscribers: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    pub(super) fn add_client(&mut self) -> ClientId {
        self.clients.push(Client {
            status: watch::Sender::new(Status { connected: true, epoch: 1 }),
            events: broadcast::Sender::new(EVENTS),
            denied: Vec::new(),
            unsubscribable: Vec::new(),
            cut: None,
            received_bytes: 0,
        });

        ClientId(self.clients.len() - 1)
    }

    pub(super) fn add_fault(&mut self, fault: Fault) {
        self.faults.push((fault, 0));
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn received_bytes(&self, client: ClientId) -> u64 {
        self.clients[client.0].received_bytes
    }

    pub(super) fn status(&self, client: ClientId) -> watch::Receiver<Status> {
        self.clients[client.0].status.subscribe()
    }

    pub(super) fn events(&self, client: ClientId) -> broadcast::Receiver<Event> {
        self.clients[client.0].events.subscribe()
    }

    pub(super) fn say(&self, client: ClientId, event: Event) {
        // Having no listeners is fine.
        drop(self.clients[client.0].events.send(event));
    }

    pub(super) fn deny_publish(&mut self, client: ClientId, pattern: String) {
        self.clients[client.0].denied.push(pattern);
    }

    pub(super) fn fail_subscribe(&mut self, client: ClientId, subject: String) {
        self.clients[client.0].unsubscribable.push(subject);
    }

    pub(super) fn is_connected(&self, client: ClientId) -> bool {
        self.clients[client.0].cut.is_none()
    }

    pub(super) fn takes_publishes(&self, client: ClientId) -> bool {
        self.clients[client.0].cut != Some(WhileCut::Wait)
    }

    pub(super) fn cut(&mut self, client: ClientId, publishes: WhileCut) {
        self.clients[client.0].cut = Some(publishes);
        self.clients[client.0].status.send_modify(|status| status.connected = false);
        let now = Instant::now();
        for subscriber in self.subscribers.values_mut().filter(|subscriber| subscriber.client == client) {
            let before = subscriber.messages.len();
            subscriber.messages.retain(|(due, _), _| *due <= now);
            self.tally.cut += (before - subscriber.messages.len()) as u64;
        }
    }

    pub(super) fn restore(&mut self, client: ClientId) {
        if self.clients[client.0].cut.take().is_some() {
            self.clients[client.0].status.send_modify(|status| {
                *status = Status { connected: true, epoch: status.epoch + 1 };
            });
        }
    }

    pub(super) fn new_inbox(&mut self) -> String {
        self.serial += 1;
        format!("_INBOX.{:016x}{:06}", self.random(), self.serial)
    }

    pub(super) fn subscribe(&mut self, client: ClientId, subject: &str, queue: Option<&str>) -> Option<u64> {
        if self.clients[client.0].unsubscribable.iter().any(|own| own == subject) {
            return None;
        }

        self.serial += 1;
        let subscriber = Subscriber {
            client,
            subject: subject.to_owned(),
            queue: queue.map(ToOwned::to_owned),
            open: true,
            messages: BTreeMap::new(),
            waker: None,
        };

        self.subscribers.insert(self.serial, subscriber);
        Some(self.serial)
    }

    /// Accepts no new messages, and drops those in flight.
    pub(super) fn close(&mut self, id: u64) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            let now = Instant::now();
            subscriber.open = false;
            subscriber.messages.retain(|(due, _), _| *due <= now);
            subscriber.wake();
        }
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.subscribers.remove(&id);
    }

    pub(super) fn poll_message(&mut self, id: u64, now: Instant, cx: &Context<'_>) -> Poll<Next> {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return Poll::Ready(Next::End) };
        subscriber.waker = Some(cx.waker().clone());
        match subscriber.messages.first_entry() {
            Some(first) if first.key().0 <= now => {
                let message = first.remove();
                self.clients[subscriber.client.0].received_bytes += message.wire_len() as u64;
                Poll::Ready(Next::Message(Box::new(message)))
            }
            Some(first) => Poll::Ready(Next::Due(first.key().0)),
            None if subscriber.open => Poll::Pending,
            None => Poll::Ready(Next::End),
        }
    }

    pub(super) fn publish(&mut self, from: ClientId, message: Message) {
        self.tally.published += 1;
        let client = &self.clients[from.0];

        if client.cut.is_some() {
            self.tally.cut += 1;
            return;
        }

        if client.denied.iter().any(|pattern| matches(pattern, &message.subject)) {
            self.say(from, Event::PublishDenied(message.subject));
            return;
        }

        let to = self.hearers(&message.subject);
        if to.is_empty() {
            self.tell_nobody_heard(from, &message);
        }

        for id in to {
            self.deliver(from, id, message.clone());
        }
    }

    /// Returns a message's recipients: every plain subscriber, and a random member of each queue group.
    fn hearers(&mut self, subject: &str) -> Vec<u64> {
        let mut hearers = Vec::new();
        let mut groups: BTreeMap<String, Vec<u64>> = BTreeMap::new();

        for (id, subscriber) in &self.subscribers {
            if !subscriber.open || !self.is_connected(subscriber.client) || !matches(&subscriber.subject, subject) {
                continue;
            }
            match &subscriber.queue {
                Some(queue) => groups.entry(queue.clone()).or_default().push(*id),
                None => hearers.push(*id),
            }
        }

        for members in groups.into_values() {
            let pick = self.random() % members.len() as u64;
            hearers.extend(members.get(usize::try_from(pick).unwrap_or(0)));
        }

        hearers
    }

    /// Reports that nobody listens as nats-server does: to the publisher only, if it listens on its own reply subject.
    fn tell_nobody_heard(&mut self, publisher: ClientId, message: &Message) {
        let Some(reply) = &message.reply else { return };
        let mut headers = Headers::default();
        headers.push("Nats-Subject", message.subject.as_str());
        let answer = Message { subject: reply.clone(), headers, status: Some(NO_RESPONDERS), ..Message::default() };
        let listening = self.subscribers.iter().find(|(_, subscriber)| {
            subscriber.open && subscriber.client == publisher && matches(&subscriber.subject, reply)
        });

        if let Some((&id, _)) = listening {
            self.tally.no_responders += 1;
            self.deliver(publisher, id, answer);
        }
    }

    /// Delivers a message to one subscriber, subject to the faults.
    fn deliver(&mut self, from: ClientId, id: u64, mut message: Message) {
        let Some(to) = self.subscribers.get(&id).map(|subscriber| subscriber.client) else { return };
        let mut copies = 1;
        let mut delay = Duration::ZERO;

        for action in self.strike(from, to, &message.subject) {
            match action {
                Action::Drop => {
                    self.tally.dropped += 1;
                    return;
                }
                Action::Repeat => {
                    self.tally.repeated += 1;
                    copies += 1;
                }
                Action::Delay(by) => delay += by,
                Action::Jitter(limit) => delay += limit.mul_f64(self.chance()),
                Action::Corrupt => self.corrupt(&mut message),
            }
        }

        if !delay.is_zero() {
            self.tally.delayed += 1;
        }

        for _ in 0..copies {
            self.arrive(id, Instant::now() + delay, message.clone());
        }
    }

    fn arrive(&mut self, id: u64, due: Instant, message: Message) {
        self.serial += 1;
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        if subscriber.messages.len() >= self.subscription_messages {
            self.tally.overflowed += 1;
            let client = subscriber.client;
            self.say(client, Event::SlowConsumer);
            return;
        }

        self.tally.delivered += 1;
        subscriber.messages.insert((due, self.serial), message);
        subscriber.wake();
    }

    /// Returns the combined effect of the faults on a delivery.
    fn strike(&mut self, from: ClientId, to: ClientId, subject: &str) -> Vec<Action> {
        let mut faults = std::mem::take(&mut self.faults);
        let mut actions = Vec::new();

        for (fault, matched) in &mut faults {
            let meant = fault.from.is_none_or(|client| client == from)
                && fault.to.is_none_or(|client| client == to)
                && matches(&fault.subject, subject);
            if !meant {
                continue;
            }
            *matched += 1;
            let strikes = match fault.when {
                When::Always => true,
                When::Probability(probability) => self.chance() < probability,
                When::Nth(nth) => *matched == nth,
                When::After(count) => *matched > count,
            };
            actions.extend(strikes.then_some(fault.action));
        }

        self.faults = faults;
        actions
    }

    fn corrupt(&mut self, message: &mut Message) {
        let bits = self.random();
        let mut payload = BytesMut::from(message.payload.as_ref());
        if payload.is_empty() {
            return;
        }

        let at = usize::try_from(bits >> 3).unwrap_or(0) % payload.len();
        payload[at] ^= 1 << (bits & 7);
        message.payload = payload.freeze();
        self.tally.corrupted += 1;
    }

    /// Returns a random number in the range [0, 1).
    fn chance(&mut self) -> f64 {
        f64::from(u32::try_from(self.random() >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
    }

    /// `SplitMix64` (public domain, <https://prng.di.unimi.it/splitmix64.c>).
    const fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Subscriber {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Returns whether `subject` can be subscribed to: tokens without white space, and `>` only as the last one.
pub(super) fn is_pattern(subject: &str) -> bool {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() || token.chars().any(char::is_whitespace) || (token == ">" && tokens.peek().is_some()) {
            return false;
        }
    }
    true
}

/// Returns whether a subject matches a pattern: `*` stands for one token, a final `>` for one or more.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            (token, Some(own)) if token != "*" && token != own => return false,
            (_, Some(_)) => {}
        }
    }
    subject.next().is_none()
}
