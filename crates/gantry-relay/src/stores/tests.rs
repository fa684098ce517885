use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use crate::metrics::RelayMetrics;
use crate::shutdown::Shutdown;
use crate::{Error, Options, Relay, Stores};
use gantry_bus::{self as bus, Bus, Event, Message, NO_RESPONDERS};
use gantry_testing::bus::{Memory, MemoryNetwork, WhileCut};
use gantry_testing::store::MemoryStore;

fn stores(names: &[&str]) -> Stores {
    names.iter().map(|name| (name.parse().unwrap(), Arc::new(MemoryStore::new(1)) as _)).collect()
}

async fn relay(bus: &Arc<Memory>, stores: &Stores) -> Relay {
    let bus = Arc::clone(bus) as Arc<dyn Bus>;
    let metrics = Arc::new(RelayMetrics::default());
    Relay::start(bus, stores.clone(), Options::default(), metrics, Shutdown::default()).await.unwrap()
}

/// Returns the status of the first answer to a request. It is `None` if the subject is served.
async fn status(network: &MemoryNetwork, subject: &str) -> Option<u16> {
    let client = network.connect();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(&inbox, None).await.unwrap();
    let request = Message { subject: subject.to_owned(), reply: Some(inbox), ..Message::default() };
    client.publish(request).await.unwrap();
    answers.next().await.unwrap().status
}

/// The remaining stores were once replaced before a new one failed, and new stores before it kept being served.
#[tokio::test(start_paused = true)]
async fn a_store_that_can_not_be_added_changes_nothing() {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    let before = stores(&["a"]);
    let relay = relay(&bus, &before).await;
    bus.fail_subscribe("gantry.v1.stat.c");

    let failed = relay.replace_stores(stores(&["a", "b", "c"])).await;

    assert!(matches!(failed, Err(Error::Bus(bus::Error::Closed))), "{failed:?}");
    let after = relay.stores.snapshot();
    assert!(after.keys().eq(before.keys()), "{:?}", after.keys());
    assert!(after.values().zip(before.values()).all(|(after, before)| Arc::ptr_eq(after, before)));
    for (subject, expected) in [
        ("gantry.v1.stat.a", None),
        ("gantry.v1.stat.b", Some(NO_RESPONDERS)),
        ("gantry.v1.get.c", Some(NO_RESPONDERS)),
    ] {
        assert_eq!(status(&network, subject).await, expected, "{subject}");
    }
}

/// A subject that nats-server had once denied used to stay denied until the next connection.
#[tokio::test(start_paused = true)]
async fn a_reload_forgets_denied_subjects_until_they_are_denied_again() {
    let bus = MemoryNetwork::new(1).connect();
    let relay = relay(&bus, &stores(&["a", "b"])).await;
    let mut readiness = relay.readiness();
    let mut denied = async |subjects: &[&str]| {
        let expected: BTreeSet<_> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        readiness.wait_for(|readiness| readiness.denied == expected).await.unwrap();
    };
    let deny = |subject: &str| bus.say(Event::SubscribeDenied(subject.to_owned()));
    deny("gantry.v1.get.a");
    deny("gantry.v1.get.b");
    denied(&["gantry.v1.get.a", "gantry.v1.get.b"]).await;

    relay.replace_stores(stores(&["a"])).await.unwrap();
    denied(&[]).await;
    deny("gantry.v1.get.a");
    denied(&["gantry.v1.get.a"]).await;

    // If the relay can't subscribe to a store again, its subject stays denied.
    bus.fail_subscribe("gantry.v1.get.a");
    relay.replace_stores(stores(&["a"])).await.unwrap_err();
    deny("gantry.v1.get.b");
    denied(&["gantry.v1.get.a"]).await;
    assert!(relay.board.denied().contains("gantry.v1.get.a"));
}

/// While transfers filled the bus, each request once waited until the bus had accepted the refusals before it.
/// Consumers repeated their requests meanwhile: of a thousand concurrent transfers, most were started several times.
#[tokio::test(start_paused = true)]
async fn a_request_does_not_wait_until_the_refusals_before_it_are_sent() {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    let store = Arc::new(MemoryStore::new(1));
    store.put("k".parse().unwrap(), "bytes");
    let _relay = relay(&bus, &Stores::from([("a".parse().unwrap(), Arc::clone(&store) as _)])).await;
    let client = network.connect();
    for payload in ["{", "{", r#"{"key":"k"}"#] {
        let subject = "gantry.v1.get.a".to_owned();
        let reply = Some(client.new_inbox());
        client.publish(Message { subject, reply, payload: payload.into(), ..Message::default() }).await.unwrap();
    }

    // Messages that have arrived can still be read; published messages wait.
    bus.cut(WhileCut::Wait);

    let opened = async {
        while store.opens() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_millis(500), opened).await.expect("the request waits");
}
