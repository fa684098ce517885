//! Bytes that are written before the bytes in front of them.

use super::*;
use gantry_proto::chunk::Chunk;

/// Returns the chunks of the object, of 1000 bytes each.
fn chunks(scene: &Scene) -> Vec<Chunk> {
    let pieces = scene.bytes.chunks(1000).zip(0..);
    pieces.map(|(bytes, at)| Chunk::new(at, at * 1000, bytes.to_vec().into())).collect()
}

/// Writes chunks in this order.
fn write(part: &mut PartWriter, chunks: impl IntoIterator<Item = Chunk>) {
    for chunk in chunks {
        part.write_chunk_at_its_place(&chunk, &RUN_ON).unwrap();
    }
}

fn checksum(scene: &Scene, kind: ChecksumKind, parts: Vec<PartRun>) -> Option<Checksum> {
    use sha2::Digest as _;
    let whole = sha2::Sha256::digest(&scene.bytes);
    let value = match kind {
        ChecksumKind::Composite => STANDARD.encode(sha2::Sha256::digest(whole)),
        ChecksumKind::FullObject | ChecksumKind::Etag => STANDARD.encode(whole),
    };
    Some(Checksum { algorithm: ChecksumAlgorithm::Sha256, kind, value, parts })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn chunks_in_any_order_are_verified_as_one_file(order in Just((0..100_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut scene = Scene::new();
        let whole = vec![PartRun { count: 1, size: scene.object.size }];
        for (checksum, proof) in [
            (scene.object.checksum.clone(), PROVED),
            (checksum(&scene, ChecksumKind::FullObject, Vec::new()), Proof::FullObject { algorithm: ChecksumAlgorithm::Sha256 }),
            (checksum(&scene, ChecksumKind::Composite, whole), Proof::Composite { algorithm: ChecksumAlgorithm::Sha256, parts: 1 }),
            (None, Proof::Transport),
        ] {
            scene.object.checksum = checksum;
            let chunks = chunks(&scene);
            let mut part = scene.fresh();

            write(&mut part, order.iter().map(|at| chunks[*at].clone()));

            prop_assert_eq!(part.commit().unwrap(), proof);
            scene.assert_done();
            fs::remove_file(&scene.target).unwrap();
        }
    }
}

#[test]
fn wrong_bytes_past_a_gap_are_not_put_in_place() {
    let scene = Scene::new();
    let mut chunks = chunks(&scene);
    chunks[50] = Chunk::new(50, 50_000, vec![0; 1000].into());
    chunks.reverse();
    let mut part = scene.fresh();

    write(&mut part, chunks);

    let wrong = part.commit();
    assert!(matches!(wrong, Err(Error::Mismatch { .. })), "{wrong:?}");
    assert_eq!(scene.files(), [""; 0]);
}

#[test]
fn bytes_that_were_changed_past_a_gap_are_noticed_when_they_are_read_again() {
    let mut scene = Scene::new();
    scene.object.checksum = checksum(&scene, ChecksumKind::FullObject, Vec::new());
    let chunks = chunks(&scene);
    let mut part = scene.fresh();
    write(&mut part, chunks[1..].iter().cloned());

    let mut file = scene.part();
    file.seek(SeekFrom::Start(70_000)).unwrap();
    file.write_all(b"other").unwrap();

    let altered = part.write_chunk_at_its_place(&chunks[0], &RUN_ON);
    assert!(matches!(altered, Err(Error::Altered(_))), "{altered:?}");
    part.suspend().unwrap();
    assert_eq!(scene.part().metadata().unwrap().len(), 1000, "the space is free again");
    assert_eq!(scene.open().resume_point().unwrap().proved, 1000);
}

#[test]
fn reading_past_a_gap_again_can_be_stopped() {
    let mut scene = Scene::new();
    scene.object.checksum = checksum(&scene, ChecksumKind::FullObject, Vec::new());
    let chunks = chunks(&scene);
    let mut part = scene.fresh();
    write(&mut part, chunks[1..].iter().cloned());

    let stopped = part.write_chunk_at_its_place(&chunks[0], &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Error::Stopped(_))), "{stopped:?}");
    part.suspend().unwrap();
    assert_eq!(scene.open().resume_point().unwrap().proved, 1000);
}

#[test]
fn bytes_past_a_gap_are_fetched_again_after_an_interruption() {
    for is_suspended in [true, false] {
        let scene = Scene::new();
        let chunks = chunks(&scene);
        let mut part = scene.fresh();
        write(&mut part, chunks[..30].iter().chain(&chunks[60..]).cloned());
        if is_suspended {
            part.suspend().unwrap()
        } else {
            drop(part)
        }

        assert_eq!(scene.part().metadata().unwrap().len(), 30_000, "the space is free again");
        let part = scene.open();
        assert_eq!(part.resume_point().unwrap().proved, 30_000);
        assert_eq!(scene.finish(part).unwrap(), PROVED);
        scene.assert_done();
    }
}

/// A killed process can't shorten the file.
#[test]
fn bytes_past_a_gap_that_a_killed_process_left_are_fetched_again() {
    let scene = Scene::new();
    scene.interrupt(30_000, 40_000);
    let mut file = scene.part();
    file.seek(SeekFrom::Start(60_000)).unwrap();
    file.write_all(&[0; 40_000]).unwrap();

    let part = scene.open();
    assert_eq!(part.resume_point().unwrap().proved, 40_000);
    assert_eq!(scene.finish(part).unwrap(), PROVED);
    scene.assert_done();
}
