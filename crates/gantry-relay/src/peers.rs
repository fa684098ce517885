//! Compares the places of this relay's stores with those of other relays.
//!
//! Relays with one prefix share their requests. If two of them use one store name for different places, consumers get
//! objects from either, and nothing in a transfer reveals it. Each relay therefore describes its stores by a
//! fingerprint, and compares it with those of the others at intervals.
//!
//! Any client that may publish to the inbox can answer. The number, size and time of answers are bounded, and only names
//! of a safe alphabet reach the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use crate::discovery::{Service, info_subject, safe_name};
use crate::lifetime::Lifetime;
use crate::metrics::{RelayMetrics, StoreLabel};
use crate::stores::StoreTable;
use crate::subjects::Subjects;
use gantry_bus::{Bus, Event, Message, Subscription};
use gantry_proto::StoreName;
use gantry_proto::service::Question;

/// Delay of the first comparison after the start. Relays that start together are up by then.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Interval between comparisons, and the maximum random delay added to it, so that relays that start together do not all
/// compare at once.
const INTERVAL: Duration = Duration::from_secs(60);
const SPREAD: Duration = Duration::from_secs(10);

/// How long to wait for answers, how many to read, and the size limit of each in bytes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const ANSWERS_MAX: usize = 512;
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// Maximum number of warnings from one comparison, and of remembered pairs of store and relay that were warned about.
const WARNINGS_MAX: usize = 4;
const WARNED_MAX: usize = 1024;

/// The relevant part of a relay's description of itself.
#[derive(Debug, Deserialize)]
struct Answer {
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// Another relay that serves one of this relay's stores from another place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Difference {
    store: StoreName,
    instance: String,
    host: String,
}

/// Returns the subject where answers for `instance` arrive. It has its own prefix, so that a relay needs no permission for
/// other inboxes.
pub(crate) fn inbox(instance: &str) -> String {
    format!("_INBOX.gantry-peers.{instance}")
}

/// Returns whether nats-server has only forbidden this comparison. The relay serves everything without it.
pub(crate) fn is_about_comparing(event: &Event, instance: &str) -> bool {
    match event {
        Event::PublishDenied(subject) => *subject == info_subject(),
        Event::SubscribeDenied(subject) => *subject == inbox(instance),
        Event::SlowConsumer | Event::LameDuck | Event::Closed(_) => false,
    }
}

/// Logs, only once, that the comparison is forbidden.
pub(crate) fn note_denied(subject: &str) {
    info!(
        subject,
        "nats-server forbids the relay to compare its stores with other relays: grant its user to publish and subscribe to this subject"
    );
}

/// Compares the stores of this relay with those of others.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The connection that receives requests.
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) stores: Arc<StoreTable>,
    pub(crate) service: Arc<Service>,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) lifetime: Arc<Lifetime>,
    pub(crate) metrics: Arc<RelayMetrics>,
}

impl Comparison {
    /// Compares at intervals until a shutdown.
    pub(crate) async fn run(self) {
        tokio::select! {
            () = self.lifetime.stopping() => {}
            () = self.compare_at_intervals() => {}
        }
    }

    async fn compare_at_intervals(&self) {
        let inbox = inbox(self.subjects.instance());
        let mut warned = HashSet::new();
        sleep(FIRST_LOOK).await;
        loop {
            // Subscribed only while answers are read: anyone may publish to the inbox, and unread messages use memory.
            match self.bus.subscribe(&inbox, None).await {
                Ok(answers) => self.compare(&inbox, answers, &mut warned).await,
                Err(error) => return debug!(%error, "not comparing stores with other relays"),
            }

            let later = SPREAD.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0);
            sleep(INTERVAL + later).await;
        }
    }

    async fn compare(&self, inbox: &str, mut answers: Subscription, warned: &mut HashSet<(StoreName, String)>) {
        // The other relays remember which stores this one serves.
        let payload = Question::of_relay(self.subjects.prefix(), self.stores.names()).encode();
        let question =
            Message { subject: info_subject(), reply: Some(inbox.to_owned()), payload, ..Message::default() };
        if self.bus.publish(question).await.is_err() {
            return;
        }

        let until = Instant::now() + ANSWERS_WITHIN;
        let mut differing = BTreeSet::new();
        for _ in 0..ANSWERS_MAX {
            let Ok(Some(answer)) = timeout_at(until, answers.next()).await else { break };
            if answer.payload.len() <= ANSWER_MAX_BYTES {
                differing.extend(self.differences(&answer.payload));
            }
        }

        drop(answers);

        for store in self.stores.names() {
            let count = differing.iter().filter(|difference| difference.store == store).count();
            let label = StoreLabel { store: store.to_string() };
            self.metrics.store_differing.get_or_create_owned(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        warn_once(differing, warned);
    }

    /// Returns which of this relay's stores another relay serves from another place, according to its answer.
    fn differences(&self, payload: &[u8]) -> Vec<Difference> {
        let Ok(answer) = serde_json::from_slice::<Answer>(payload) else { return Vec::new() };
        let prefix = self.subjects.prefix().to_string();
        if answer.id == self.subjects.instance() || answer.metadata.get("prefix") != Some(&prefix) {
            return Vec::new();
        }
        self.service.neighbours.note(answer.stores());

        let instance = safe_name(&answer.id);
        let host = safe_name(answer.metadata.get("host").map_or("", String::as_str));
        let mut found: Vec<_> = self
            .stores
            .snapshot()
            .into_iter()
            .filter(|(store, ours)| ours.fingerprint().is_some_and(|ours| answer.differs(store, &ours)))
            .map(|(store, _)| Difference { store, instance: instance.clone(), host: host.clone() })
            .collect();
        found.dedup();
        found
    }
}

impl Answer {
    fn stores(&self) -> impl Iterator<Item = StoreName> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.metadata.get("store")?.parse().ok())
    }

    /// Returns whether the answering relay serves `store` from another place than the one with the fingerprint `ours`.
    fn differs(&self, store: &StoreName, ours: &str) -> bool {
        let of_store = |endpoint: &&Endpoint| endpoint.metadata.get("store").is_some_and(|name| name == store.as_str());
        // An endpoint without a fingerprint belongs to an older relay, or to a store that has none.
        let mut theirs =
            self.endpoints.iter().filter(of_store).filter_map(|endpoint| endpoint.metadata.get("fingerprint"));
        theirs.any(|theirs| theirs != ours)
    }
}

/// Logs the differences that were not logged before.
fn warn_once(differing: BTreeSet<Difference>, warned: &mut HashSet<(StoreName, String)>) {
    let news = differing
        .into_iter()
        .filter(|found| warned.len() < WARNED_MAX && warned.insert((found.store.clone(), found.instance.clone())));

    for Difference { store, instance, host } in news.take(WARNINGS_MAX) {
        warn!(
            %store,
            relay = instance,
            host,
            "another relay serves this store from another place: consumers may get either's objects. Compare \
             `stores.{store}` of both"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Shutdown;
    use crate::{Options, Relay, Stores};
    use gantry_store::file::{self, FileStore};
    use gantry_store::{Budget, Store};
    use gantry_testing::bus::MemoryNetwork;

    struct One {
        metrics: Arc<RelayMetrics>,
        _relay: Relay,
    }

    async fn relay(network: &MemoryNetwork, folder: &std::path::Path) -> One {
        let store = FileStore::new(&file::Options::new(folder), Budget::new(0)).unwrap();
        let stores: Stores = BTreeMap::from([("s".parse().unwrap(), Arc::new(store) as Arc<dyn Store>)]);
        let metrics = Arc::new(RelayMetrics::default());
        let relay =
            Relay::start(network.connect(), stores, Options::default(), Arc::clone(&metrics), Shutdown::default())
                .await
                .unwrap();
        One { metrics, _relay: relay }
    }

    fn differing(of: &One) -> i64 {
        of.metrics.store_differing.get_or_create(&StoreLabel { store: "s".to_owned() }).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_with_another_place_under_the_same_name_is_counted() {
        let one = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let network = MemoryNetwork::new(1);
        let first = relay(&network, one.path()).await;
        let same = relay(&network, &one.path().join(".")).await;
        sleep(FIRST_LOOK + ANSWERS_WITHIN * 2).await;
        assert_eq!((differing(&first), differing(&same)), (0, 0));

        let third = relay(&network, other.path()).await;
        sleep(INTERVAL + SPREAD + ANSWERS_WITHIN * 2).await;
        assert_eq!((differing(&first), differing(&same), differing(&third)), (1, 1, 2));

        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn tolerates_any_answer_of_an_unknown_client() {
        let folder = tempfile::tempdir().unwrap();
        let network = MemoryNetwork::new(1);
        let one = relay(&network, folder.path()).await;
        let stranger = network.connect();
        let mut questions = stranger.subscribe(&info_subject(), None).await.unwrap();
        let reply = questions.next().await.unwrap().reply.unwrap();
        let lie = |id: &str, store: &str| {
            let endpoints = [serde_json::json!({"metadata": {"store": store, "fingerprint": "x"}})];
            let metadata = serde_json::json!({"prefix": "gantry", "host": "a\u{1b}[31m\nb"});
            serde_json::json!({"id": id, "metadata": metadata, "endpoints": endpoints}).to_string()
        };
        let mut payloads = vec![String::new(), "{".to_owned(), "[".repeat(100_000), "x".repeat(ANSWER_MAX_BYTES + 1)];
        payloads.extend((0..2000).map(|n| lie(&n.to_string(), "s")));
        payloads.push(lie("late", "other"));
        for payload in payloads {
            let message = Message { subject: reply.clone(), payload: payload.into(), ..Message::default() };
            stranger.publish(message).await.unwrap();
        }
        sleep(ANSWERS_WITHIN * 2).await;

        let counted = differing(&one);
        assert!((1..=i64::try_from(ANSWERS_MAX).unwrap()).contains(&counted), "{counted}");
    }

    #[tokio::test(start_paused = true)]
    async fn hears_its_inbox_only_during_a_comparison() {
        let folder = tempfile::tempdir().unwrap();
        let network = MemoryNetwork::new(1);
        let _one = relay(&network, folder.path()).await;
        let stranger = network.connect();
        let mut questions = stranger.subscribe(&info_subject(), None).await.unwrap();
        let inbox = questions.next().await.unwrap().reply.unwrap();
        sleep(ANSWERS_WITHIN * 2).await;

        let mut bounced = stranger.subscribe("_INBOX.bounced", None).await.unwrap();
        let reply = Some("_INBOX.bounced".to_owned());
        stranger.publish(Message { subject: inbox, reply, ..Message::default() }).await.unwrap();

        let status = timeout_at(Instant::now() + ANSWERS_WITHIN, bounced.next()).await.unwrap().unwrap().status;
        assert_eq!(status, Some(503));
    }
}
