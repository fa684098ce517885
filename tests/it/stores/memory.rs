//! The in-memory store: it passes the tests of every store, and its faults do what their names say.

use std::time::Duration;

use bytes::Bytes;
use gantry_proto::{Key, Pin};
use gantry_store::{Error, Store};
use gantry_testing::store::{Fault, MemoryStore};
use tokio::time::{Instant, timeout};

use super::conformance::{self, Ways};
use super::{key, read};
use crate::support::data::random_bytes;

const SIZE: usize = 10_000;

fn store(fault: Fault) -> MemoryStore {
    let store = MemoryStore::new(1000);
    store.put(key("key"), random_bytes(1, SIZE));
    store.plan([fault]);
    store
}

async fn read_through(fault: Fault) -> Result<Bytes, Error> {
    read(&store(fault), "key", &Pin::default(), 0, None).await
}

#[tokio::test]
async fn the_double_conforms() {
    let store = MemoryStore::new(10_000);
    let put = async |name: &str, bytes: Bytes| {
        store.put(key(name), bytes);
    };
    let ways = Ways { awkward: &["/leading", "a//b", "trailing/"], key_max: Key::MAX_BYTES, is_ordered: true };
    conformance::conforms(&store, put, ways).await;
}

#[tokio::test(start_paused = true)]
async fn a_planned_fault_happens_once() {
    let right = random_bytes(1, SIZE);
    assert!(matches!(read_through(Fault::Unavailable).await, Err(Error::Unavailable { .. })));
    assert!(matches!(read_through(Fault::Denied).await, Err(Error::Denied(_))));
    assert!(matches!(read_through(Fault::Break(1500)).await, Err(Error::Unavailable { .. })));
    assert!(matches!(read_through(Fault::Change(0)).await, Err(Error::Changed(_))));
    assert!(timeout(Duration::from_secs(3600), read_through(Fault::Stall(9999))).await.is_err());
    assert_eq!(read_through(Fault::Short(1)).await.unwrap(), right.slice(..SIZE - 1));
    assert_eq!(read_through(Fault::Long(5)).await.unwrap().len(), SIZE + 5);
    let flipped = read_through(Fault::Flip(7)).await.unwrap();
    assert_eq!(flipped.iter().zip(&right).filter(|(one, other)| one != other).count(), 1);
    let began = Instant::now();
    assert_eq!(read_through(Fault::Slow(Duration::from_secs(1))).await.unwrap(), right);
    assert!(began.elapsed() >= Duration::from_secs(10));

    let store = store(Fault::Break(0));
    assert!(read(&store, "key", &Pin::default(), 0, None).await.is_err());
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), right);
    assert_eq!(store.opens(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    let run = async |seed| {
        let store = MemoryStore::new(1000);
        store.put(key("key"), random_bytes(1, SIZE));
        store.seed_faults(seed, 500);
        let mut results = Vec::new();
        for _ in 0..50 {
            let result = timeout(Duration::from_secs(3600), read(&store, "key", &Pin::default(), 0, None)).await;
            results.push(format!("{result:?}"));
        }
        results
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test]
async fn a_replaced_object_has_another_etag() {
    let store = store(Fault::None);
    let pin = store.stat(&key("key"), &Pin::default()).await.unwrap().pin();
    store.put(key("key"), "new");
    assert!(matches!(store.stat(&key("key"), &pin).await, Err(Error::Changed(_))));
    store.remove(&key("key"));
    assert!(matches!(store.stat(&key("key"), &pin).await, Err(Error::NotFound(_))));
}
