//! A model of nats-server and of the connections to it.
//!
//! Packets of one connection stay in order in each direction, unless a fault reorders them. A connection that is cut
//! loses its packets in flight, and has no subscriptions until it is restored.

use std::time::Duration;

use bytes::Bytes;
use gantry_proto::Headers;

use crate::context::Context;
use crate::event::{Event, Node};

/// The subject of requests.
pub(crate) const GET: &str = "gantry.v1.get.files";

/// The maximum extra delay of a message.
const DELAY_MAX: Duration = Duration::from_millis(2500);

/// The approximate overhead of a message on a link, in bytes: subjects and headers.
pub(crate) const HEAD_BYTES: usize = 200;

/// A packet on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Message(Message),
    /// Sets the consumer's inbox from now on.
    Subscribe(String),
}

/// A NATS message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) headers: Headers,
    pub(crate) payload: Bytes,
    /// Whether this is nats-server's report that nobody is subscribed.
    pub(crate) nobody: bool,
}

#[derive(Clone, Debug)]
struct Link {
    connected: bool,
    blackholed: bool,
    /// Counts reconnects, so that packets in flight on an earlier connection are lost.
    epoch: u64,
    /// The times when the last packet arrives at the server and at the client.
    up_at: Duration,
    down_at: Duration,
}

/// A relay's subscriptions.
#[derive(Clone, Debug, Default)]
struct Subscriptions {
    takes_requests: bool,
    /// The relay's service id, while it receives control messages.
    instance: Option<String>,
}

pub(crate) struct Bus {
    consumer: Link,
    relays: Vec<Link>,
    inbox: Option<String>,
    subscriptions: Vec<Subscriptions>,
}

impl Bus {
    pub(crate) fn new(relays: usize) -> Self {
        let link =
            Link { connected: true, blackholed: false, epoch: 1, up_at: Duration::ZERO, down_at: Duration::ZERO };
        Self {
            consumer: link.clone(),
            relays: vec![link; relays],
            inbox: None,
            subscriptions: vec![Subscriptions::default(); relays],
        }
    }

    pub(crate) fn is_connected(&self, node: Node) -> bool {
        self.link(node).connected
    }

    /// Cuts a connection, or restores it.
    pub(crate) fn connect(&mut self, node: Node, connected: bool) {
        let link = self.link_mut(node);
        link.connected = connected;
        link.epoch += 1;
        link.up_at = Duration::ZERO;
        link.down_at = Duration::ZERO;
    }

    pub(crate) fn blackhole(&mut self, node: Node, blackholed: bool) {
        self.link_mut(node).blackholed = blackholed;
    }

    /// Sets a relay's subscriptions.
    pub(crate) fn subscribe_relay(&mut self, index: usize, takes_requests: bool, instance: Option<String>) {
        self.subscriptions[index] = Subscriptions { takes_requests, instance };
    }

    /// Removes the subscription of a consumer that has disconnected, or restores it when the consumer reconnects.
    pub(crate) fn set_inbox(&mut self, inbox: Option<String>) {
        self.inbox = inbox;
    }

    /// Sends a packet from a client to the server.
    pub(crate) fn publish(&mut self, context: &mut Context, from: Node, packet: Packet) {
        let latency = context.between(Duration::ZERO, context.plan.link_latency);
        let link = self.link_mut(from);
        if !link.connected || link.blackholed {
            return;
        }
        let len = match &packet {
            Packet::Message(message) => message.payload.len() + HEAD_BYTES,
            Packet::Subscribe(_) => HEAD_BYTES,
        };
        link.up_at = link.up_at.max(context.now + latency) + context.plan.link_time(len);
        context.schedule(link.up_at, Event::AtServer { from, epoch: link.epoch, packet });
    }

    /// Routes a packet that has reached the server.
    pub(crate) fn route(&mut self, context: &mut Context, from: Node, epoch: u64, packet: Packet) {
        let link = self.link(from);
        if link.epoch != epoch || link.blackholed {
            return;
        }
        let message = match packet {
            Packet::Subscribe(inbox) => return self.inbox = Some(inbox),
            Packet::Message(message) => message,
        };
        match self.receiver_of(context, &message.subject) {
            Some(to) => self.deliver(context, to, message),
            None => self.say_nobody(context, from, message),
        }
    }

    /// Returns whether the connection on which a packet was sent to a client still exists.
    pub(crate) fn arrives(&self, to: Node, epoch: u64) -> bool {
        let link = self.link(to);
        link.epoch == epoch && link.connected && !link.blackholed
    }

    fn receiver_of(&self, context: &mut Context, subject: &str) -> Option<Node> {
        if subject == GET {
            let takers: Vec<usize> = (0..self.relays.len())
                .filter(|&index| self.relays[index].connected && self.subscriptions[index].takes_requests)
                .collect();
            return (!takers.is_empty()).then(|| Node::Relay(takers[context.rng.usize(..takers.len())]));
        }

        if let Some(rest) = subject.strip_prefix("gantry.v1.ctl.") {
            let instance = rest.split('.').next();
            return (0..self.relays.len())
                .find(|&index| {
                    self.relays[index].connected && self.subscriptions[index].instance.as_deref() == instance
                })
                .map(Node::Relay);
        }

        let known = self.consumer.connected && self.inbox.as_deref() == Some(subject);
        known.then_some(Node::Consumer)
    }

    /// Reports to a publisher that nobody listens, if it listens on the reply subject itself.
    fn say_nobody(&mut self, context: &mut Context, from: Node, message: Message) {
        let Some(reply) = message.reply else { return };
        if self.receiver_of(context, &reply) == Some(from) {
            context.log(|| format!("server: nobody listens on {}", message.subject));
            self.send(context, from, Message { subject: reply, nobody: true, ..Message::default() });
        }
    }

    /// Forwards a message to a client, subject to faults.
    fn deliver(&mut self, context: &mut Context, to: Node, mut message: Message) {
        let rates = context.plan.rates;
        if context.inject(rates.drop, "drop") {
            return;
        }
        // Only TCP protects a request: a damaged one gets a final answer.
        if message.subject != GET && !message.payload.is_empty() && context.inject(rates.corrupt, "corrupt") {
            message.payload = corrupted(context, &message);
        }

        if context.inject(rates.repeat, "repeat") {
            self.send(context, to, message.clone());
        }
        if context.inject(rates.reorder, "reorder") {
            let link = self.link(to);
            let latency = context.between(Duration::ZERO, DELAY_MAX / 10);
            let event = Event::AtClient { to, epoch: link.epoch, packet: Packet::Message(message) };
            return context.schedule_in(latency, event);
        }

        if context.inject(rates.delay, "delay") {
            let delay = context.between(Duration::ZERO, DELAY_MAX);
            let link = self.link_mut(to);
            link.down_at = link.down_at.max(context.now + delay);
        }

        self.send(context, to, message);
    }

    fn send(&mut self, context: &mut Context, to: Node, message: Message) {
        let latency = context.between(Duration::ZERO, context.plan.link_latency);
        let link = self.link_mut(to);
        if !link.connected || link.blackholed {
            return;
        }
        link.down_at =
            link.down_at.max(context.now + latency) + context.plan.link_time(message.payload.len() + HEAD_BYTES);
        let packet = Packet::Message(message);
        context.schedule(link.down_at, Event::AtClient { to, epoch: link.epoch, packet });
    }

    fn link(&self, node: Node) -> &Link {
        match node {
            Node::Consumer => &self.consumer,
            Node::Relay(index) => &self.relays[index],
        }
    }

    fn link_mut(&mut self, node: Node) -> &mut Link {
        match node {
            Node::Consumer => &mut self.consumer,
            Node::Relay(index) => &mut self.relays[index],
        }
    }
}

/// Damages a payload in a detectable way: a chunk's checksum no longer matches, and JSON is incomplete.
fn corrupted(context: &mut Context, message: &Message) -> Bytes {
    let at = context.rng.usize(..message.payload.len());
    if message.payload.first() == Some(&b'{') && message.headers.get("Gantry-Type") != Some("chunk") {
        return message.payload.slice(..at);
    }
    let mut bytes = message.payload.to_vec();
    bytes[at] ^= context.rng.u8(1..);
    bytes.into()
}
