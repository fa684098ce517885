//! Whole objects and ranges, in parallel and in sequence.

use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::*;

const MIB: usize = 1 << 20;

/// The size of the ranges that a sequential reader requests, in bytes.
const STEP: u64 = 64 << 10;

/// Returns the part of `bytes` at these offsets.
fn part(bytes: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    let at = |offset| usize::try_from(offset).unwrap().min(bytes.len());
    &bytes[at(range.start)..at(range.end)]
}

#[tokio::test(start_paused = true)]
async fn a_whole_object_costs_one_transfer_and_no_description() {
    let world = World::new().await;
    let bytes = content(5 * MIB + 3, 0);
    let object = world.objects.put(key(), bytes.clone());

    let opened = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();

    assert_eq!(opened.object, object);
    assert_eq!(read(opened).await.unwrap(), bytes);
    let counts = world.counts();
    assert_eq!((counts.transfers, counts.descriptions_asked), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_with_several_connections_costs_one_description() {
    let world = World::new().await;
    world.delay(Duration::from_millis(50));
    let bytes = content(40 * MIB, 0);
    world.objects.put(key(), bytes.clone());

    // Eight connections, and a MiB for each request.
    let next = std::sync::atomic::AtomicU64::new(0);
    let connection = || async {
        loop {
            let start = next.fetch_add(MIB as u64, std::sync::atomic::Ordering::Relaxed);
            if start >= bytes.len() as u64 {
                return Ok::<_, Error>(());
            }
            let range = start..start + MIB as u64;
            assert_eq!(world.read(range.clone()).await?, part(&bytes, range));
        }
    };
    try_join_all((0..8).map(|_| connection())).await.unwrap();

    let counts = world.counts();
    assert_eq!((counts.descriptions_asked, counts.descriptions_known), (1, 39));
}

#[tokio::test(start_paused = true)]
async fn questions_that_arrive_together_are_asked_once() {
    let world = World::new().await;
    world.delay(Duration::from_millis(50));
    world.objects.put(key(), content(1, 0));

    let answers = join_all((0..100).map(|_| stat(&world))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(world.counts().descriptions_asked, 1);

    let missing: Key = "missing".parse().unwrap();
    let (store, pin) = (&world.store, &Pin::default());
    let answers = join_all((0..100).map(|_| store.stat(&missing, pin))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::NotFound(_)))), "{answers:?}");
    assert_eq!(world.counts().descriptions_asked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_question_survives_the_caller_that_asked_first() {
    let world = World::new().await;
    world.delay(Duration::from_millis(50));
    let object = world.objects.put(key(), content(1, 0));

    let mut first = Box::pin(stat(&world));
    let second = stat(&world);
    tokio::select! {
        biased;
        _ = &mut first => panic!("answered at once"),
        () = tokio::time::sleep(Duration::from_millis(10)) => drop(first),
    }

    assert_eq!(second.await.unwrap(), object);
}

#[tokio::test(start_paused = true)]
async fn sequential_ranges_are_twenty_times_faster_than_a_round_trip_each() {
    let world = World::new().await;
    world.delay(Duration::from_millis(50));
    let bytes = content(32 * MIB, 0);
    world.objects.put(key(), bytes.clone());

    let started = Instant::now();
    let size = bytes.len() as u64;
    for start in (0..size).step_by(usize::try_from(STEP).unwrap()) {
        let range = start..start + STEP;
        assert_eq!(world.read(range.clone()).await.unwrap(), part(&bytes, range), "{start}");
    }

    let round_trips = Duration::from_millis(50) * u32::try_from(size / STEP).unwrap();
    assert!(started.elapsed() * 20 < round_trips, "{:?} of {round_trips:?}", started.elapsed());
    // The first range shows nothing, and the second one starts to read ahead.
    let counts = world.counts();
    assert_eq!((counts.transfers, counts.ranges_continued), (2, size / STEP - 2));
}

/// Between two ranges the client takes half a second, so that the description expires now and then.
#[tokio::test(start_paused = true)]
async fn ranges_without_a_version_continue_a_transfer_for_longer_than_a_description_is_kept() {
    let world = World::new().await;
    let bytes = content(2 * MIB, 0);
    world.objects.put(key(), bytes.clone());

    for start in (0..bytes.len() as u64).step_by(usize::try_from(STEP).unwrap()) {
        let opened = world.open(&Pin::default(), start..start + STEP).await.unwrap();
        assert_eq!(read(opened).await.unwrap(), part(&bytes, start..start + STEP));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    let counts = world.counts();
    assert_eq!((counts.transfers, counts.ranges_continued), (2, 30));
    assert!((5..=8).contains(&counts.descriptions_asked), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn ranges_of_any_length_continue_a_transfer() {
    let world = World::new().await;
    let bytes = content(3 * MIB, 0);
    let object = world.objects.put(key(), bytes.clone());

    let mut start = 0;
    for len in (1..).map(|number: u64| number * number * 7 % 300_000 + 1) {
        let range = start..start + len;
        let opened = world.open(&object.pin(), range.clone()).await.unwrap();
        assert_eq!(read(opened).await.unwrap(), part(&bytes, range), "{start}+{len}");
        start += len;
        if start >= object.size {
            break;
        }
    }

    assert_eq!(world.counts().transfers, 2);
    assert!(world.idle().await < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn scattered_ranges_are_not_read_ahead() {
    let world = World::new().await;
    let bytes = content(8 * MIB, 0);
    world.objects.put(key(), bytes.clone());

    for number in 0..50_u64 {
        let start = number * 7_919_777 % (bytes.len() as u64 - STEP);
        assert_eq!(world.read(start..start + STEP).await.unwrap(), part(&bytes, start..start + STEP));
        world.idle().await;
    }

    let counts = world.counts();
    assert_eq!((counts.transfers, counts.ranges_continued, counts.ahead_abandoned), (50, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_no_range_continues_is_cancelled_after_a_second() {
    let world = World::new().await;
    world.objects.put(key(), content(32 * MIB, 0));

    for start in [0, STEP, 2 * STEP] {
        world.read(start..start + STEP).await.unwrap();
    }
    assert_eq!(world.relay.transfers_active(), 1);

    let waited = world.idle().await;
    assert!((Duration::from_millis(900)..Duration::from_millis(1200)).contains(&waited), "{waited:?}");
    assert_eq!(world.counts().ahead_abandoned, 1);

    // The reader is still known as sequential.
    world.read(3 * STEP..4 * STEP).await.unwrap();
    world.read(4 * STEP..5 * STEP).await.unwrap();
    assert_eq!((world.counts().transfers, world.counts().ranges_continued), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn sequential_readers_beyond_the_limit_read_without_read_ahead() {
    let world = World::with(Options { ahead_max: 2, ..Options::default() }).await;
    let bytes = content(4 * MIB, 0);
    let object = world.objects.put(key(), bytes.clone());

    let reader = |first: u64| {
        let (world, bytes, pin) = (&world, &bytes, object.pin());
        async move {
            for start in (first..first + 16 * STEP).step_by(usize::try_from(STEP).unwrap()) {
                let opened = world.open(&pin, start..start + STEP).await.unwrap();
                assert_eq!(read(opened).await.unwrap(), part(bytes, start..start + STEP));
                assert!(world.relay.transfers_active() <= 6, "{}", world.relay.transfers_active());
            }
        }
    };
    join_all((0..4).map(|number| reader(number * MIB as u64))).await;

    world.idle().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_body_cancels_its_transfer_at_once() {
    let world = World::new().await;
    world.objects.put(key(), content(64 * MIB, 0));

    let mut opened = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    opened.body.next().await.unwrap().unwrap();
    assert_eq!(world.relay.transfers_active(), 1);
    drop(opened);

    assert!(world.idle().await < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_holds_one_window_and_delays_nobody() {
    let world = World::new().await;
    let bytes = content(64 * MIB, 0);
    world.objects.put(key(), bytes.clone());

    let mut stalled = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    stalled.body.next().await.unwrap().unwrap();
    let started = Instant::now();
    let whole = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();

    assert_eq!(read(whole).await.unwrap(), bytes);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
