//! Times in which the store is unreachable.

use std::time::Duration;

use super::*;

const STALE: Options = Options { serve_stale: true };

async fn filled_for_stale() -> (World, Bytes) {
    let world = World::new(AMPLE, STALE).await;
    let bytes = pattern(2 * MIB + 9, 1);
    world.double.put_object(checked("k", "\"1\"", &bytes), &bytes);
    assert_eq!(world.fill().await, bytes);
    (world, bytes)
}

#[track_caller]
fn assert_away<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
}

#[tokio::test]
async fn a_complete_object_is_served_without_the_store_if_that_is_enabled() {
    let (mut world, bytes) = filled_for_stale().await;
    let key: Key = "k".parse().unwrap();
    world.go_away(true);

    // Also in another process.
    for _ in 0..2 {
        let opened = world.open(WHOLE).await.unwrap();
        assert!(opened.object.stale_s.is_some_and(|age| age < 60));
        assert_eq!(collect(opened).await.unwrap(), bytes);
        assert!(world.store.stat(&key, &CURRENT).await.unwrap().stale_s.is_some());
        assert_eq!(world.read(Span { start: 5, end: Some(9) }).await.unwrap(), bytes.slice(5..9));
        world.restart(AMPLE, STALE).await;
    }
    assert_eq!(world.reports.take(Report::Stale), 4);

    // A request for another version is not answered with this one.
    let pin = |etag: &str| Pin { if_match: Some(etag.to_owned()), version_id: None };
    world.store.open(&key, &pin("\"1\""), WHOLE).await.unwrap();
    assert_away(world.store.open(&key, &pin("\"2\""), WHOLE).await);

    world.go_away(false);
    assert_eq!(world.open(WHOLE).await.unwrap().object.stale_s, None);
    world.restart(AMPLE, Options::default()).await;
    world.go_away(true);
    assert_away(world.open(WHOLE).await);
    assert_away(world.store.stat(&key, &CURRENT).await);
}

#[tokio::test]
async fn the_age_is_that_of_the_last_answer_of_the_store() {
    let (mut world, _) = filled_for_stale().await;
    world.restart(AMPLE, STALE).await;
    world.go_away(true);

    let current = std::fs::read_dir(world.path()).unwrap().map(|entry| entry.unwrap().path());
    let current = current.filter(|path| path.extension().is_some_and(|extension| extension == "current"));
    let hour_ago = disk::now() - Duration::from_secs(3600);
    for path in current {
        std::fs::File::open(path).unwrap().set_modified(hour_ago).unwrap();
    }
    world.restart(AMPLE, STALE).await;

    let age = world.open(WHOLE).await.unwrap().object.stale_s.unwrap();
    assert!((3600..3660).contains(&age), "{age}");
}

#[tokio::test]
async fn an_incomplete_or_damaged_object_is_not_served_without_the_store() {
    let (world, bytes) = filled_for_stale().await;
    world.go_away(true);
    assert_eq!(world.fill().await, bytes);

    std::fs::write(world.block(1), "damaged").unwrap();
    let opened = world.open(WHOLE).await.unwrap();
    assert_away(collect(opened).await);
    assert_away(world.open(WHOLE).await);
    assert_eq!(world.reports.take(Report::Damaged), 1);

    world.go_away(false);
    assert_eq!(world.fill().await, bytes);
    world.go_away(true);
    assert_eq!(world.fill().await, bytes);
}

#[tokio::test]
async fn an_object_that_does_not_match_its_stored_checksum_is_not_served_without_the_store() {
    let world = World::new(AMPLE, STALE).await;
    let (bytes, wrong) = (pattern(2 * MIB, 1), pattern(2 * MIB, 2));
    world.double.put_object(checked("k", "\"1\"", &bytes), &wrong);

    // In two parts, so that nobody has seen the whole.
    for span in [Span { start: 0, end: Some(MIB as u64) }, Span { start: MIB as u64, end: None }] {
        world.read(span).await.unwrap();
        world.folder.settled().await;
    }
    assert_eq!(world.blocks().len(), 2);

    world.go_away(true);
    assert_away(world.open(WHOLE).await);
    world.folder.settled().await;
    assert_eq!(world.blocks().len(), 0);
}

#[tokio::test]
async fn only_the_version_that_was_current_last_is_served_without_the_store() {
    let (mut world, _) = filled_for_stale().await;
    let key: Key = "k".parse().unwrap();

    // A newer version is known, but not kept.
    let new = pattern(3 * MIB, 2);
    world.double.put_object(checked("k", "\"2\"", &new), &new);
    world.store.stat(&key, &CURRENT).await.unwrap();
    world.folder.settled().await;
    world.go_away(true);
    assert_away(world.open(WHOLE).await);
    world.restart(AMPLE, STALE).await;
    assert_away(world.open(WHOLE).await);

    world.go_away(false);
    assert_eq!(world.fill().await, new);
    world.go_away(true);
    assert_eq!(world.fill().await, new);

    // An object that was deleted is not served either.
    world.go_away(false);
    world.double.remove("k");
    assert!(matches!(world.open(WHOLE).await, Err(Error::NotFound(_))));
    world.go_away(true);
    assert_away(world.open(WHOLE).await);
    world.restart(AMPLE, STALE).await;
    assert_away(world.open(WHOLE).await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_not_waited_for() {
    let (world, bytes) = filled_for_stale().await;
    Double::close(&world.double.stat_gate);

    let opened = world.open(WHOLE).await.unwrap();
    assert!(opened.object.stale_s.is_some());
    assert_eq!(collect(opened).await.unwrap(), bytes);
}

#[tokio::test]
async fn refusals_are_not_answered_from_the_cache() {
    let (world, _) = filled_for_stale().await;
    let denied = Error::Denied("no".to_owned());
    let credentials = Error::unavailable_because(UnavailableKind::Credentials, "expired");
    let excluded = Error::unavailable_because(UnavailableKind::NetworkRules, "excluded");

    let outage = Error::unavailable_because(UnavailableKind::TokenService, "can't reach it");
    assert!(is_away(&Error::unavailable("away")) && is_away(&outage) && !is_away(&excluded));
    let of_upstream = Error::unavailable_because(UnavailableKind::Upstream, "upstream store: no credentials");
    assert!(!is_away(&of_upstream));
    assert!(!is_away(&denied) && !is_away(&credentials) && !is_away(&Error::Changed(String::new())));
    world.double.remove("k");
    assert!(matches!(world.open(WHOLE).await, Err(Error::NotFound(_))));
}
