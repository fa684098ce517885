//! Whether other relays serve the same objects under the same store names.
//!
//! Relays of one prefix share their requests, so that two of them with different places under one store name give
//! consumers now the one and now the other object. Nothing in a transfer shows it. So each relay describes its stores
//! by a fingerprint, and looks now and then what the others say.
//!
//! The answers come from whoever may publish to the inbox: their number, size and time are bounded, and nothing but
//! names of a safe alphabet gets into the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::Shared;
use crate::metrics::StoreLabel;
use gantry_bus::{Event, Message, Subscription};
use gantry_proto::StoreName;

/// The subject at which all relays describe themselves.
pub(super) const QUESTION: &str = "$SRV.INFO.gantry";

/// How long after the start the first look comes: relays that start together are there by then.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How often to look, and how much later at the most, so that relays that start together do not all look at once.
const INTERVAL: Duration = Duration::from_secs(60);
const SPREAD: Duration = Duration::from_secs(10);

/// How long answers are awaited, how many, and how large one may be in bytes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const ANSWERS_MAX: usize = 512;
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// How many warnings one look may cause, and how many pairs are remembered as warned of.
const WARNINGS_MAX: usize = 4;
const WARNED_MAX: usize = 1024;

/// The longest name of a relay or host that is logged.
const NAME_MAX: usize = 64;

/// What a relay says of itself, as far as it matters here.
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

/// Another relay that serves a store of ours from another place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Difference {
    store: StoreName,
    instance: String,
    host: String,
}

/// Returns the subject at which the answers for `instance` arrive. Of its own kind, so that a relay needs no right to
/// the inboxes of others.
pub(super) fn inbox(instance: &str) -> String {
    format!("_INBOX.gantry-peers.{instance}")
}

/// Returns whether nats-server forbade nothing but this comparison, without which all is served.
pub(super) fn is_about_comparing(event: &Event, instance: &str) -> bool {
    match event {
        Event::PublishDenied(subject) => subject == QUESTION,
        Event::SubscribeDenied(subject) => *subject == inbox(instance),
        Event::SlowConsumer | Event::LameDuck | Event::Closed(_) => false,
    }
}

/// Compares the stores with those of other relays until a shutdown.
pub(super) async fn watch(shared: Arc<Shared>) {
    let comparing = async {
        let inbox = inbox(&shared.instance);
        let mut answers = match shared.buses.requests.subscribe(&inbox, None).await {
            Ok(answers) => answers,
            Err(error) => return debug!(%error, "not comparing stores with other relays"),
        };
        let mut warned = HashSet::new();
        sleep(FIRST_LOOK).await;
        loop {
            look(&shared, &inbox, &mut answers, &mut warned).await;
            let later = SPREAD.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0);
            sleep(INTERVAL + later).await;
        }
    };
    tokio::select! {
        () = shared.shutdown.drain.cancelled() => {}
        () = shared.shutdown.force.cancelled() => {}
        () = comparing => {}
    }
}

/// Logs once that the comparison is forbidden.
pub(super) fn note_denied(subject: &str) {
    info!(
        subject,
        "nats-server forbids to compare stores with other relays: grant the relay to publish there, or to subscribe"
    );
}

async fn look(shared: &Shared, inbox: &str, answers: &mut Subscription, warned: &mut HashSet<(StoreName, String)>) {
    let question = Message { subject: QUESTION.to_owned(), reply: Some(inbox.to_owned()), ..Message::default() };
    if shared.buses.requests.publish(question).await.is_err() {
        return;
    }

    let until = Instant::now() + ANSWERS_WITHIN;
    let mut differing = BTreeSet::new();
    for _ in 0..ANSWERS_MAX {
        let Ok(Some(answer)) = timeout_at(until, answers.next()).await else { break };
        if answer.payload.len() <= ANSWER_MAX_BYTES {
            differing.extend(differences(shared, &answer.payload));
        }
    }

    for store in shared.stores.snapshot().into_keys() {
        let count = differing.iter().filter(|difference| difference.store == store).count();
        let label = StoreLabel { store: store.to_string() };
        shared.metrics.store_differing.get_or_create_owned(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
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

/// Returns which of our stores a relay says it serves from another place.
fn differences(shared: &Shared, payload: &[u8]) -> Vec<Difference> {
    let Ok(answer) = serde_json::from_slice::<Answer>(payload) else { return Vec::new() };
    let prefix = shared.options.prefix.to_string();
    if answer.id == shared.instance || answer.metadata.get("prefix") != Some(&prefix) {
        return Vec::new();
    }
    let (instance, host) = (safe(&answer.id), safe(answer.metadata.get("host").map_or("", String::as_str)));

    let mut found: Vec<_> = shared
        .stores
        .snapshot()
        .into_iter()
        .filter_map(|(store, ours)| {
            let ours = ours.fingerprint()?;
            let theirs = answer
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.metadata.get("store").is_some_and(|name| name == store.as_str()));
            // One without a fingerprint is an older relay, or a store that has none.
            let mut theirs = theirs.filter_map(|endpoint| endpoint.metadata.get("fingerprint"));
            let differs = theirs.any(|theirs| *theirs != ours);
            differs.then(|| Difference { store, instance: instance.clone(), host: host.clone() })
        })
        .collect();
    found.dedup();
    found
}

/// Returns a name of a peer without what must not get into a log.
fn safe(name: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().filter(allowed).take(NAME_MAX).collect()
}

/// Returns this host's name.
pub(super) fn host() -> String {
    let of_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let of_environment = || std::env::var("HOSTNAME").ok();
    let name = of_kernel.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).or_else(of_environment);
    safe(&name.unwrap_or_else(|| "unknown".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Relay, Stores};
    use super::*;
    use crate::metrics::RelayMetrics;
    use crate::shutdown::Shutdown;
    use gantry_bus::Bus as _;
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
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
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
    async fn whatever_a_stranger_answers_is_borne() {
        let folder = tempfile::tempdir().unwrap();
        let network = MemoryNetwork::new(1);
        let one = relay(&network, folder.path()).await;
        let stranger = network.connect();
        let mut questions = stranger.subscribe(QUESTION, None).await.unwrap();
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

    #[test]
    fn a_peers_name_is_logged_without_what_could_forge_a_line() {
        assert_eq!(safe("relay-1.site_a"), "relay-1.site_a");
        assert_eq!(safe("a\u{1b}[31m\nWARN b"), "a31mWARNb");
        assert_eq!(safe(&"x".repeat(1000)).len(), NAME_MAX);
        assert!(!host().is_empty());
    }
}
