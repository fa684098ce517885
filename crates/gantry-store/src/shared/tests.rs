//! The decorator over a store that counts what is read from it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::budget::PLACE_BYTES;
use crate::double::{Double, Handle};

const MIB: usize = 1 << 20;
const PIECE: usize = 100_000;
const WHOLE: Span = Span { start: 0, end: None };
const CURRENT: Pin = Pin { if_match: None, version_id: None };

/// A shared store over a double with the object `k`.
struct World {
    double: Arc<Double>,
    store: Arc<SharedStore>,
    budget: Budget,
    bytes: Bytes,
}

impl World {
    fn new(size: usize, budget_bytes: usize, limits: Limits) -> Self {
        let double = Double::new(PIECE);
        let bytes = pattern(size, 7);
        double.put("k", "\"1\"", &bytes);

        let budget = Budget::new(budget_bytes as u64);
        let inner = Arc::new(Handle(Arc::clone(&double)));
        let store = SharedStore::new(inner, budget.of_store("s"), limits, Arc::new(Unobserved));
        Self { double, store: Arc::new(store), budget: budget.of_store("s"), bytes }
    }

    async fn open(&self, span: Span) -> Result<Opened, Error> {
        self.store.open(&key(), &CURRENT, span).await
    }

    async fn read(&self, span: Span) -> Result<Bytes, Error> {
        collect(self.open(span).await?).await
    }

    fn opens(&self) -> u64 {
        Double::count(&self.double.opens)
    }

    fn stats(&self) -> u64 {
        Double::count(&self.double.stats)
    }

    fn bytes_read(&self) -> usize {
        usize::try_from(Double::count(&self.double.read)).unwrap()
    }
}

fn key() -> Key {
    "k".parse().unwrap()
}

fn pattern(size: usize, seed: usize) -> Bytes {
    (0..size).map(|at| (at * 31 + at / 251 * 7 + seed).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

fn whole_first() -> Limits {
    Limits { first_bytes: 1 << 30, ..Limits::default() }
}

async fn collect(mut opened: Opened) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = opened.body.try_next().await? {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// Reads `len` bytes of a body.
async fn take(opened: &mut Opened, len: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    while bytes.len() < len {
        bytes.extend_from_slice(&opened.body.next().await.unwrap().unwrap());
    }
    bytes.freeze()
}

#[tokio::test(start_paused = true)]
async fn a_single_consumer_costs_one_request_and_no_memory() {
    let world = World::new(40 * MIB, 512 * MIB, Limits::default());
    let mut opened = world.open(WHOLE).await.unwrap();
    let mut offset = 0;

    while let Some(piece) = opened.body.next().await.transpose().unwrap() {
        let expected = world.bytes.slice(offset..offset + piece.len());
        assert_eq!(piece.as_ptr(), expected.as_ptr(), "the piece is a copy");
        offset += piece.len();
        if offset > 20 * MIB {
            assert_eq!(world.budget.reserved_bytes(), 0, "at {offset}");
        }
    }

    assert_eq!((offset, world.opens(), world.stats()), (40 * MIB, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_consumers_cost_one_read() {
    let world = Arc::new(World::new(24 * MIB, 512 * MIB, Limits::default()));
    let mut all = JoinSet::new();

    for number in 0..100_u64 {
        let world = Arc::clone(&world);
        all.spawn(async move {
            sleep(Duration::from_millis(number % 10)).await;
            let mut opened = world.open(WHOLE).await.unwrap();
            let mut got = 0;
            while let Some(piece) = opened.body.next().await {
                let piece = piece.unwrap();
                assert!(piece == world.bytes.slice(got..got + piece.len()), "consumer {number} at {got}");
                got += piece.len();
                // The first one leaves in the middle, and one is slow.
                if number == 0 && got > 5 * MIB {
                    return 0;
                }
                sleep(Duration::from_millis(if number == 50 { 500 } else { 1 + number % 3 })).await;
            }
            got
        });
    }
    let got: usize = all.join_all().await.into_iter().sum();

    assert_eq!(got, 99 * world.bytes.len());
    assert!(world.bytes_read() * 100 <= world.bytes.len() * 102, "{} bytes were read", world.bytes_read());
}

#[tokio::test(start_paused = true)]
async fn requests_at_once_share_the_open_and_the_description() {
    let world = World::new(MIB, 64 * MIB, Limits::default());
    Double::close(&world.double.open_gate);
    Double::close(&world.double.stat_gate);

    let mut first = world.open(WHOLE).boxed();
    assert!(first.as_mut().now_or_never().is_none());
    let mut all: Vec<_> = (0..50).map(|_| world.read(WHOLE).boxed()).collect();
    for one in &mut all {
        assert!(one.as_mut().now_or_never().is_none());
    }
    // The one that opened the object leaves before it is open.
    drop(first);
    Double::reopen(&world.double.stat_gate);
    Double::reopen(&world.double.open_gate);

    for one in all {
        assert_eq!(one.await.unwrap(), world.bytes);
    }
    assert_eq!((world.opens(), world.bytes_read()), (1, MIB));
    assert!(world.stats() <= 2, "{}", world.stats());
}

#[tokio::test(start_paused = true)]
async fn a_request_is_never_answered_with_a_version_older_than_itself() {
    let world = World::new(MIB, 64 * MIB, whole_first());
    let mut reading = world.open(WHOLE).await.unwrap();
    take(&mut reading, MIB / 2).await;

    // A description of the old version is in flight when the object is replaced.
    Double::close(&world.double.stat_gate);
    let mut early = world.read(WHOLE).boxed();
    assert!(early.as_mut().now_or_never().is_none());
    let new = pattern(MIB, 8);
    world.double.put("k", "\"2\"", &new);
    let mut late = world.read(WHOLE).boxed();
    assert!(late.as_mut().now_or_never().is_none());
    Double::reopen(&world.double.stat_gate);

    let (early, late) = tokio::join!(early, late);
    assert!(late.unwrap() == new);
    // The bytes that are kept are those of the version that was described.
    assert!(early.is_err_and(|error| matches!(error, Error::Changed(_))));

    let described = world.store.stat(&key(), &CURRENT).await.unwrap();
    assert_eq!(described.etag, "\"2\"");
    let pin = Pin { if_match: Some("\"1\"".to_owned()), version_id: None };
    assert!(matches!(world.store.open(&key(), &pin, WHOLE).await, Err(Error::Changed(_))));
}

#[tokio::test(start_paused = true)]
async fn versions_do_not_mix_when_the_object_is_replaced_midway() {
    let world = World::new(3 * MIB, 64 * MIB, Limits::default());
    let mut fast = world.open(WHOLE).await.unwrap();
    let mut slow = world.open(WHOLE).await.unwrap();
    let mut got_fast = take(&mut fast, 2 * MIB).await.to_vec();
    let got_slow = take(&mut slow, MIB).await;

    let new = pattern(4 * MIB, 9);
    world.double.put("k", "\"2\"", &new);
    assert!(world.read(WHOLE).await.unwrap() == new);

    // Kept bytes of the old version are still served to those that read it. Then the store reports the change.
    assert!(matches!(fast.body.try_next().await, Err(Error::Changed(_))));
    let mut rest = got_slow.to_vec();
    let error = loop {
        match slow.body.try_next().await {
            Ok(Some(piece)) => rest.extend_from_slice(&piece),
            Ok(None) => panic!("a body of a replaced object is complete"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Changed(_)), "{error:?}");
    assert!(rest == world.bytes[..rest.len()] && rest.len() >= 2 * MIB, "{}", rest.len());
    got_fast.truncate(rest.len());
    assert!(got_fast == world.bytes[..got_fast.len()]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_those_that_wait_and_is_not_kept() {
    let world = World::new(2 * MIB, 64 * MIB, Limits::default());
    world.double.break_after(MIB);
    let mut leading = world.open(WHOLE).await.unwrap();
    let mut waiting = world.open(WHOLE).await.unwrap();
    let mut behind = world.open(WHOLE).await.unwrap();

    take(&mut leading, MIB).await;
    take(&mut waiting, MIB).await;
    Double::close(&world.double.piece_gate);
    assert!(leading.body.next().now_or_never().is_none());
    assert!(waiting.body.next().now_or_never().is_none());
    Double::reopen(&world.double.piece_gate);

    assert!(matches!(leading.body.try_next().await, Err(Error::Unavailable { .. })));
    assert!(matches!(waiting.body.try_next().await, Err(Error::Unavailable { .. })));
    assert!(leading.body.next().await.is_none());

    // The one behind reads on with a request of its own, and a new one finds everything.
    assert!(take(&mut behind, 2 * MIB).await == world.bytes);
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);
    assert_eq!((world.opens(), world.bytes_read()), (2, 2 * MIB));
}

#[tokio::test(start_paused = true)]
async fn a_failed_open_is_reported_to_each_that_shares_it() {
    let world = World::new(MIB, 64 * MIB, Limits::default());
    let missing: Key = "missing".parse().unwrap();
    let (one, other) =
        tokio::join!(world.store.open(&missing, &CURRENT, WHOLE), world.store.open(&missing, &CURRENT, WHOLE));
    assert!(matches!(one, Err(Error::NotFound(_))) && matches!(other, Err(Error::NotFound(_))));

    let past = Span { start: MIB as u64 + 1, end: None };
    assert!(matches!(world.open(past).await, Err(Error::Range { .. })));
    assert_eq!(world.read(Span { start: MIB as u64, end: None }).await.unwrap().len(), 0);
    assert_eq!(world.read(Span { start: 5, end: Some(5) }).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_laggard_reads_for_itself_and_the_budget_is_kept() {
    // Nobody else uses the budget. It has room for ten blocks, and for some read-ahead.
    let world = World::new(24 * MIB, 12 * MIB, Limits::default());
    let mut laggard = world.open(WHOLE).await.unwrap();
    let mut fast = world.open(WHOLE).await.unwrap();

    let mut got = 0;
    while let Some(piece) = fast.body.try_next().await.unwrap() {
        assert!(piece == world.bytes.slice(got..got + piece.len()));
        got += piece.len();
        assert!(world.budget.reserved_bytes() <= 45 * MIB as u64 / 4, "{}", world.budget.reserved_bytes());
    }
    assert_eq!((got, world.bytes_read()), (24 * MIB, 24 * MIB));

    assert!(take(&mut laggard, 24 * MIB).await == world.bytes);
    // The laggard reads up to what is still kept, and nothing twice.
    assert!(world.bytes_read() < 40 * MIB, "{}", world.bytes_read());
}

#[tokio::test(start_paused = true)]
async fn a_store_without_memory_for_it_reads_for_each_consumer() {
    let world = World::new(2 * MIB, 0, Limits::default());
    let (one, other) = tokio::join!(world.read(WHOLE), world.read(WHOLE));

    assert!(one.unwrap() == world.bytes && other.unwrap() == world.bytes);
}

#[tokio::test(start_paused = true)]
async fn kept_bytes_linger_and_then_return_to_the_budget() {
    let world = World::new(3 * MIB, 64 * MIB, Limits::default());
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);

    sleep(Duration::from_secs(9)).await;
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);
    assert_eq!((world.opens(), world.stats(), world.bytes_read()), (1, 1, 3 * MIB));

    sleep(Duration::from_secs(12)).await;
    assert_eq!(world.budget.reserved_bytes(), 0);
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);
    assert_eq!((world.opens(), world.stats(), world.bytes_read()), (2, 1, 6 * MIB));
}

/// An edge relay whose cache folder was deleted never filled it again while its memory had the object.
#[tokio::test(start_paused = true)]
async fn what_is_always_in_memory_is_read_again_from_a_store_that_keeps_it() {
    let world = World::new(3 * MIB, 64 * MIB, Limits::default());
    let read_for_s = async |seconds: u64| {
        for _ in 0..seconds / 5 {
            assert!(world.read(WHOLE).await.unwrap() == world.bytes);
            sleep(Duration::from_secs(5)).await;
        }
    };
    read_for_s(200).await;
    assert_eq!((world.opens(), world.bytes_read()), (1, 3 * MIB));

    world.double.keeps.store(true, Ordering::SeqCst);
    let reserved = world.budget.reserved_bytes();
    read_for_s(5).await;
    assert_eq!((world.opens(), world.bytes_read()), (2, 6 * MIB));
    read_for_s(120).await;
    assert_eq!((world.opens(), world.bytes_read()), (4, 12 * MIB));
    assert_eq!(world.budget.reserved_bytes(), reserved);

    // One reader is enough, even a slow one.
    read_for_s(55).await;
    let mut slow = world.open(WHOLE).await.unwrap();
    assert_eq!(world.opens(), 5);
    read_for_s(100).await;
    assert_eq!((world.opens(), world.budget.reserved_bytes()), (5, reserved));
    assert!(take(&mut slow, 3 * MIB).await == world.bytes);
    drop(slow);

    sleep(Duration::from_secs(12)).await;
    assert_eq!(world.budget.reserved_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_takes_the_memory_of_kept_bytes() {
    let world = World::new(3 * MIB, 12 * MIB, Limits::default());
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);
    assert_eq!(world.budget.reserved_bytes(), 9 * MIB as u64 / 2);

    // Read-ahead may take it only once it is idle.
    let mut places: Vec<_> = (0..4).filter_map(|_| world.budget.try_admit(PLACE_BYTES)).collect();
    assert!(world.budget.try_reserve(3 * MIB as u64).is_none());
    places.extend(std::iter::from_fn(|| world.budget.try_admit(PLACE_BYTES)));
    assert_eq!((places.len(), world.budget.reserved_bytes()), (8, 12 * MIB as u64));

    places.truncate(4);
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);
    sleep(Duration::from_secs(2)).await;
    assert!(world.budget.try_reserve(3 * MIB as u64).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_range_is_shared_only_if_nothing_of_it_is_missing() {
    let world = World::new(3 * MIB, 64 * MIB, Limits::default());
    let range = |start, end| Span { start, end: Some(end) };
    assert!(world.read(range(1000, 2000)).await.unwrap() == world.bytes.slice(1000..2000));
    assert_eq!((world.opens(), world.stats()), (1, 0));

    assert!(world.read(range(1200, 1300)).await.unwrap() == world.bytes.slice(1200..1300));
    assert_eq!((world.opens(), world.stats()), (1, 1));
    assert!(world.read(range(1500, 2001)).await.unwrap() == world.bytes.slice(1500..2001));
    assert_eq!((world.opens(), world.stats()), (2, 1));

    // A range does not have the description of the whole object.
    assert!(world.read(WHOLE).await.unwrap() == world.bytes);
    assert_eq!((world.opens(), world.stats()), (3, 1));
    assert!(world.read(Span { start: 5, end: None }).await.unwrap() == world.bytes.slice(5..));
    assert_eq!((world.opens(), world.stats()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_late_consumer_reads_only_what_the_first_has_had_alone() {
    let world = World::new(24 * MIB, 512 * MIB, Limits { first_bytes: 4 * MIB as u64, ..Limits::default() });
    let mut first = world.open(WHOLE).await.unwrap();
    take(&mut first, 10 * MIB).await;

    let second = world.read(WHOLE).await.unwrap();
    assert!(second == world.bytes);
    take(&mut first, 13 * MIB).await;

    let alone = world.bytes_read() - 24 * MIB;
    assert!((10 * MIB..11 * MIB).contains(&alone), "{alone}");
}

/// Of 20 consumers that started at once, the first had read up to 30 MiB when S3 had described the object to the others.
#[tokio::test(start_paused = true)]
async fn what_the_first_reads_while_others_wait_for_the_description_is_kept() {
    let limits = Limits { first_bytes: 4 * MIB as u64, ..Limits::default() };
    let world = Arc::new(World::new(24 * MIB, 512 * MIB, limits));
    Double::close(&world.double.stat_gate);
    Double::close(&world.double.open_gate);
    let started = [0; 2].map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.open(WHOLE).await.unwrap() })
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!((world.opens(), world.stats()), (1, 1));

    world.double.open_gate.add_permits(1);
    let [first, second] = started;
    assert!(collect(first.await.unwrap()).await.unwrap() == world.bytes);
    Double::reopen(&world.double.stat_gate);
    assert!(collect(second.await.unwrap()).await.unwrap() == world.bytes);
    assert_eq!((world.opens(), world.bytes_read()), (1, 24 * MIB));

    // Later versions are not expected any more.
    sleep(Duration::from_secs(12)).await;
    Double::reopen(&world.double.open_gate);
    let alone = world.open(WHOLE).await.unwrap();
    assert!(collect(alone).await.unwrap() == world.bytes);
    assert_eq!((world.opens(), world.budget.reserved_bytes()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_that_nobody_wants() {
    let world = World::new(24 * MIB, 512 * MIB, Limits::default());
    let mut first = world.open(WHOLE).await.unwrap();
    let mut second = world.open(WHOLE).await.unwrap();
    take(&mut first, 2 * MIB).await;
    take(&mut second, MIB).await;

    drop(first);
    sleep(Duration::from_secs(5)).await;
    assert!(world.bytes_read() < 3 * MIB, "{}", world.bytes_read());

    // The second one continues the same response.
    take(&mut second, 22 * MIB).await;
    assert_eq!(world.opens(), 1);
    drop(second);
    assert!(
        timeout(Duration::from_secs(60), async {
            while world.budget.reserved_bytes() > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        })
        .await
        .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn kept_bytes_are_as_stale_as_the_description_of_the_request() {
    let world = World::new(3 * MIB, 64 * MIB, Limits::default());
    let describe = |stale_s| {
        let mut object = ObjectInfo::new(key(), world.bytes.len() as u64, "\"1\"".to_owned());
        object.stale_s = stale_s;
        world.double.put_object(object, &world.bytes);
    };

    describe(Some(7));
    let first = world.open(WHOLE).await.unwrap();
    assert_eq!(first.object.stale_s, Some(7));
    for stale_s in [None, Some(8)] {
        describe(stale_s);
        assert_eq!(world.open(WHOLE).await.unwrap().object.stale_s, stale_s);
    }
    assert_eq!(collect(first).await.unwrap(), world.bytes);
    assert_eq!(world.opens(), 1);
}
