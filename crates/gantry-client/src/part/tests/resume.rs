//! Which of the kept bytes are reused, and what they are held against.

use super::*;

/// Leaves 60,000 bytes behind that are not the object's, with a record that says they are.
fn plant(scene: &Scene, recorded: Option<Checksum>) {
    let object = ObjectInfo { checksum: recorded, ..scene.object.clone() };
    let mut part = scene.open().begin(&object, scene.range(), 0, &RUN_ON).unwrap();
    part.write(&[0; 60_000]).unwrap();
    drop(part);
}

fn sha256(scene: &Scene) -> Checksum {
    use sha2::Digest as _;
    Checksum {
        algorithm: ChecksumAlgorithm::Sha256,
        kind: ChecksumKind::FullObject,
        value: STANDARD.encode(sha2::Sha256::digest(&scene.bytes)),
        parts: Vec::new(),
    }
}

/// S3's composite checksum of one part.
fn composite(scene: &Scene, parts: Vec<PartRun>) -> Checksum {
    use sha2::Digest as _;
    let value = STANDARD.encode(sha2::Sha256::digest(sha2::Sha256::digest(&scene.bytes)));
    Checksum { algorithm: ChecksumAlgorithm::Sha256, kind: ChecksumKind::Composite, value, parts }
}

/// D1: the record's checksum was kept, or none, and the stated one ignored.
#[test]
fn a_checksum_stated_now_is_verified_whatever_the_record_holds() {
    let scene = Scene::new();
    let whole = || vec![PartRun { count: 1, size: scene.object.size }];
    let crc = scene.object.checksum.clone().unwrap();
    let unreadable = Checksum { value: "!".to_owned(), ..sha256(&scene) };
    for (recorded, stated) in [
        (None, crc.clone()),
        (None, sha256(&scene)),
        (None, composite(&scene, whole())),
        (Some(crc.clone()), crc.clone()),
        (Some(crc.clone()), sha256(&scene)),
        (Some(sha256(&scene)), crc.clone()),
        (Some(unreadable), crc.clone()),
        (Some(composite(&scene, Vec::new())), composite(&scene, whole())),
        (Some(composite(&scene, Vec::new())), crc.clone()),
    ] {
        let now = ObjectInfo { checksum: Some(stated), ..scene.object.clone() };
        let finish = || {
            let mut part = scene.open().begin(&now, scene.range(), 60_000, &RUN_ON)?;
            part.write(&scene.bytes[60_000..])?;
            part.commit()
        };

        plant(&scene, recorded.clone());
        let wrong = finish();
        assert!(matches!(wrong, Err(Error::Mismatch { .. })), "{recorded:?} {now:?}: {wrong:?}");
        assert_eq!(scene.files(), [""; 0]);

        let then = ObjectInfo { checksum: recorded, ..scene.object.clone() };
        let mut part = scene.open().begin(&then, scene.range(), 0, &RUN_ON).unwrap();
        part.write(&scene.bytes[..60_000]).unwrap();
        drop(part);
        let right = finish();
        assert!(matches!(right, Ok(Proof::FullObject { .. } | Proof::Composite { .. })), "{now:?}: {right:?}");
        fs::remove_file(&scene.target).unwrap();
    }
}

#[test]
fn a_recorded_checksum_still_holds_when_none_that_can_be_checked_is_stated() {
    let scene = Scene::new();
    for stated in [None, Some(composite(&scene, Vec::new()))] {
        plant(&scene, scene.object.checksum.clone());
        let now = ObjectInfo { checksum: stated, ..scene.object.clone() };

        let mut part = scene.open().begin(&now, scene.range(), 60_000, &RUN_ON).unwrap();
        part.write(&scene.bytes[60_000..]).unwrap();

        let wrong = part.commit();
        assert!(matches!(wrong, Err(Error::Mismatch { .. })), "{wrong:?}");
    }
}

#[test]
fn a_checksum_that_contradicts_the_record_starts_afresh() {
    let scene = Scene::new();
    plant(&scene, Some(sha256(&scene)));
    let other = Checksum { value: STANDARD.encode([7; 32]), ..sha256(&scene) };
    let now = ObjectInfo { checksum: Some(other), ..scene.object.clone() };
    assert!(!scene.open().resumes(&now, &scene.range(), 60_000));
}

#[test]
fn reading_again_for_another_checksum_can_be_stopped() {
    let scene = Scene::new();
    plant(&scene, None);
    let stopped = scene.open().begin(&scene.object, scene.range(), 60_000, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Error::Stopped(_))), "{stopped:?}");
    assert_eq!(scene.open().resume_point().unwrap().proved, 60_000);
}

/// D4: what came after the last checkpoint was taken by its length alone.
#[test]
fn bytes_that_were_never_recorded_are_fetched_again() {
    let mut scene = Scene::new();
    scene.object.checksum = None;
    let part = scene.fresh();
    let unmarked = fs::read(scene.sidecar()).unwrap();
    drop(part);
    for (noted, proved) in [(0, None), (20_000, Some(20_000))] {
        scene.interrupt(0, noted);
        if noted == 0 {
            // As a kill before the first note leaves it.
            fs::write(scene.folder.path().join(".object.bin.gantry-part"), []).unwrap();
            fs::write(scene.sidecar(), &unmarked).unwrap();
        }
        let mut file = scene.part();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&scene.bytes[noted..60_000]).unwrap();
        file.seek(SeekFrom::Start(40_000)).unwrap();
        file.write_all(&[!scene.bytes[40_000]]).unwrap();

        let part = scene.open();

        assert_eq!(part.resume_point().map(|point| point.proved), proved);
        assert_eq!(scene.finish(part).unwrap(), Proof::Transport);
        scene.assert_done();
    }
}

#[test]
fn damage_past_the_checkpoint_costs_what_came_after_it() {
    let mut scene = Scene::new();
    scene.object.checksum = None;
    for at in [30_000_u64, 59_999] {
        scene.interrupt(30_000, 60_000);
        let mut part = scene.part();
        part.seek(SeekFrom::Start(at)).unwrap();
        part.write_all(&[!scene.bytes[usize::try_from(at).unwrap()]]).unwrap();

        let part = scene.open();

        assert_eq!(part.resume_point().unwrap().proved, 30_000);
        assert_eq!(scene.finish(part).unwrap(), Proof::Transport);
        scene.assert_done();
    }
}

/// Each byte of the sidecar in turn is another one.
#[test]
fn a_damaged_record_never_vouches_for_wrong_bytes() {
    let mut scene = Scene::new();
    scene.object.checksum = None;
    scene.interrupt(30_000, 60_000);
    let good = fs::read(scene.sidecar()).unwrap();
    let bytes = fs::read(scene.folder.path().join(".object.bin.gantry-part")).unwrap();
    for at in (0..good.len()).filter(|at| good[*at] != b' ') {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        fs::write(scene.folder.path().join(".object.bin.gantry-part"), &bytes).unwrap();
        fs::write(scene.sidecar(), &bad).unwrap();

        let mut part = scene.open();

        if let Some(point) = part.resume_point() {
            assert!([30_000, 60_000].contains(&point.proved), "{at}: {point:?}");
            // The relay describes the object as it is; a record of another one is not resumed.
            assert!(part.resumes(&scene.object, &scene.range(), point.proved), "{at}: {point:?}");
        }
        part.claim.keep = true;
    }
}

/// D6: a record that could not be written cut the part file back to the checkpoint before.
#[test]
fn a_record_that_can_not_be_written_leaves_the_one_before_in_force() {
    let scene = Scene::new();
    scene.interrupt(30_000, 30_000);
    let mut part = scene.open().begin(&scene.object, scene.range(), 30_000, &RUN_ON).unwrap();
    part.record.break_for_test(&scene.sidecar());
    part.write(&scene.bytes[30_000..60_000]).unwrap();

    let error = part.suspend().unwrap_err();

    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_eq!(scene.part().metadata().unwrap().len(), 60_000);
    assert_eq!(scene.open().resume_point().unwrap().proved, 30_000);
    assert_eq!(scene.finish(scene.open()).unwrap(), PROVED);
    scene.assert_done();
}

#[test]
fn a_download_goes_on_when_its_checkpoints_can_not_be_recorded() {
    let scene = Scene::new();
    let policy = Policy { checkpoint_bytes: 1, note_bytes: 1, ..policy() };
    let part = PartFile::open_with(&scene.target, scene.wanted(), true, policy, &RUN_ON).unwrap();
    let mut part = part.begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
    part.record.break_for_test(&scene.sidecar());
    for chunk in scene.bytes.chunks(10_000) {
        part.write(chunk).unwrap();
        part.collect_checkpoint(true).unwrap();
    }

    assert_eq!(part.commit().unwrap(), PROVED);
    scene.assert_done();
}

/// Marks are written into blocks that the record has had from the start.
#[test]
fn a_record_needs_no_more_room_for_its_marks() {
    use std::os::unix::fs::MetadataExt as _;
    let scene = Scene::new();
    let mut part = scene.fresh();
    let before = fs::metadata(scene.sidecar()).unwrap();
    part.write(&scene.bytes[..60_000]).unwrap();
    part.suspend().unwrap();

    let after = fs::metadata(scene.sidecar()).unwrap();

    assert_eq!((after.ino(), after.len()), (before.ino(), before.len()));
    assert_eq!(scene.durable(), Some(60_000));
}

#[test]
fn of_two_checkpoints_the_one_before_holds_while_the_next_is_written() {
    let scene = Scene::new();
    scene.interrupt(30_000, 30_000);
    let mut part = scene.open().begin(&scene.object, scene.range(), 30_000, &RUN_ON).unwrap();
    let before = fs::read(scene.sidecar()).unwrap();
    part.write(&scene.bytes[30_000..60_000]).unwrap();
    part.suspend().unwrap();
    let after = fs::read(scene.sidecar()).unwrap();

    // The power fails in the middle of the write.
    let mut torn = after.clone();
    let changed: Vec<usize> = (0..after.len()).filter(|at| before.get(*at) != after.get(*at)).collect();
    let last = changed.iter().filter(|at| **at < after.len() - 4096).max().unwrap();
    torn[*last] = b'?';
    fs::write(scene.sidecar(), torn).unwrap();

    let later = Policy { boot: Some("boot two".to_owned()), ..policy() };
    let part = PartFile::open_with(&scene.target, scene.wanted(), true, later, &RUN_ON).unwrap();
    assert_eq!(part.resume_point().unwrap().proved, 30_000);
}
