//! Distinguishes a missing relay from a missing store.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;

use gantry_bus::clock::Clock;
use gantry_bus::{Bus, Message, Subscription};
use gantry_proto::StoreName;
use gantry_proto::service::{Answer, Question};
use gantry_proto::subject::Prefix;

/// The subject on which every relay answers, whatever its prefix. Source: the NATS services API (ADR-32).
const PING: &str = "$SRV.PING.gantry";

/// The subject on which every relay describes its stores. Consumers need no permission to publish there.
const INFO: &str = "$SRV.INFO.gantry";

/// The time limit for the first answer, which decides whether it is an error to wait for. Without relays nats-server answers
/// at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time limit for the first description. The names of stores only make the error more helpful.
const INFO_PATIENCE: Duration = Duration::from_millis(500);

/// The time limit for further answers after the first one.
const MORE_WITHIN: Duration = Duration::from_millis(100);

/// The number of answers that are read. Each relay of the system sends one.
const ANSWERS_MAX: usize = 1000;

/// The number of stores that an error names.
const STORES_MAX: usize = 10;

/// The relays that were found.
#[derive(Debug)]
pub(crate) enum Found {
    /// No relay with our prefix answers, or nats-server forbids the question.
    None,
    /// A relay served the store a short time ago, or serves it and was unreachable for a moment.
    StoreLeft,
    /// Relays answer. They serve these stores, if nats-server permits that question, too.
    Others(Vec<StoreName>),
}

/// Looks for relays with this prefix, none of which serves `store`.
pub(crate) async fn relays(bus: &dyn Bus, clock: &Clock, prefix: &Prefix, store: &StoreName) -> Found {
    let asking = Asking { bus, clock, prefix, store };
    let Some(pongs) = asking.ask(PING, PATIENCE).await else { return Found::None };
    if pongs.is_empty() {
        return Found::None;
    }
    if pongs.iter().any(|pong| pong.has_left(store)) {
        return Found::StoreLeft;
    }

    let infos = asking.ask(INFO, INFO_PATIENCE).await.unwrap_or_default();
    let stores: BTreeSet<_> = infos.iter().flat_map(Answer::stores).collect();
    if stores.contains(store) {
        // It was back between the request and this question.
        return Found::StoreLeft;
    }
    Found::Others(stores.into_iter().take(STORES_MAX).collect())
}

/// A consumer that can't find a store.
struct Asking<'a> {
    bus: &'a dyn Bus,
    clock: &'a Clock,
    prefix: &'a Prefix,
    store: &'a StoreName,
}

impl Asking<'_> {
    /// Asks all relays, and returns the answers of those with our prefix. Waits for the first one for `patience`.
    async fn ask(&self, subject: &str, patience: Duration) -> Option<Vec<Answer>> {
        // Without a connection, the bus blocks once its queue is full.
        let mut answers = self.clock.timeout(patience, self.publish(subject)).await??;

        let prefix = self.prefix.to_string();
        let mut found = Vec::new();
        let mut limit = patience;
        for _ in 0..ANSWERS_MAX {
            let answer = self.clock.timeout(limit, answers.next()).await.flatten();
            // A status means that nobody is subscribed.
            let Some(answer) = answer.filter(|answer| answer.status.is_none()) else { break };
            if let Some(answer) = Answer::parse(&answer.payload).filter(|answer| answer.prefix() == prefix) {
                found.push(answer);
                limit = MORE_WITHIN;
            }
        }
        Some(found)
    }

    /// Publishes the question, and returns the subscription to its answers.
    async fn publish(&self, subject: &str) -> Option<Subscription> {
        let inbox = self.bus.new_inbox();
        let answers = self.bus.subscribe(&inbox, None).await.ok()?;

        let payload = Question::about(self.store.clone()).encode();
        let question = Message { subject: subject.to_owned(), reply: Some(inbox), payload, ..Message::default() };
        self.bus.publish(question).await.ok()?;
        Some(answers)
    }
}
