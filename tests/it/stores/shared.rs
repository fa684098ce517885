//! Shared reads: a store that wraps another one passes the tests of every store.

use std::sync::Arc;

use bytes::Bytes;
use gantry_proto::{Key, Pin};
use gantry_store::Budget;
use gantry_store::shared::{Limits, SharedStore, Unobserved};
use gantry_testing::store::{Fault, MemoryStore};

use super::conformance::{self, Ways};
use super::{key, read};
use crate::support::data::random_bytes;

#[tokio::test]
async fn shared_reads_conform() {
    for (piece_bytes, budget_bytes, first_bytes) in
        [(10_000, 64 << 20, 16 << 20), (1000, 64 << 20, 0), (70_000, 400_000, 1 << 30), (10_000, 0, 1 << 20)]
    {
        let inner = Arc::new(MemoryStore::new(piece_bytes));
        let limits = Limits { first_bytes, ..Limits::default() };
        let store = Arc::clone(&inner);
        let store = SharedStore::new(store, Budget::new(budget_bytes), limits, Arc::new(Unobserved));

        let put = async |name: &str, bytes: Bytes| {
            inner.put(key(name), bytes);
        };
        let ways = Ways { awkward: &["/leading", "a//b", "trailing/"], key_max: Key::MAX_BYTES, is_ordered: true };
        conformance::conforms(&store, put, ways).await;
    }
}

/// Whatever the store does, several consumers get right bytes or an error, and the next ones get the object.
#[tokio::test(start_paused = true)]
async fn faults_of_the_store_never_mix_bytes() {
    let bytes = random_bytes(1, 3_000_000);
    let faults =
        [Fault::Unavailable, Fault::Denied, Fault::Break(1_000_000), Fault::Change(1_500_000), Fault::Short(7)];

    for fault in faults {
        let inner = Arc::new(MemoryStore::new(100_000));
        inner.put(key("key"), bytes.clone());
        inner.plan([fault]);
        let store = SharedStore::new(inner, Budget::new(64 << 20), Limits::default(), Arc::new(Unobserved));

        let current = Pin::default();
        let readers = (0..10).map(|_| read(&store, "key", &current, 0, None));
        for got in futures_util::future::join_all(readers).await.into_iter().flatten() {
            assert!(got == bytes || (fault == Fault::Short(7) && got == bytes.slice(..got.len())), "{fault:?}");
        }
        assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap() == bytes, "{fault:?}");
    }
}
