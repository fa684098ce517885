//! An in-memory bus for tests. It delivers messages as nats-server does, and fails on demand.
//!
//! It has no tasks of its own. It uses tokio's time, which a test can pause, and one seed for all random choices: on a
//! single-threaded runtime, the same seed and the same calls lead to the same deliveries.

mod fault;
mod network;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, Sleep};

use gantry_bus::{Bus, Error, Event, Message, Status, Subscription};
use gantry_proto::Location;
use gantry_proto::subject::is_literal;

pub use fault::{Action, ClientId, Fault, Tally, When, WhileCut};
use network::{Network, is_pattern};

/// An in-memory bus, which its clients share. Clones refer to the same bus.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<Network>>);

impl MemoryNetwork {
    /// Creates a network without faults. `seed` determines all random choices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Network::new(seed))))
    }

    /// Creates a connected client.
    #[must_use]
    pub fn connect(&self) -> Arc<Memory> {
        let id = self.lock().add_client();
        Arc::new(Memory { network: self.clone(), id })
    }

    /// Sets the limit on payload and headers together, in bytes. The default is 1 MiB, as for nats-server.
    pub fn set_max_payload(&self, bytes: usize) {
        self.lock().max_payload = bytes;
    }

    /// Sets how many messages each subscription buffers for its reader; the default is 65,536. Further messages are
    /// lost, and the client receives [`Event::SlowConsumer`].
    pub fn set_subscription_messages(&self, messages: usize) {
        self.lock().subscription_messages = messages;
    }

    /// Adds a fault. All faults that match a delivery are applied to it.
    pub fn add_fault(&self, fault: Fault) {
        self.lock().add_fault(fault);
    }

    /// Removes all faults. Deliveries that are already delayed stay delayed.
    pub fn clear_faults(&self) {
        self.lock().clear_faults();
    }

    /// Returns the counts so far, so that a test can assert that its faults occurred.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").field("tally", &self.tally()).finish_non_exhaustive()
    }
}

/// A client of a [`MemoryNetwork`].
#[derive(Debug)]
pub struct Memory {
    network: MemoryNetwork,
    id: ClientId,
}

impl Memory {
    /// Returns the client's id, for [`Fault::from`] and [`Fault::to`].
    #[must_use]
    pub const fn id(&self) -> ClientId {
        self.id
    }

    /// Cuts the connection: messages in flight to this client are lost, nothing more arrives, and publishers do not see
    /// its subscriptions.
    pub fn cut(&self, publishes: WhileCut) {
        self.network.lock().cut(self.id, publishes);
    }

    /// Ends a cut: the subscriptions are restored, and the epoch increases.
    pub fn restore(&self) {
        self.network.lock().restore(self.id);
    }

    /// Denies publishing to matching subjects: the message is lost, and the client receives [`Event::PublishDenied`].
    pub fn deny_publish(&self, pattern: impl Into<String>) {
        self.network.lock().deny_publish(self.id, pattern.into());
    }

    /// Makes each later subscription to this subject fail, as if the connection were closed.
    pub fn fail_subscribe(&self, subject: impl Into<String>) {
        self.network.lock().fail_subscribe(self.id, subject.into());
    }

    /// Emits an event, as if the server had reported it.
    pub fn say(&self, event: Event) {
        self.network.lock().say(self.id, event);
    }

    /// Waits for a connection, unless messages sent during the cut are lost anyway.
    async fn ready(&self) {
        let mut status = self.status();
        while !self.network.lock().takes_publishes(self.id) {
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Bus for Memory {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            for subject in std::iter::once(&message.subject).chain(&message.reply) {
                if !is_literal(subject) {
                    return Err(Error::Subject(subject.clone()));
                }
            }
            let len = message.wire_len();
            let max = self.max_payload();
            if len > max {
                return Err(Error::TooLarge { len, max });
            }
            self.ready().await;
            // A real publish waits now and then. Without a yield, a loop of publishes would starve all other tasks.
            tokio::task::consume_budget().await;
            self.network.lock().publish(self.id, message);
            Ok(())
        })
    }

    fn subscribe<'a>(&'a self, subject: &'a str, queue: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, Error>> {
        Box::pin(async move {
            if !is_pattern(subject) {
                return Err(Error::Subject(subject.to_owned()));
            }
            let id = self.network.lock().subscribe(self.id, subject, queue).ok_or(Error::Closed)?;
            let messages = Messages { network: self.network.clone(), id, sleep: None };
            let network = self.network.clone();
            Ok(Subscription::new(Box::pin(messages), move || network.lock().close(id)))
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.ready().await;
            Ok(())
        })
    }

    fn reconnect(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut network = self.network.lock();
            // A cut lasts until the test ends it.
            if network.is_connected(self.id) {
                network.cut(self.id, WhileCut::Wait);
                network.restore(self.id);
            }
            Ok(())
        })
    }

    fn new_inbox(&self) -> String {
        self.network.lock().new_inbox()
    }

    fn max_payload(&self) -> usize {
        self.network.lock().max_payload
    }

    fn server(&self) -> String {
        "memory".to_owned()
    }

    fn location(&self) -> Option<Arc<Location>> {
        Some(Arc::new(Location { server: "memory".to_owned(), cluster: None }))
    }

    /// A message counts as a whole, when it is read.
    fn received_bytes(&self) -> u64 {
        self.network.lock().received_bytes(self.id)
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.network.lock().status(self.id)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.network.lock().events(self.id)
    }
}

/// The messages of one subscription; the network stores them.
struct Messages {
    network: MemoryNetwork,
    id: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stream for Messages {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            let now = Instant::now();
            let next = ready!(self.network.lock().poll_message(self.id, now, cx));
            let due = match next {
                network::Next::Message(message) => return Poll::Ready(Some(*message)),
                network::Next::End => return Poll::Ready(None),
                network::Next::Due(due) => due,
            };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            sleep.as_mut().reset(due);
            ready!(sleep.as_mut().poll(cx));
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.network.lock().forget(self.id);
    }
}

#[cfg(test)]
mod tests;
