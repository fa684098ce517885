//! The decorator over a store that counts what is read from it.

mod disks;
mod model;
mod stale;
mod world;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use self::world::{AMPLE, CURRENT, MIB, WHOLE, World, checked, collect, pattern};
use super::*;
use crate::double::Double;
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, PartRun};

/// A cache that is filled with an object of three and a half blocks.
async fn filled() -> (World, Bytes) {
    let world = World::new(AMPLE, Options::default()).await;
    let bytes = pattern(3 * MIB + MIB / 2, 1);
    world.double.put_object(checked("k", "\"1\"", &bytes), &bytes);
    assert_eq!(world.fill().await, bytes);
    assert_eq!((world.take_read(), world.blocks().len()), (bytes.len(), 4));
    (world, bytes)
}

#[tokio::test]
async fn a_second_request_asks_the_store_for_the_version_only() {
    let (mut world, bytes) = filled().await;
    assert_eq!(Double::count(&world.double.stats), 0);
    assert_eq!(world.reports.take(Report::Miss), 1);

    assert_eq!(world.read(WHOLE).await.unwrap(), bytes);
    assert_eq!((world.take_read(), Double::count(&world.double.stats)), (0, 1));
    assert_eq!((world.reports.take(Report::Hit), world.reports.served()), (1, bytes.len() as u64));

    // Also in another process.
    world.restart(AMPLE, Options::default()).await;
    let span = Span { start: MIB as u64 - 5, end: Some(3 * MIB as u64 + 5) };
    assert_eq!(world.read(span).await.unwrap(), bytes.slice(MIB - 5..3 * MIB + 5));
    let opened = world.open(WHOLE).await.unwrap();
    assert_eq!(opened.object, checked("k", "\"1\"", &bytes));
    assert_eq!(collect(opened).await.unwrap(), bytes);
    assert_eq!((world.take_read(), Double::count(&world.double.opens)), (0, 1));
}

#[tokio::test]
async fn only_missing_blocks_are_read_from_the_store() {
    let (world, bytes) = filled().await;

    for (missing, runs) in [
        (&[0][..], 1),
        (&[1][..], 1),
        (&[3][..], 1),
        (&[0, 1][..], 1),
        (&[1, 2][..], 1),
        (&[0, 2][..], 2),
        (&[2, 3][..], 1),
        (&[0, 1, 2, 3][..], 1),
    ] {
        for number in missing {
            std::fs::remove_file(world.block(*number)).unwrap();
        }
        let opens = Double::count(&world.double.opens);
        assert_eq!(world.fill().await, bytes, "{missing:?}");

        let expected: usize = missing.iter().map(|number| if *number == 3 { MIB / 2 } else { MIB }).sum();
        // A missing file is noticed when it is to be read, together with those after it.
        assert_eq!(world.take_read(), expected, "{missing:?}");
        assert_eq!(Double::count(&world.double.opens) - opens, runs, "{missing:?}");
        assert_eq!(world.blocks().len(), 4);
    }
}

#[tokio::test]
async fn consecutive_missing_blocks_are_one_request() {
    let world = World::new(AMPLE, Options::default()).await;
    let bytes = pattern(6 * MIB, 1);
    world.double.put("k", "\"1\"", &bytes);
    for start in [0, 5] {
        let start = start * MIB as u64;
        world.read(Span { start, end: Some(start + MIB as u64) }).await.unwrap();
        world.folder.settled().await;
    }
    assert_eq!(world.blocks().len(), 2);

    assert_eq!(world.fill().await, bytes);
    assert_eq!((world.blocks().len(), Double::count(&world.double.opens)), (6, 3));
    assert_eq!(world.take_read(), bytes.len());
}

#[tokio::test]
async fn a_replaced_object_is_served_at_once_and_versions_do_not_mix() {
    let (world, bytes) = filled().await;
    std::fs::remove_file(world.block(2)).unwrap();

    // Midway through the old version, whose third block is missing.
    let mut opened = world.open(WHOLE).await.unwrap();
    let mut got = opened.body.next().await.unwrap().unwrap().len();
    let new = pattern(2 * MIB, 2);
    world.double.put_object(checked("k", "\"2\"", &new), &new);
    let error = loop {
        match opened.body.next().await.unwrap() {
            Ok(piece) => got += piece.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Changed(_)), "{error:?}");
    assert_eq!(got, 2 * MIB);

    let opened = world.open(WHOLE).await.unwrap();
    assert_eq!(opened.object.etag, "\"2\"");
    assert_eq!(collect(opened).await.unwrap(), new);

    // The old version is gone from the store, so it is not served either.
    let pin = Pin { if_match: Some("\"1\"".to_owned()), version_id: None };
    let error = world.store.open(&"k".parse().unwrap(), &pin, WHOLE).await.unwrap_err();
    assert!(matches!(error, Error::Changed(_)), "{error:?}");
    world.double.remove("k");
    let error = world.open(WHOLE).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert_eq!(bytes.len(), 3 * MIB + MIB / 2);
}

#[tokio::test]
async fn a_version_that_is_replaced_before_its_first_byte_is_not_opened() {
    let (world, _) = filled().await;
    std::fs::remove_file(world.block(0)).unwrap();
    world.restart_without_first_block().await;
}

impl World {
    /// Replaces the object between its description and the request for its first block.
    async fn restart_without_first_block(mut self) {
        self.restart(AMPLE, Options::default()).await;
        Double::close(&self.double.stat_gate);
        let store = Arc::clone(&self.store);
        let opening = tokio::spawn(async move { store.open(&"k".parse().unwrap(), &CURRENT, WHOLE).await });
        while Double::count(&self.double.stats) == 0 {
            tokio::task::yield_now().await;
        }

        let new = pattern(MIB, 2);
        self.double.put("k", "\"2\"", &new);
        Double::reopen(&self.double.stat_gate);
        let opened = opening.await.unwrap().unwrap();
        assert_eq!(opened.object.etag, "\"2\"");
        assert_eq!(collect(opened).await.unwrap(), new);
    }
}

#[tokio::test]
async fn many_requests_share_the_question_for_the_version() {
    let (world, bytes) = filled().await;

    Double::close(&world.double.stat_gate);
    let reads = join_all((0..50).map(|_| world.read(WHOLE)));
    let answer = async {
        while Double::count(&world.double.stats) == 0 {
            tokio::task::yield_now().await;
        }
        Double::reopen(&world.double.stat_gate);
    };
    let (reads, ()) = tokio::join!(reads, answer);
    assert!(reads.iter().all(|read| *read.as_ref().unwrap() == bytes));
    assert!(Double::count(&world.double.stats) <= 2, "{}", Double::count(&world.double.stats));
    assert_eq!(world.take_read(), 0);
}

#[tokio::test]
async fn wrong_lengths_from_the_store_do_not_become_blocks() {
    for surplus in [-1, -(MIB as i64), 1, MIB as i64] {
        let world = World::new(AMPLE, Options::default()).await;
        let bytes = pattern(2 * MIB, 1);
        world.double.put("k", "\"1\"", &bytes);
        world.double.lie_about_length(surplus);

        // What exceeds the object arrives after its last byte, which nobody waits for, or together with it.
        let read = world.read(WHOLE).await;
        assert!(matches!(&read, Err(Error::Protocol(_))) || read.is_ok_and(|read| read == bytes), "{surplus}");
        assert_eq!(world.fill().await, bytes);
        assert_eq!(world.fill().await, bytes);
    }
}

#[tokio::test]
async fn bytes_that_do_not_match_the_stored_checksum_do_not_stay() {
    let world = World::new(AMPLE, Options::default()).await;
    let (bytes, wrong) = (pattern(2 * MIB + 1, 1), pattern(2 * MIB + 1, 2));
    world.double.put_object(checked("k", "\"1\"", &bytes), &wrong);

    // The consumer finds the mismatch itself.
    assert_eq!(world.fill().await, wrong);
    world.double.put_object(checked("k", "\"1\"", &bytes), &bytes);
    world.read(WHOLE).await.unwrap();
    world.folder.settled().await;
    assert_eq!(world.fill().await, bytes);
    world.take_read();
    assert_eq!(world.fill().await, bytes);
    assert_eq!(world.take_read(), 0);
}

/// An upstream replaced an object under its `ETag`. The kept blocks were once served for as long as the new object was asked
/// for, and refused by each consumer.
#[tokio::test]
async fn an_object_that_was_replaced_under_its_etag_is_read_again() {
    for part in [WHOLE, Span { start: 5, end: Some(MIB as u64) }] {
        let mut world = World::new(AMPLE, Options { serve_stale: true }).await;
        let (one, other) = (pattern(2 * MIB + 1, 1), pattern(2 * MIB + 1, 2));
        world.double.put_object(checked("k", "\"1\"", &one), &one);
        assert_eq!(world.fill().await, one);
        assert_eq!(world.fill().await, one);

        world.double.put_object(checked("k", "\"1\"", &other), &other);
        let end = part.end.map_or(other.len(), |end| usize::try_from(end).unwrap());
        assert_eq!(world.read(part).await.unwrap(), other.slice(usize::try_from(part.start).unwrap()..end));
        world.folder.settled().await;
        assert_eq!(world.fill().await, other);

        // The description that is used without the store is of the new object, also for another process.
        world.go_away(true);
        assert_eq!(world.fill().await, other);
        world.restart(AMPLE, Options { serve_stale: true }).await;
        assert_eq!(world.fill().await, other);
    }
}

/// A store whose answers to ranges have no checksum, with an object of two blocks: the first one is read as a range, the
/// second one up to the end.
async fn filled_in_two_parts(denies_stat: bool) -> (World, Bytes) {
    let world = World::new(AMPLE, Options::default()).await;
    world.double.forget_checksum_in_ranges.store(true, Ordering::SeqCst);
    world.double.denies_stat.store(denies_stat, Ordering::SeqCst);
    let bytes = pattern(2 * MIB, 1);
    world.double.put_object(checked("k", "\"1\"", &bytes), &bytes);

    for span in [Span { start: 0, end: Some(MIB as u64) }, Span { start: MIB as u64, end: None }] {
        world.read(span).await.unwrap();
        world.folder.settled().await;
    }
    assert_eq!((world.blocks().len(), world.take_read()), (2, bytes.len()));
    world.double.denies_stat.store(false, Ordering::SeqCst);
    (world, bytes)
}

/// Blocks that were read as a range once had no checksum. They were served beside those of a later object with the same
/// `ETag`.
#[tokio::test]
async fn blocks_of_objects_with_the_same_etag_do_not_mix() {
    for denies_stat in [false, true] {
        let (world, _) = filled_in_two_parts(denies_stat).await;
        let other = pattern(2 * MIB, 2);
        world.double.put_object(checked("k", "\"1\"", &other), &other);

        let all = Span { start: 0, end: Some(other.len() as u64) };
        let read = world.read(all).await;
        assert!(read.unwrap() == other, "{denies_stat}");
        world.folder.settled().await;
        assert!(world.fill().await == other, "{denies_stat}");
    }
}

/// Also if only the block that was read as a range is left.
#[tokio::test]
async fn a_block_without_a_checksum_is_not_served_for_an_object_with_one() {
    let (world, _) = filled_in_two_parts(true).await;
    std::fs::remove_file(world.block(1)).unwrap();
    let other = pattern(2 * MIB, 2);
    world.double.put_object(checked("k", "\"1\"", &other), &other);

    assert!(world.fill().await == other);
    assert!(world.fill().await == other);
    assert_eq!(world.take_read(), other.len());
}

#[tokio::test]
async fn blocks_that_were_read_as_ranges_are_served() {
    let (world, bytes) = filled_in_two_parts(false).await;
    for span in [WHOLE, Span { start: 5, end: Some(bytes.len() as u64 - 5) }] {
        let opened = world.open(span).await.unwrap();
        assert_eq!(opened.object, checked("k", "\"1\"", &bytes));
        collect(opened).await.unwrap();
    }
    assert_eq!(world.take_read(), 0);
}

/// A store without checksums, or whose descriptions lack them.
#[tokio::test]
async fn blocks_are_served_for_a_description_without_a_checksum() {
    let (world, bytes) = filled().await;
    let mut object = checked("k", "\"1\"", &bytes);
    object.checksum = None;
    world.double.put_object(object, &bytes);

    assert!(world.read(WHOLE).await.unwrap() == bytes);
    assert_eq!(world.take_read(), 0);
}

#[tokio::test]
async fn a_description_has_the_sizes_of_the_parts_as_without_a_cache() {
    let (world, bytes) = filled().await;
    let mut object = checked("k", "\"1\"", &bytes);
    let checksum = |parts| Checksum {
        algorithm: ChecksumAlgorithm::Sha256,
        kind: ChecksumKind::Composite,
        value: "AAAA".to_owned(),
        parts,
    };
    object.checksum = Some(checksum(vec![PartRun { count: 1, size: bytes.len() as u64 }]));
    world.double.put_object(object.clone(), &bytes);

    // Only an open returns the sizes.
    world.double.forget_parts_in_stat.store(true, Ordering::SeqCst);
    assert_eq!(world.store.stat(&object.key, &CURRENT).await.unwrap().checksum, Some(checksum(Vec::new())));
    let opens = Double::count(&world.double.opens);
    for _ in 0..3 {
        assert_eq!(world.open(WHOLE).await.unwrap().object.checksum, object.checksum);
    }
    assert_eq!((Double::count(&world.double.opens) - opens, world.take_read()), (1, 0));
}

#[tokio::test]
async fn a_request_that_starts_within_a_block_keeps_the_whole_blocks_after_it() {
    let world = World::new(AMPLE, Options::default()).await;
    let bytes = pattern(3 * MIB, 1);
    world.double.put("k", "\"1\"", &bytes);

    let span = Span { start: 7, end: Some(3 * MIB as u64 - 7) };
    assert_eq!(world.read(span).await.unwrap(), bytes.slice(7..3 * MIB - 7));
    world.folder.settled().await;
    assert_eq!(world.blocks().len(), 1);
    assert_eq!(world.fill().await, bytes);
    assert_eq!(world.blocks().len(), 3);
}

#[tokio::test]
async fn small_and_empty_objects_are_served() {
    let world = World::new(AMPLE, Options { serve_stale: true }).await;
    world.double.put("k", "\"1\"", &Bytes::new());
    for _ in 0..2 {
        assert_eq!(world.fill().await, Bytes::new());
    }

    world.double.put("k", "\"2\"", &Bytes::from_static(b"x"));
    assert_eq!(world.fill().await, "x");
    world.take_read();
    assert_eq!(world.fill().await, "x");
    assert_eq!(world.read(Span { start: 1, end: None }).await.unwrap(), "");
    let error = world.read(Span { start: 2, end: None }).await.unwrap_err();
    assert!(matches!(error, Error::Range { start: 2, size: 1 }), "{error:?}");
    assert_eq!(world.take_read(), 0);
}
