//! The connection of an upstream store, and what its requests state.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::ready;
use gantry_proto::Via;
use gantry_store::via;
use gantry_testing::store::Fault as StoreFault;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{Connect, Uplink};

/// Returns an uplink to the world's relay. It can connect while the flag is set.
fn uplink(world: &World, is_up: &Arc<AtomicBool>) -> Uplink {
    uplink_to("s", world, is_up)
}

fn uplink_to(store: &str, world: &World, is_up: &Arc<AtomicBool>) -> Uplink {
    let (bus, is_up) = (Arc::clone(&world.consumer) as Arc<dyn Bus>, Arc::clone(is_up));
    let connect: Connect = Box::new(move || {
        let connected = if is_up.load(Ordering::Relaxed) { Ok(Arc::clone(&bus)) } else { Err("refused".to_owned()) };
        ready(connected).boxed()
    });
    Uplink::start(store.parse().unwrap(), connect, gantry_client::Options::default(), Options::fresh())
}

#[tokio::test(start_paused = true)]
async fn an_uplink_fails_at_once_without_a_connection_and_serves_once_there_is_one() {
    let world = World::new().await;
    world.objects.put(key(), "bytes");
    let is_up = Arc::new(AtomicBool::new(false));
    let uplink = uplink(&world, &is_up);
    sleep(Duration::from_millis(1)).await;

    let began = Instant::now();
    let failed = uplink.stat(&key(), &Pin::default()).await.unwrap_err();
    assert!(failed.is_retryable() && failed.to_string().contains("refused"), "{failed}");
    assert_eq!(began.elapsed(), Duration::ZERO);

    is_up.store(true, Ordering::Relaxed);
    while uplink.probe().await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    let opened = uplink.open(&key(), &Pin::default(), Span { start: 0, end: None }).await.unwrap();
    assert_eq!(read(opened).await.unwrap(), b"bytes");
}

#[tokio::test(start_paused = true)]
async fn an_uplink_asks_for_the_version_of_each_request() {
    let world = World::new().await;
    let uplink = uplink(&world, &Arc::new(AtomicBool::new(true)));

    for text in ["one", "other", "last one"] {
        world.objects.put(key(), text);
        let object = uplink.stat(&key(), &Pin::default()).await.unwrap();
        assert_eq!(object.size, text.len() as u64);
        let opened = uplink.open(&key(), &object.pin(), Span { start: 0, end: Some(2) }).await.unwrap();
        assert_eq!(read(opened).await.unwrap(), text.as_bytes()[..2]);
    }
}

/// Consumers retried them, and read the upstream's address as that of their own nats-server.
#[tokio::test(start_paused = true)]
async fn final_refusals_of_an_upstream_stay_final_and_name_it() {
    let world = World::new().await;
    let is_up = Arc::new(AtomicBool::new(true));
    let (known, unknown) = (uplink(&world, &is_up), uplink_to("other", &world, &is_up));
    world.objects.put(key(), content(5, 0));
    world.objects.plan([StoreFault::Denied]);
    let (current, whole) = (Pin::default(), Span { start: 0, end: None });
    let outdated = Pin { if_match: Some("\"0\"".to_owned()), version_id: None };

    let denied = known.open(&key(), &current, whole).await.unwrap_err();
    let missing = known.stat(&"missing".parse().unwrap(), &current).await.unwrap_err();
    let changed = known.open(&key(), &outdated, whole).await.unwrap_err();
    let no_store = unknown.stat(&key(), &current).await.unwrap_err();
    for (error, expected, store) in [
        (denied, Error::Denied(String::new()), "s"),
        (missing, Error::NotFound(String::new()), "s"),
        (changed, Error::Changed(String::new()), "s"),
        (no_store, Error::NoBucket(String::new()), "other"),
    ] {
        assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected), "{error:?}");
        assert!(error.to_string().starts_with(&format!("the relay's upstream store {store}: ")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_returns_to_a_relay_is_refused_for_good() {
    let world = World::new().await;
    world.objects.put(key(), "bytes");
    let uplink = uplink(&world, &Arc::new(AtomicBool::new(true)));
    let passed = Via::default().and(world.relay.instance());

    let pin = Pin::default();
    let span = Span { start: 0, end: None };
    let asked = async { (uplink.stat(&key(), &pin).await.err(), uplink.open(&key(), &pin, span).await.err()) };
    let (stat, open) = via::scope(passed, asked).await;
    for error in [stat.unwrap(), open.unwrap()] {
        assert!(matches!(&error, Error::Protocol(text) if text.contains("in a circle")), "{error:?}");
    }
}
