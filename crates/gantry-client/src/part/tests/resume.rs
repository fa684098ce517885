//! Which of the kept bytes are reused, and which checksum they are verified against.

use super::*;
use crate::part::trail::Trail;

/// The positions of the heads and marks in the record of a small description.
const FIRST_HEAD: Range<usize> = 0..4096;
const CHECKPOINTS: Range<usize> = FIRST_HEAD.end..3 * 4096;
const NOTE: Range<usize> = CHECKPOINTS.end..CHECKPOINTS.end + 4096;
const TRAIL: Range<usize> = NOTE.end..NOTE.end + 256 * 128;
const SECOND_HEAD: Range<usize> = TRAIL.end..TRAIL.end + 4096;

fn with_checksum(scene: &Scene, checksum: Option<Checksum>) -> ObjectInfo {
    let mut object = scene.object.clone();
    object.checksum = checksum;
    object
}

/// Leaves 60,000 wrong bytes behind, with a record that matches them.
fn plant(scene: &Scene, recorded: Option<Checksum>) {
    let object = with_checksum(scene, recorded);
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

/// The stated checksum was once ignored in favour of the recorded one, or of none.
#[test]
fn a_checksum_stated_now_is_verified_whatever_the_record_contains() {
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
        let now = with_checksum(&scene, Some(stated));
        let finish = || {
            let mut part = scene.open().begin(&now, scene.range(), 60_000, &RUN_ON)?;
            part.write(&scene.bytes[60_000..])?;
            part.commit()
        };

        plant(&scene, recorded.clone());
        let wrong = finish();
        assert!(matches!(wrong, Err(Error::Mismatch { .. })), "{recorded:?} {now:?}: {wrong:?}");
        assert_eq!(scene.files(), [""; 0]);

        let then = with_checksum(&scene, recorded);
        let mut part = scene.open().begin(&then, scene.range(), 0, &RUN_ON).unwrap();
        part.write(&scene.bytes[..60_000]).unwrap();
        drop(part);
        let right = finish();
        assert!(matches!(right, Ok(Proof::FullObject { .. } | Proof::Composite { .. })), "{now:?}: {right:?}");
        fs::remove_file(&scene.target).unwrap();
    }
}

#[test]
fn a_recorded_checksum_remains_valid_if_no_usable_one_is_stated() {
    let scene = Scene::new();
    for stated in [None, Some(composite(&scene, Vec::new()))] {
        plant(&scene, scene.object.checksum.clone());
        let now = with_checksum(&scene, stated);

        let mut part = scene.open().begin(&now, scene.range(), 60_000, &RUN_ON).unwrap();
        part.write(&scene.bytes[60_000..]).unwrap();

        let wrong = part.commit();
        assert!(matches!(wrong, Err(Error::Mismatch { .. })), "{wrong:?}");
    }
}

#[test]
fn a_checksum_that_contradicts_the_record_restarts_the_download() {
    let scene = Scene::new();
    plant(&scene, Some(sha256(&scene)));
    let other = Checksum { value: STANDARD.encode([7; 32]), ..sha256(&scene) };
    let now = with_checksum(&scene, Some(other));
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

/// Bytes past the last checkpoint were once reused by their length alone.
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
            // A kill before the first note leaves this state.
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
fn damage_past_the_checkpoint_costs_the_bytes_after_it() {
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

/// Changes each byte of the sidecar in turn.
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
            // The relay describes the current object. A record of another object is not resumed.
            assert!(part.resumes(&scene.object, &scene.range(), point.proved), "{at}: {point:?}");
        }
        part.claim.keep = true;
    }
}

/// A mark that could not be written once truncated the part file to the previous checkpoint.
#[test]
fn a_mark_that_can_not_be_written_leaves_the_previous_one_valid() {
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
fn a_download_continues_if_its_checkpoints_can_not_be_recorded() {
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

/// Marks are written into blocks that were allocated with the record.
#[test]
fn a_record_needs_no_further_space_for_its_marks() {
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
fn a_checkpoint_remains_valid_while_the_next_one_is_written() {
    let scene = Scene::new();
    scene.interrupt(30_000, 30_000);
    let mut part = scene.open().begin(&scene.object, scene.range(), 30_000, &RUN_ON).unwrap();
    let before = fs::read(scene.sidecar()).unwrap();
    part.write(&scene.bytes[30_000..60_000]).unwrap();
    part.suspend().unwrap();
    let after = fs::read(scene.sidecar()).unwrap();

    // The power fails during the write.
    let mut torn = after.clone();
    let changed: Vec<usize> = (0..after.len()).filter(|at| before.get(*at) != after.get(*at)).collect();
    let last = changed.iter().filter(|at| CHECKPOINTS.contains(at)).max().unwrap();
    torn[*last] = b'?';
    fs::write(scene.sidecar(), torn).unwrap();

    let later = Policy { boot: Some("boot two".to_owned()), ..policy() };
    let part = PartFile::open_with(&scene.target, scene.wanted(), true, later, &RUN_ON).unwrap();
    assert_eq!(part.resume_point().unwrap().proved, 30_000);
}

/// The distance of the trail's marks, and the length of the chunks, in tests with a trail.
const SPACING: u64 = 1000;

impl Scene {
    fn open_with_trail(&self) -> PartFile {
        let policy = Policy { trail_bytes: SPACING, ..policy() };
        PartFile::open_with(&self.target, self.wanted(), true, policy, &RUN_ON).unwrap()
    }

    /// Continues with a trail up to `len` bytes, and leaves the files as a killed process would.
    fn interrupt_with_trail(&self, len: usize) {
        let part = self.open_with_trail();
        let from = part.resume_point().map_or(0, |point| point.proved);
        let mut part = part.begin(&self.object, self.range(), from, &RUN_ON).unwrap();
        for chunk in self.bytes[usize::try_from(from).unwrap()..len].chunks(usize::try_from(SPACING).unwrap()) {
            part.write(chunk).unwrap();
        }
    }

    fn proved(&self) -> Option<u64> {
        let mut part = self.open_with_trail();
        part.claim.keep = true;
        part.resume_point().map(|point| point.proved)
    }

    fn damage_part(&self, at: u64) {
        let mut part = self.part();
        part.seek(SeekFrom::Start(at)).unwrap();
        part.write_all(&[!self.bytes[usize::try_from(at).unwrap()]]).unwrap();
    }
}

#[test]
fn damage_costs_only_the_bytes_after_the_last_mark_before_it() {
    for (at, proved) in [
        (0, None),
        (999, None),
        (1000, Some(1000)),
        (1001, Some(1000)),
        (31_999, Some(31_000)),
        (32_000, Some(32_000)),
        (59_999, Some(59_000)),
    ] {
        for is_cut in [false, true] {
            let scene = Scene::new();
            scene.interrupt_with_trail(60_000);
            if is_cut {
                scene.part().set_len(at).unwrap();
            } else {
                scene.damage_part(at);
            }

            assert_eq!(scene.proved(), proved, "{at} {is_cut}");

            assert_eq!(scene.finish(scene.open_with_trail()).unwrap(), PROVED);
            scene.assert_done();
        }
    }
}

/// A resumed download writes a new record.
#[test]
fn the_trail_of_kept_bytes_outlives_a_resume() {
    let scene = Scene::new();
    scene.interrupt_with_trail(60_000);
    scene.damage_part(40_500);
    scene.interrupt_with_trail(70_000);

    scene.damage_part(20_500);

    assert_eq!(scene.proved(), Some(20_000));
    assert_eq!(scene.finish(scene.open_with_trail()).unwrap(), PROVED);
    scene.assert_done();
}

/// Marks past the checkpoint do not prove that the bytes reached the disk.
#[test]
fn after_a_restart_of_the_machine_the_trail_counts_up_to_the_checkpoint() {
    let scene = Scene::new();
    scene.interrupt_with_trail(30_000);
    scene.open_with_trail().begin(&scene.object, scene.range(), 30_000, &RUN_ON).unwrap().suspend().unwrap();
    scene.interrupt_with_trail(60_000);
    let policy = Policy { boot: Some("boot two".to_owned()), trail_bytes: SPACING, ..policy() };
    let proved = || {
        let mut part = PartFile::open_with(&scene.target, scene.wanted(), true, policy.clone(), &RUN_ON).unwrap();
        part.claim.keep = true;
        part.resume_point().map(|point| point.proved)
    };

    assert_eq!(proved(), Some(30_000));
    scene.damage_part(15_500);
    assert_eq!(proved(), Some(15_000));
}

#[test]
fn damage_to_one_place_of_a_record_costs_at_most_one_mark() {
    let scene = Scene::new();
    scene.interrupt_with_trail(60_500);
    let good = fs::read(scene.sidecar()).unwrap();
    assert_eq!(good.len(), SECOND_HEAD.end);
    for at in (0..good.len()).filter(|at| good[*at] != b' ' || at % 64 == 0).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(scene.sidecar(), &bad).unwrap();

        let expected = if NOTE.contains(&at) { 60_000..=60_500 } else { 60_500..=60_500 };

        let proved = scene.proved();
        assert!(proved.is_some_and(|proved| expected.contains(&proved)), "{at}: {proved:?}");
    }
}

#[test]
fn the_remaining_marks_of_a_damaged_record_are_used() {
    let scene = Scene::new();
    scene.interrupt_with_trail(60_500);
    let good = fs::read(scene.sidecar()).unwrap();
    let without = |places: &[Range<usize>]| {
        let mut bad = good.clone();
        for place in places {
            bad[place.clone()].fill(0);
        }
        bad
    };
    let grown = [&good[..], &[7; 5000]].concat();
    for (what, bad, proved) in [
        ("the first head", without(&[FIRST_HEAD]), Some(60_500)),
        ("the first head and all marks but the trail", without(&[FIRST_HEAD, CHECKPOINTS, NOTE]), Some(60_000)),
        ("all marks but the trail, and the second head", without(&[CHECKPOINTS, NOTE, SECOND_HEAD]), Some(60_000)),
        ("the trail and the second head", good[..TRAIL.start].to_vec(), Some(60_500)),
        ("the end of the trail", good[..TRAIL.start + 50 * 128 + 5].to_vec(), Some(60_500)),
        ("the note", without(&[NOTE]), Some(60_000)),
        (
            "the note, and the trail from its 20th mark",
            without(&[NOTE, TRAIL.start + 20 * 128..TRAIL.end]),
            Some(20_000),
        ),
        ("both heads", without(&[FIRST_HEAD, SECOND_HEAD]), None),
        ("nothing, with more at its end", grown, Some(60_500)),
    ] {
        fs::write(scene.sidecar(), &bad).unwrap();
        assert_eq!(scene.proved(), proved, "{what}");
    }
}

/// A mark that is copied to another slot is invalid, and so is a mark of another record.
#[test]
fn marks_are_valid_only_in_their_slot_and_their_record() {
    let scene = Scene::new();
    scene.interrupt_with_trail(60_000);
    let good = fs::read(scene.sidecar()).unwrap();
    let other = Scene::new();
    let mut object = other.object.clone();
    object.etag = "\"e2\"".to_owned();
    let part = other.open_with_trail().begin(&object, other.range(), 0, &RUN_ON).unwrap();
    let empty = fs::read(other.sidecar()).unwrap();
    drop(part);
    let mut moved = good.clone();
    moved[CHECKPOINTS.start..TRAIL.end].rotate_right(128);
    let mut foreign = empty;
    foreign[CHECKPOINTS.start..TRAIL.end].copy_from_slice(&good[CHECKPOINTS.start..TRAIL.end]);

    for bad in [moved, foreign] {
        fs::write(scene.sidecar(), &bad).unwrap();
        assert_eq!(scene.proved(), None);
    }
}

/// Records with valid CRCs that no download writes.
#[test]
fn a_record_that_contradicts_itself_is_ignored() {
    let scene = Scene::new();
    let beyond = scene.object.size + 1;
    for range in [0..beyond, beyond..beyond, Range { start: 5, end: 4 }] {
        scene.interrupt(10, 20);
        let Held { mut claim, .. } = Claim::acquire(&scene.target).unwrap();
        claim.keep = true;
        let sidecar = Sidecar::new(scene.wanted().store, scene.object.clone(), &range, Some(BOOT.to_owned()));
        sidecar.place(&claim.names, &[], &mut Trail::over(1, 1)).unwrap();
        drop(claim);

        let part = scene.open();

        assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::NoRecord)), "{range:?}");
    }
}
