//! Objects that change, and requests that fail.

use super::*;

use futures_util::StreamExt as _;
use gantry_client::verify::Verifier;
use gantry_proto::ListRequest;
use gantry_testing::bus::WhileCut;
use gantry_testing::store::Fault as StoreFault;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_replaced_object_is_reported_and_described_anew() {
    let world = World::new().await;
    world.objects.put(key(), content(1 << 20, 0));
    let old = stat(&world).await.unwrap();
    let new = world.objects.put(key(), content(2 << 20, 1));

    // For a short time, the description may be the old one. A request for that version then fails.
    assert_eq!(stat(&world).await.unwrap(), old);
    let opened = world.open(&old.pin(), 0..100).await;
    assert!(matches!(opened, Err(Error::Changed(_))), "{opened:?}");

    assert_eq!(stat(&world).await.unwrap(), new);
    assert_eq!(world.read(100..200).await.unwrap(), &content(2 << 20, 1)[100..200]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_differs_from_the_known_one_is_asked_for() {
    let world = World::new().await;
    world.objects.put(key(), content(1, 0));
    stat(&world).await.unwrap();
    let new = world.objects.put(key(), content(2, 1));

    assert_eq!(world.store.stat(&key(), &new.pin()).await.unwrap(), new);
    let other = Pin { if_match: Some("\"other\"".to_owned()), version_id: None };
    assert!(matches!(world.store.stat(&key(), &other).await, Err(Error::Changed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_never_gets_two_versions_under_one_etag() {
    let world = World::new().await;
    let versions = [content(4 << 20, 0), content(4 << 20, 1)];
    world.objects.put(key(), versions[0].clone());

    let mut seen = [0, 0];
    for (number, start) in (0..4_u64 << 20).step_by(64 << 10).enumerate() {
        if number == 30 {
            world.objects.put(key(), versions[1].clone());
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
        let object = stat(&world).await.unwrap();
        let opened = world.open(&object.pin(), start..start + (64 << 10)).await.unwrap();
        assert_eq!(opened.object.etag, object.etag);

        let version = usize::from(object.etag == "\"2\"");
        let at = usize::try_from(start).unwrap();
        assert_eq!(read(opened).await.unwrap(), &versions[version][at..at + (64 << 10)]);
        seen[version] += 1;
    }
    assert_eq!(seen, [30, 34]);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_object_without_a_pin_is_read_in_its_new_version() {
    let world = World::new().await;
    world.objects.put(key(), content(1 << 20, 0));
    for start in [0, 1000] {
        read(world.open(&Pin::default(), start..start + 1000).await.unwrap()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let new = world.objects.put(key(), content(1 << 20, 1));

    let opened = world.open(&Pin::default(), 2000..3000).await.unwrap();

    assert_eq!(opened.object.etag, new.etag);
    assert_eq!(read(opened).await.unwrap(), &content(1 << 20, 1)[2000..3000]);
}

#[tokio::test(start_paused = true)]
async fn missing_keys_and_stores_are_not_found() {
    let world = World::new().await;
    let other = world.relays.store("other".parse().unwrap());

    let (missing, stat) = (world.open(&Pin::default(), 0..1).await, stat(&world).await);
    assert!(matches!(missing, Err(Error::NotFound(_))) && matches!(stat, Err(Error::NotFound(_))), "{missing:?}");
    let opened = other.open(&key(), &Pin::default(), Span::default()).await;
    assert!(matches!(opened, Err(Error::NoBucket(_))), "{opened:?}");
}

#[tokio::test(start_paused = true)]
async fn a_range_past_the_end_is_reported_with_the_size() {
    let world = World::new().await;
    world.objects.put(key(), content(1000, 0));

    let past = world.open(&Pin::default(), 2000..3000).await;
    assert!(matches!(past, Err(Error::Range { start: 2000, size: 1000 })), "{past:?}");
    let at_the_end = world.open(&Pin::default(), 1000..2000).await.unwrap();
    assert_eq!(read(at_the_end).await.unwrap(), b"");
}

/// The kept description is of a longer version.
#[tokio::test(start_paused = true)]
async fn a_range_past_the_end_of_a_replaced_object_is_reported_with_its_size() {
    let world = World::new().await;
    world.objects.put(key(), content(5000, 0));
    stat(&world).await.unwrap();
    world.objects.put(key(), content(1000, 1));

    let past = world.open(&Pin::default(), 2000..3000).await;
    assert!(matches!(past, Err(Error::Range { start: 2000, size: 1000 })), "{past:?}");
    assert_eq!(stat(&world).await.unwrap().size, 1000);
}

#[tokio::test(start_paused = true)]
async fn without_a_relay_the_store_is_unavailable() {
    let bus = MemoryNetwork::new(1).connect();
    let store = Relays::new(bus, gantry_client::Options::default(), Options::default()).store("s".parse().unwrap());

    let opened = store.open(&key(), &Pin::default(), Span::default()).await;
    assert!(opened.is_err_and(|error| error.is_retryable()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_breaks_is_continued() {
    let world = World::new().await;
    let bytes = content(1 << 20, 0);
    world.objects.put(key(), bytes.clone());

    world.objects.plan([StoreFault::Break(500_000)]);
    let broken = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    assert_eq!(read(broken).await.unwrap(), bytes);
}

/// As with every store, the reader compares the whole object with the stored checksum. Doing both would hash it twice.
#[tokio::test(start_paused = true)]
async fn a_wrong_byte_is_left_to_the_readers_verifier() {
    let world = World::new().await;
    let bytes = content(1 << 20, 0);
    world.objects.put(key(), bytes.clone());
    world.objects.plan([StoreFault::Flip(500_000)]);

    let opened = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    let mut verifier = Verifier::new(opened.object.stated_checksum(), opened.object.size);
    let wrong = read(opened).await.unwrap();
    assert_ne!(wrong, bytes);

    verifier.update(&wrong);
    assert!(verifier.finish().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_changes_while_it_is_read_is_an_error() {
    let world = World::new().await;
    world.objects.put(key(), content(8 << 20, 0));
    world.objects.plan([StoreFault::Change(4 << 20)]);

    let changed = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    let changed = read(changed).await;
    assert!(matches!(changed, Err(Error::Changed(_))), "{:?}", changed.map(|bytes| bytes.len()));
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_requests_fail_within_seconds_and_name_the_reason() {
    let patience = Options::default().connection_patience;

    for publishes in [WhileCut::Wait, WhileCut::Lose] {
        let world = World::new().await;
        world.objects.put(key(), content(1 << 20, 0));
        world.consumer.cut(publishes);

        let (pin, request) = (Pin::default(), ListRequest::default());
        let (opened, described, listed, probed) =
            tokio::join!(world.open(&pin, 0..100), stat(&world), world.store.list(&request), world.store.probe(),);
        for failed in [opened.map(drop), described.map(drop), listed.map(drop), probed] {
            let Err(Error::Unavailable { message, .. }) = failed else { panic!("{failed:?}") };
            assert!(message.contains("no connection to nats-server"), "{message}");
        }

        let asked = Instant::now();
        assert!(stat(&world).await.is_err());
        assert!(asked.elapsed() <= patience + Duration::from_millis(10), "{:?}", asked.elapsed());

        world.consumer.restore();
        assert!(world.read(0..100).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_interruption_is_no_failure() {
    let world = World::new().await;
    let object = world.objects.put(key(), content(1 << 20, 0));
    world.consumer.cut(WhileCut::Lose);

    let (described, ()) = tokio::join!(stat(&world), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.consumer.restore();
    });
    assert_eq!(described.unwrap(), object);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_before_the_first_byte_is_a_failure_and_later_it_is_resumed() {
    let world = World::new().await;
    let bytes = content(32 << 20, 0);
    world.objects.put(key(), bytes.clone());

    world.objects.plan([StoreFault::Stall(0)]);
    let mut stalled = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    world.consumer.cut(WhileCut::Lose);
    let first = stalled.body.next().await;
    assert!(matches!(first, Some(Err(Error::Unavailable { .. }))), "{first:?}");
    world.consumer.restore();

    let mut begun = world.store.open(&key(), &Pin::default(), Span::default()).await.unwrap();
    let first = begun.body.next().await.unwrap().unwrap();
    world.consumer.cut(WhileCut::Lose);
    let (rest, ()) = tokio::join!(read(begun), async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.consumer.restore();
    });
    assert_eq!([first.to_vec(), rest.unwrap()].concat(), bytes);
}

#[tokio::test(start_paused = true)]
async fn an_absent_store_is_looked_for_once_in_a_while() {
    let world = World::new().await;
    let other = world.relays.store("other".parse().unwrap());

    let asked = Instant::now();
    for _ in 0..100 {
        let described = other.stat(&key(), &Pin::default()).await;
        assert!(matches!(described, Err(Error::NoBucket(_))), "{described:?}");
    }
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());

    // It may exist after a while.
    tokio::time::sleep(Options::default().description_age).await;
    let asked = Instant::now();
    assert!(other.probe().await.is_err());
    assert!(asked.elapsed() > Duration::from_secs(1), "{:?}", asked.elapsed());
}
