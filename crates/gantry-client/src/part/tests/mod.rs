mod ahead;
mod foreign;
mod resume;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use tempfile::TempDir;

use super::claim::{Hold, hold};
use super::*;
use crate::verify::{Mismatch, Proof};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, PartRun};

/// Is never set, so that kept bytes are read to their end.
static RUN_ON: AtomicBool = AtomicBool::new(false);

const BOOT: &str = "boot one";

/// A temporary folder, and an object to download into it.
struct Scene {
    folder: TempDir,
    target: PathBuf,
    object: ObjectInfo,
    bytes: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::named("object.bin")
    }

    fn named(name: &str) -> Self {
        let bytes: Vec<u8> = (0..25_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let folder = tempfile::tempdir().unwrap();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        let mut object = ObjectInfo::new("models/one".parse().unwrap(), bytes.len() as u64, "\"e1\"".to_owned());
        object.checksum = Some(Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: STANDARD.encode(crc.to_be_bytes()),
            parts: Vec::new(),
        });
        Self { target: folder.path().join(name), folder, object, bytes }
    }

    fn wanted(&self) -> Get {
        Get::new("files".parse().unwrap(), self.object.key.clone())
    }

    fn open(&self) -> PartFile {
        PartFile::open_with(&self.target, self.wanted(), true, policy(), &RUN_ON).unwrap()
    }

    fn range(&self) -> Range<u64> {
        0..self.object.size
    }

    fn fresh(&self) -> PartWriter {
        self.open().begin(&self.object, self.range(), 0, &RUN_ON).unwrap()
    }

    /// Leaves `len` bytes as a killed process would. A checkpoint covers the first `durable` of them.
    fn interrupt(&self, durable: usize, len: usize) {
        let mut part = self.fresh();
        part.write(&self.bytes[..durable]).unwrap();
        part.suspend().unwrap();
        if len > durable {
            let mut part = self.open().begin(&self.object, self.range(), durable as u64, &RUN_ON).unwrap();
            part.write(&self.bytes[durable..len]).unwrap();
        }
    }

    /// Opens the part file without its lock, so that a test can damage it.
    fn part(&self) -> fs::File {
        fs::OpenOptions::new().read(true).write(true).open(self.folder.path().join(".object.bin.gantry-part")).unwrap()
    }

    fn sidecar(&self) -> PathBuf {
        self.folder.path().join(".object.bin.gantry-part.json")
    }

    /// Returns the length that the last checkpoint covers, if there is a sidecar.
    fn durable(&self) -> Option<u64> {
        let Held { mut claim, ours } = Claim::acquire(&self.target).unwrap();
        claim.keep = true;
        let found = Sidecar::read(&claim.names, &ours).unwrap()?;
        Some(found.marks.durable().last().map_or(0, |mark| mark.len))
    }

    /// Resumes the download, or starts it from the beginning, and commits it.
    fn finish(&self, part: PartFile) -> Result<Proof, Error> {
        let from = part.resume_point().map_or(0, |point| point.proved);
        let mut part = part.begin(&self.object, self.range(), from, &RUN_ON)?;
        part.write(&self.bytes[usize::try_from(from).unwrap()..])?;
        part.commit()
    }

    fn assert_done(&self) {
        assert_eq!(fs::read(&self.target).unwrap(), self.bytes);
        assert_eq!(self.files(), [self.target.file_name().unwrap().to_str().unwrap()]);
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A policy that never makes a mark by itself. Tests set the limits that they need.
fn policy() -> Policy {
    Policy {
        boot: Some(BOOT.to_owned()),
        trail_bytes: u64::MAX,
        note_bytes: u64::MAX,
        note_interval: Duration::from_secs(u64::from(u32::MAX)),
        checkpoint_bytes: u64::MAX,
        checkpoint_interval: Duration::from_secs(u64::from(u32::MAX)),
    }
}

const PROVED: Proof = Proof::FullObject { algorithm: ChecksumAlgorithm::Crc64Nvme };

#[test]
fn a_new_file_appears_once_it_is_verified() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    for chunk in scene.bytes.chunks(7_001) {
        part.write(chunk).unwrap();
    }
    assert_eq!(part.written(), scene.object.size);
    assert!(!scene.target.exists());

    assert_eq!(part.commit().unwrap(), PROVED);

    scene.assert_done();
}

#[test]
fn an_interrupted_download_resumes_where_it_stopped() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&scene.bytes[..60_000]).unwrap();
    drop(part);
    assert_eq!(scene.files(), [".object.bin.gantry-part", ".object.bin.gantry-part.json"]);

    let part = scene.open();
    let point = part.resume_point().unwrap();
    assert_eq!((&point.object, point.range.clone(), point.proved), (&scene.object, scene.range(), 60_000));
    assert_eq!(point.pin, Pin { if_match: Some("\"e1\"".to_owned()), version_id: None });
    let mut part = part.begin(&scene.object, scene.range(), 60_000, &RUN_ON).unwrap();
    part.write(&scene.bytes[60_000..]).unwrap();

    assert_eq!(part.commit().unwrap(), PROVED);
    scene.assert_done();
}

#[test]
fn an_empty_object_is_an_empty_file() {
    let mut scene = Scene::new();
    scene.bytes.clear();
    scene.object.size = 0;
    scene.object.checksum = None;

    assert_eq!(scene.fresh().commit().unwrap(), Proof::Transport);

    scene.assert_done();
}

#[test]
fn a_range_is_verified_in_transport_only() {
    let scene = Scene::new();
    let wanted = scene.wanted().range(100..200);
    let open = || PartFile::open_with(&scene.target, wanted.clone(), true, policy(), &RUN_ON).unwrap();
    let mut part = open().begin(&scene.object, 100..200, 100, &RUN_ON).unwrap();
    part.write(&scene.bytes[100..150]).unwrap();
    assert_eq!(part.written(), 150);
    drop(part);

    let part = open();
    assert_eq!(part.resume_point().unwrap().proved, 150);
    let mut part = part.begin(&scene.object, 100..200, 150, &RUN_ON).unwrap();
    part.write(&scene.bytes[150..200]).unwrap();

    assert_eq!(part.commit().unwrap(), Proof::Transport);
    assert_eq!(fs::read(&scene.target).unwrap(), scene.bytes[100..200]);
}

#[test]
fn nothing_is_left_if_nothing_was_written() {
    let scene = Scene::new();
    drop(scene.open());
    assert_eq!(scene.files(), [""; 0]);
    drop(scene.fresh());
    assert_eq!(scene.files(), [""; 0]);
    scene.fresh().suspend().unwrap();
    assert_eq!(scene.files(), [""; 0]);
}

#[test]
fn discarding_leaves_nothing() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&scene.bytes[..9]).unwrap();
    part.discard();
    assert_eq!(scene.files(), [""; 0]);
}

#[test]
fn a_download_that_never_began_leaves_an_earlier_one_resumable() {
    let scene = Scene::new();
    scene.interrupt(10, 20);

    drop(scene.open());
    let other = Get::at("files/models/two").unwrap();
    drop(PartFile::open_with(&scene.target, other, true, policy(), &RUN_ON).unwrap());
    let afresh = PartFile::open_with(&scene.target, scene.wanted(), false, policy(), &RUN_ON).unwrap();
    assert_eq!((afresh.resume_point(), afresh.stale()), (None, None));
    drop(afresh);

    assert_eq!(scene.open().resume_point().unwrap().proved, 20);
}

#[test]
fn a_copy_of_the_descriptor_in_a_forked_process_holds_no_lock() {
    let scene = Scene::new();
    let part = scene.open();
    let copy = part.claim.file.try_clone().unwrap();

    drop(part);

    drop(scene.open());
    drop(copy);
}

#[test]
fn bytes_of_anything_else_are_not_resumed() {
    let scene = Scene::new();
    scene.interrupt(10, 20);
    for other in [
        Get::new("other".parse().unwrap(), scene.wanted().key),
        Get::at("files/models/two").unwrap(),
        scene.wanted().range(1..),
        scene.wanted().range(..50),
        scene.wanted().if_match("\"e2\""),
        scene.wanted().version_id("v2"),
    ] {
        let part = PartFile::open_with(&scene.target, other.clone(), true, policy(), &RUN_ON).unwrap();
        assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::Other)), "{other:?}");
    }
    for same in [
        scene.wanted().range(..scene.object.size),
        scene.wanted().range(..gantry_proto::OFFSET_MAX),
        scene.wanted().if_match("\"e1\""),
        scene.wanted().context("another text"),
    ] {
        let part = PartFile::open_with(&scene.target, same.clone(), true, policy(), &RUN_ON).unwrap();
        assert!(part.resume_point().is_some(), "{same:?}");
    }
}

#[test]
fn a_resume_is_pinned_to_a_version_only_if_one_was_requested() {
    let mut scene = Scene::new();
    scene.object.version_id = Some("v1".to_owned());
    scene.interrupt(10, 20);
    assert_eq!(scene.open().resume_point().unwrap().pin.version_id, None);

    let wanted = scene.wanted().version_id("v1");
    let part = PartFile::open_with(&scene.target, wanted, true, policy(), &RUN_ON).unwrap();
    assert_eq!(part.resume_point().unwrap().pin.version_id.as_deref(), Some("v1"));
}

#[test]
fn bytes_of_another_version_or_offset_are_not_continued() {
    let scene = Scene::new();
    scene.interrupt(10, 20);
    let mut changed = scene.object.clone();
    changed.etag = "\"e2\"".to_owned();
    let mut grown = scene.object.clone();
    grown.size += 1;
    for (object, range, from) in [
        (&changed, scene.range(), 20),
        (&grown, scene.range(), 20),
        (&scene.object, scene.range(), 19),
        (&scene.object, scene.range(), 21),
        (&scene.object, 1..scene.object.size, 20),
        (&scene.object, 0..50, 20),
    ] {
        let error = scene.open().begin(object, range, from, &RUN_ON).unwrap_err();
        assert!(matches!(error, Error::Unresumable { from: named, .. } if named == from), "{error:?}");
    }
    assert_eq!(scene.open().resume_point().unwrap().proved, 20);
}

/// A relay states the parts of a composite checksum only if it learns them in time.
#[test]
fn a_checksum_with_new_parts_is_the_same_version_and_one_with_another_value_is_not() {
    let mut scene = Scene::new();
    let checksum = scene.object.checksum.as_mut().unwrap();
    checksum.kind = ChecksumKind::Composite;
    scene.interrupt(10, 20);
    scene.object.checksum.as_mut().unwrap().parts = vec![PartRun { count: 1, size: scene.object.size }];

    assert!(scene.open().resumes(&scene.object, &scene.range(), 20));
    drop(scene.open().begin(&scene.object, scene.range(), 20, &RUN_ON).unwrap());

    scene.object.checksum.as_mut().unwrap().value = STANDARD.encode([0; 8]);
    assert!(!scene.open().resumes(&scene.object, &scene.range(), 20));
}

/// A kill between the rename and the removal of the records leaves this state.
#[test]
fn a_record_without_a_part_file_is_ignored() {
    let scene = Scene::new();
    scene.interrupt(10, 20);
    fs::rename(scene.folder.path().join(".object.bin.gantry-part"), &scene.target).unwrap();

    let part = scene.open();

    assert_eq!((part.resume_point(), part.stale()), (None, None));
    scene.finish(part).unwrap();
    scene.assert_done();
}

#[test]
fn reading_kept_bytes_can_be_stopped() {
    let scene = Scene::new();
    scene.interrupt(10, 20);
    let stop = AtomicBool::new(true);

    let stopped = PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &stop);

    assert!(matches!(stopped, Err(Error::Stopped(_))), "{stopped:?}");
    assert_eq!(scene.open().resume_point().unwrap().proved, 20);
}

#[test]
fn a_changed_object_starts_from_the_beginning_in_the_same_part_file() {
    let mut scene = Scene::new();
    scene.interrupt(10, 20);
    let part = scene.open();
    assert!(part.resume_point().is_some());
    scene.object.etag = "\"e2\"".to_owned();

    let mut part = part.begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
    part.write(&scene.bytes[..5]).unwrap();
    drop(part);

    let point = scene.open().resume_point().cloned().unwrap();
    assert_eq!((point.object.etag.as_str(), point.proved), ("\"e2\"", 5));
    assert_eq!(scene.finish(scene.open()).unwrap(), PROVED);
    scene.assert_done();
}

#[test]
fn a_restart_of_the_machine_cuts_back_to_the_checkpoint() {
    let scene = Scene::new();
    for boot in [Some("boot two".to_owned()), None] {
        scene.interrupt(30_000, 60_000);
        // The power cut lost bytes past the checkpoint, but not the length.
        let mut part = scene.part();
        part.seek(SeekFrom::Start(30_000)).unwrap();
        part.write_all(&[0; 30_000]).unwrap();

        let policy = Policy { boot, ..policy() };
        let part = PartFile::open_with(&scene.target, scene.wanted(), true, policy, &RUN_ON).unwrap();

        assert_eq!(part.resume_point().unwrap().proved, 30_000);
        assert_eq!(scene.finish(part).unwrap(), PROVED);
        scene.assert_done();
    }
}

/// If the sidecar kept the old boot id, bytes written after the restart would count as lost. If it took the new boot id
/// without truncating the file, lost bytes would count as kept.
#[test]
fn what_is_written_after_a_restart_counts_in_the_new_run() {
    let scene = Scene::new();
    scene.interrupt(30_000, 60_000);
    let later = Policy { boot: Some("boot two".to_owned()), ..policy() };
    let open = || PartFile::open_with(&scene.target, scene.wanted(), true, later.clone(), &RUN_ON).unwrap();
    let mut part = open().begin(&scene.object, scene.range(), 30_000, &RUN_ON).unwrap();
    part.write(&scene.bytes[30_000..40_000]).unwrap();
    drop(part);

    assert_eq!(open().resume_point().unwrap().proved, 40_000);
    assert_eq!(scene.open().resume_point().unwrap().proved, 30_000);
}

#[test]
fn without_a_checkpoint_nothing_outlives_a_restart() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&scene.bytes[..60_000]).unwrap();
    drop(part);
    let policy = Policy { boot: None, ..policy() };
    let part = PartFile::open_with(&scene.target, scene.wanted(), true, policy, &RUN_ON).unwrap();
    assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::Unrecorded)));
}

#[test]
fn suspending_makes_all_bytes_outlive_a_restart() {
    let scene = Scene::new();
    scene.interrupt(60_000, 60_000);
    let policy = Policy { boot: None, ..policy() };
    let part = PartFile::open_with(&scene.target, scene.wanted(), true, policy, &RUN_ON).unwrap();
    assert_eq!(part.resume_point().unwrap().proved, 60_000);
}

#[test]
fn checkpoints_follow_the_writing() {
    let scene = Scene::new();
    let policy = Policy { boot: None, checkpoint_bytes: 10_000, ..policy() };
    let open = || PartFile::open_with(&scene.target, scene.wanted(), true, policy.clone(), &RUN_ON).unwrap();
    let mut part = open().begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
    for chunk in scene.bytes.chunks(1_000).take(50) {
        part.write(chunk).unwrap();
    }
    drop(part);

    // The first checkpoint is due at 10,000 bytes. The number of later ones depends on how long each takes.
    let proved = open().resume_point().unwrap().proved;
    assert!((10_000..=50_000).contains(&proved), "{proved}");
    assert_eq!(scene.finish(open()).unwrap(), PROVED);
    scene.assert_done();
}

#[test]
fn a_checkpoint_is_due_after_a_while_too() {
    let scene = Scene::new();
    let policy = Policy { boot: None, checkpoint_interval: Duration::ZERO, ..policy() };
    let open = || PartFile::open_with(&scene.target, scene.wanted(), true, policy.clone(), &RUN_ON).unwrap();
    let mut part = open().begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
    part.write(&scene.bytes[..7]).unwrap();
    drop(part);
    assert_eq!(open().resume_point().unwrap().proved, 7);
}

#[test]
fn damage_before_the_checkpoint_is_detected() {
    let scene = Scene::new();
    for at in [0, 29_999] {
        scene.interrupt(30_000, 60_000);
        let mut part = scene.part();
        part.seek(SeekFrom::Start(at)).unwrap();
        part.write_all(&[!scene.bytes[usize::try_from(at).unwrap()]]).unwrap();

        let part = scene.open();
        assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::Damaged)));
        assert_eq!(scene.finish(part).unwrap(), PROVED);
        scene.assert_done();
    }
}

#[test]
fn a_part_shorter_than_its_first_mark_is_not_resumed() {
    let scene = Scene::new();
    scene.interrupt(30_000, 60_000);
    scene.part().set_len(29_999).unwrap();
    let part = scene.open();
    assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::Damaged)));
}

#[test]
fn a_part_of_another_length_is_resumed_at_the_last_mark_that_holds() {
    let scene = Scene::new();
    for (len, proved) in [(30_000, 30_000), (59_999, 30_000), (60_001, 60_000), (scene.object.size + 1, 60_000)] {
        scene.interrupt(30_000, 60_000);
        scene.part().set_len(len).unwrap();

        let part = scene.open();

        assert_eq!(part.resume_point().unwrap().proved, proved, "{len}");
        assert_eq!(scene.finish(part).unwrap(), PROVED);
        scene.assert_done();
    }
}

#[test]
fn a_part_without_a_readable_record_is_not_resumed_and_is_removed() {
    let scene = Scene::new();
    scene.interrupt(30_000, 60_000);
    let good = fs::read_to_string(scene.sidecar()).unwrap();
    for bad in [
        String::new(),
        "{".to_owned(),
        good[..1000].to_owned(),
        good.replace("\"format\":3", "\"format\":2"),
        good.replace("\"start\":0", "\"start\":1"),
    ] {
        assert_ne!(bad, good);
        scene.interrupt(30_000, 60_000);
        fs::write(scene.sidecar(), &bad).unwrap();
        let part = scene.open();
        assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::NoRecord)), "{bad}");
        drop(part);
        assert_eq!(scene.files(), [""; 0]);
    }
}

#[test]
fn a_second_download_to_one_target_is_refused_at_once() {
    let scene = Scene::new();
    let open = || PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON);
    let first = scene.open();
    assert!(matches!(open().unwrap_err(), Error::InUse(_)));
    let mut first = first.begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
    first.write(&scene.bytes).unwrap();
    assert!(matches!(open().unwrap_err(), Error::InUse(_)));
    first.commit().unwrap();
    assert_eq!(open().unwrap().resume_point(), None);
    scene.assert_done();
}

/// A lock on a file that was renamed or removed before it was locked protects nothing.
#[test]
fn a_lock_on_a_file_that_has_moved_does_not_count() {
    let scene = Scene::new();
    let part = scene.folder.path().join(".object.bin.gantry-part");
    for commits in [true, false] {
        let first = scene.open();
        let file = scene.part();
        assert_eq!(hold(&file, &part).unwrap(), Hold::Theirs);
        if commits {
            scene.finish(first).unwrap();
        } else {
            drop(first);
        }
        assert_eq!(hold(&file, &part).unwrap(), Hold::Moved);
        let second = scene.open();
        assert_eq!(hold(&file, &part).unwrap(), Hold::Moved);
        drop(second);
    }
}

#[test]
fn downloads_that_race_for_one_target_never_mix() {
    let scene = Scene::new();
    let done: usize = std::thread::scope(|scope| {
        let race = || {
            let mut done = 0;
            for round in 0..200 {
                let part = match PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON) {
                    Ok(part) => part,
                    Err(Error::InUse(_)) => continue,
                    Err(error) => panic!("{error:?}"),
                };
                let from = part.resume_point().map_or(0, |point| point.proved);
                let mut part = part.begin(&scene.object, scene.range(), from, &RUN_ON).unwrap();
                let from = usize::try_from(from).unwrap();
                match round % 3 {
                    0 => part.write(&scene.bytes[from..from.max(50_000)]).unwrap(),
                    1 => part.discard(),
                    _ => {
                        part.write(&scene.bytes[from..]).unwrap();
                        assert_eq!(part.commit().unwrap(), PROVED);
                        done += 1;
                    }
                }
            }
            done
        };
        let racers: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert!(done > 0);
    scene.finish(scene.open()).unwrap();
    scene.assert_done();
}

/// The records were once removed after the rename, when they could already belong to the next download.
#[test]
fn a_commit_leaves_the_records_of_the_next_download_alone() {
    let scene = Scene::new();
    let committed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !committed.load(Ordering::Relaxed) {
                match PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON) {
                    Ok(part) => {
                        let part = part.begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
                        assert!(scene.sidecar().exists());
                        part.discard();
                    }
                    Err(error) => assert!(matches!(error, Error::InUse(_)), "{error:?}"),
                }
            }
        });
        let mut finished = Ok(PROVED);
        let mut commits = 0;
        while commits < 300 && finished.is_ok() {
            let Ok(part) = PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON) else {
                continue;
            };
            finished = scene.finish(part);
            commits += 1;
        }
        committed.store(true, Ordering::Relaxed);
        finished.unwrap();
    });
}

#[test]
fn an_old_file_is_replaced_only_by_a_verified_one() {
    let scene = Scene::new();
    fs::write(&scene.target, "old").unwrap();
    let mut part = scene.fresh();
    let mut wrong = scene.bytes.clone();
    wrong[77] ^= 1;
    part.write(&wrong).unwrap();
    let error = part.commit().unwrap_err();
    assert!(matches!(error, Error::Mismatch { source: Mismatch::Checksum { .. }, .. }), "{error:?}");
    assert_eq!(fs::read_to_string(&scene.target).unwrap(), "old");
    assert_eq!(scene.files(), ["object.bin"]);

    let mut part = scene.fresh();
    part.write(&scene.bytes[1..]).unwrap();
    let error = part.commit().unwrap_err();
    assert!(matches!(error, Error::Mismatch { source: Mismatch::Length { .. }, .. }), "{error:?}");
    assert_eq!(fs::read_to_string(&scene.target).unwrap(), "old");

    scene.finish(scene.open()).unwrap();
    scene.assert_done();
}

/// The recorded CRC is that of the wrong bytes, as if they had been damaged before they were hashed.
#[test]
fn damage_that_only_the_stored_checksum_detects_is_not_resumed_twice() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&[0; 60_000]).unwrap();
    drop(part);

    let error = scene.finish(scene.open()).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
    assert_eq!(scene.files(), [""; 0]);
}

#[test]
fn a_removed_part_file_does_not_replace_the_target() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&scene.bytes).unwrap();
    fs::remove_file(scene.folder.path().join(".object.bin.gantry-part")).unwrap();
    fs::write(scene.folder.path().join(".object.bin.gantry-part"), "foreign").unwrap();
    let error = part.commit().unwrap_err();
    assert!(matches!(error, Error::Removed { .. }), "{error:?}");
    assert!(!scene.target.exists());
    assert_eq!(fs::read_to_string(scene.folder.path().join(".object.bin.gantry-part")).unwrap(), "foreign");
}

#[test]
fn a_part_file_removed_midway_is_reported_and_leaves_no_record() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&scene.bytes).unwrap();
    fs::remove_file(scene.folder.path().join(".object.bin.gantry-part")).unwrap();

    let error = part.commit().unwrap_err();

    assert!(matches!(&error, Error::Removed { target, .. } if *target == scene.target), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("object.bin.gantry-part was removed or replaced"), "{text}");
    assert_eq!(scene.files(), [""; 0]);
}

/// Another download creates a new part file if the first one was removed meanwhile.
#[test]
fn discarding_does_not_remove_the_part_file_of_another_download() {
    let scene = Scene::new();
    let mut first = scene.fresh();
    first.write(&scene.bytes[..10]).unwrap();
    fs::remove_file(scene.folder.path().join(".object.bin.gantry-part")).unwrap();
    let mut second = scene.fresh();
    second.write(&scene.bytes[..20]).unwrap();

    first.discard();
    drop(second);

    assert_eq!(scene.open().resume_point().unwrap().proved, 20);
}

#[test]
fn a_part_file_that_was_changed_meanwhile_is_reported() {
    let mut scene = Scene::new();
    let stated = scene.object.checksum.take().unwrap();
    let mut part = scene.fresh();
    part.write(&scene.bytes).unwrap();
    scene.part().write_all(&[!scene.bytes[0]]).unwrap();

    let error = part.check_against(&stated, &RUN_ON).unwrap_err();

    assert!(matches!(error, Error::Altered(_)), "{error:?}");
    assert!(error.to_string().contains("was changed by another program"), "{error}");
}

#[test]
fn a_target_that_can_not_be_a_file_is_refused() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    fs::write(folder.join("file"), "").unwrap();
    let open = |target: &Path| PartFile::open_with(target, scene.wanted(), true, policy(), &RUN_ON).unwrap_err();

    for target in [folder.to_owned(), folder.join(".."), PathBuf::from("/"), PathBuf::new(), "/dev/null".into()] {
        let error = open(&target);
        assert!(matches!(error, Error::NotAFile(_)), "{target:?}: {error:?}");
    }
    for target in [folder.join("missing/object"), folder.join("file/object"), folder.join("object/")] {
        let error = open(&target);
        assert!(matches!(error, Error::NoFolder(_)), "{target:?}: {error:?}");
    }
    let error = open(&folder.join("n".repeat(256)));
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_eq!(scene.files(), ["file"]);
}

/// Not even root may create files in sysfs.
#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_folder_is_named() {
    let scene = Scene::new();
    let error = PartFile::open_with(Path::new("/sys/object"), scene.wanted(), true, policy(), &RUN_ON).unwrap_err();
    assert!(matches!(&error, Error::NotWritable { path, .. } if path.starts_with("/sys")), "{error:?}");
}

#[test]
fn system_errors_have_a_variant_each() {
    let of = |kind| Error::io(Path::new("a/b"), io::Error::from(kind));
    assert!(matches!(of(io::ErrorKind::StorageFull), Error::Full { .. }));
    assert!(matches!(of(io::ErrorKind::QuotaExceeded), Error::Full { .. }));
    assert!(matches!(of(io::ErrorKind::PermissionDenied), Error::NotWritable { .. }));
    assert!(matches!(of(io::ErrorKind::ReadOnlyFilesystem), Error::NotWritable { .. }));
    assert!(matches!(of(io::ErrorKind::FileTooLarge), Error::Io { .. }));
    assert_eq!(of(io::ErrorKind::StorageFull).to_string(), "no space left for a/b");
}

#[test]
fn a_download_that_another_one_blocked_is_retryable() {
    let scene = Scene::new();
    let running = scene.open();
    let in_use = PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON).unwrap_err();
    drop(running);
    let full = Error::io(Path::new("a"), io::Error::from(io::ErrorKind::StorageFull));
    assert_eq!((in_use.is_retryable(), full.is_retryable()), (true, false));
}

#[test]
fn every_name_that_the_file_system_accepts_works() {
    for name in ["n".repeat(255), "n".repeat(234), "n".repeat(233), "\u{1f980}".repeat(63), "a b#?%\u{e9}".to_owned()] {
        let scene = Scene::named(&name);
        scene.interrupt(10, 20);
        assert_eq!(scene.open().resume_point().unwrap().proved, 20, "{name}");
        assert_eq!(scene.finish(scene.open()).unwrap(), PROVED, "{name}");
        scene.assert_done();
    }
}

#[test]
fn long_names_with_a_common_prefix_have_separate_part_files() {
    let scene = Scene::new();
    let target = |end: &str| scene.folder.path().join("n".repeat(250) + end);
    let open = |end: &str| PartFile::open_with(&target(end), scene.wanted(), true, policy(), &RUN_ON);
    let (one, two) = (open("one"), open("two"));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_replaced_file_keeps_its_permission_bits() {
        for (before, after) in [(0o755, 0o755), (0o600, 0o600), (0o400, 0o400), (0o4755, 0o755)] {
            let scene = Scene::new();
            fs::write(&scene.target, "old").unwrap();
            fs::set_permissions(&scene.target, fs::Permissions::from_mode(before)).unwrap();
            let mut part = scene.fresh();
            let while_writing = mode(&scene.folder.path().join(".object.bin.gantry-part"));
            assert_eq!(while_writing, 0o600);
            part.write(&scene.bytes).unwrap();
            part.commit().unwrap();
            assert_eq!(mode(&scene.target), after);
        }
    }

    /// The part file once kept the permission bits of a new file, so that everybody could read it.
    #[test]
    fn a_part_file_that_can_not_be_put_in_place_stays_private() {
        let scene = Scene::new();
        let mut part = scene.fresh();
        part.write(&scene.bytes).unwrap();
        fs::create_dir(&scene.target).unwrap();

        let error = part.commit().unwrap_err();

        assert!(matches!(&error, Error::Io { path, .. } if *path == scene.target), "{error:?}");
        assert_eq!(mode(&scene.folder.path().join(".object.bin.gantry-part")), 0o600);
        fs::remove_dir(&scene.target).unwrap();
        assert_eq!(scene.open().resume_point().unwrap().proved, scene.object.size);
        scene.finish(scene.open()).unwrap();
        scene.assert_done();
    }

    #[test]
    fn a_new_file_has_the_default_permissions() {
        let scene = Scene::new();
        let plain = scene.folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        scene.finish(scene.open()).unwrap();
        assert_eq!(mode(&scene.target), mode(&plain));
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let scene = Scene::new();
        let elsewhere = scene.folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink("elsewhere/real", &scene.target).unwrap();
        for _ in 0..2 {
            let part = scene.open();
            assert_eq!(part.target(), elsewhere.join("real"));
            scene.finish(part).unwrap();
            assert_eq!(fs::read_link(&scene.target).unwrap(), Path::new("elsewhere/real"));
            assert_eq!(fs::read(elsewhere.join("real")).unwrap(), scene.bytes);
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
            fs::write(elsewhere.join("real"), "old").unwrap();
        }
    }

    #[test]
    fn links_in_a_circle_are_refused() {
        let scene = Scene::new();
        symlink("object.bin", &scene.target).unwrap();
        let error = PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }

    #[test]
    fn a_link_in_place_of_a_part_file_is_not_followed() {
        let scene = Scene::new();
        let victim = scene.folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let planted = scene.folder.path().join(".object.bin.gantry-part");
        for to in ["victim", "missing"] {
            symlink(to, &planted).unwrap();
            let error = PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON).unwrap_err();
            assert!(matches!(error, Error::NotAFile(_)), "{error:?}");
            fs::remove_file(&planted).unwrap();
        }
        symlink("victim", scene.folder.path().join(".object.bin.gantry-part.json.new")).unwrap();
        scene.finish(scene.open()).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(scene.files(), ["object.bin", "victim"]);
    }

    #[test]
    fn a_name_that_is_not_unicode_works() {
        let mut scene = Scene::new();
        scene.target = scene.folder.path().join(OsStr::from_bytes(b"\xff\xfe"));
        scene.interrupt(10, 20);
        scene.finish(scene.open()).unwrap();
        assert_eq!(fs::read(&scene.target).unwrap(), scene.bytes);
        assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 1);
    }
}

/// The folder of the process that [`a_killed_process_loses_at_most_the_bytes_since_the_last_note`] kills.
const VICTIM_FOLDER: &str = "GANTRY_TEST_VICTIM_FOLDER";

const NOTE_BYTES: u64 = 1_000_000;

fn write_until_killed(folder: &Path) {
    let mut scene = Scene::new();
    scene.target = folder.join("object.bin");
    // The size is larger than anything that is written before the kill. There is no checksum to compare.
    scene.object.size = 1 << 40;
    scene.object.checksum = None;
    let policy = Policy { checkpoint_bytes: 3_000_000, note_bytes: NOTE_BYTES, ..policy() };
    let part = PartFile::open_with(&scene.target, scene.wanted(), true, policy, &RUN_ON).unwrap();
    let mut part = part.begin(&scene.object, scene.range(), 0, &RUN_ON).unwrap();
    // The number of rounds is limited in case the parent test dies first.
    for round in 1..=20_000 {
        part.write(&scene.bytes).unwrap();
        if round == 300 {
            println!("written {}", part.written());
        }
    }
}

/// A child process that is killed when the test ends.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_killed_process_loses_at_most_the_bytes_since_the_last_note() {
    if let Some(folder) = std::env::var_os(VICTIM_FOLDER) {
        return write_until_killed(Path::new(&folder));
    }
    let mut scene = Scene::new();
    scene.object.size = 1 << 40;
    scene.object.checksum = None;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "part::tests::a_killed_process_loses_at_most_the_bytes_since_the_last_note"])
        .env(VICTIM_FOLDER, scene.folder.path())
        .stdout(Stdio::piped())
        .spawn();
    let mut victim = Victim(child.unwrap());
    let mut lines = BufReader::new(victim.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let written = lines.find_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok()).unwrap();
    assert!(matches!(
        PartFile::open_with(&scene.target, scene.wanted(), true, policy(), &RUN_ON).unwrap_err(),
        Error::InUse(_)
    ));
    drop(victim);

    let proved = scene.open().resume_point().unwrap().proved;
    assert!(proved + NOTE_BYTES >= written, "{proved} of {written}");
    let kept = fs::read(scene.folder.path().join(".object.bin.gantry-part")).unwrap();
    assert!(kept.len() as u64 >= proved);
    assert!(kept.chunks(scene.bytes.len()).all(|chunk| chunk == &scene.bytes[..chunk.len()]));
}

/// What happens between two writes of a download.
#[derive(Clone, Copy, Debug)]
enum Event {
    Kill,
    Suspend,
    /// The power fails. The bytes past the last checkpoint are cut off, or become zeros at the old length.
    PowerCut {
        zeros: bool,
    },
    Damage {
        at: prop::sample::Index,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Kill),
        Just(Event::Suspend),
        any::<bool>().prop_map(|zeros| Event::PowerCut { zeros }),
        any::<prop::sample::Index>().prop_map(|at| Event::Damage { at }),
    ]
}

/// Changes the part file as a power cut may do.
fn cut_power(scene: &Scene, zeros: bool) {
    let Some(durable) = scene.durable() else { return };
    let part = scene.part();
    let len = part.metadata().unwrap().len();
    part.set_len(durable).unwrap();
    if zeros {
        part.set_len(len).unwrap();
    }
}

fn damage(scene: &Scene, at: prop::sample::Index) {
    let mut bytes = fs::read(scene.folder.path().join(".object.bin.gantry-part")).unwrap_or_default();
    if !bytes.is_empty() {
        let at = at.index(bytes.len());
        bytes[at] ^= 0x55;
        scene.part().write_all(&bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The CRCs of the record detect damaged bytes, so every run ends with a verified file.
    #[test]
    fn after_any_fault_the_file_is_complete_or_missing(
        script in prop::collection::vec((1_usize..40_000, event()), 0..8),
        checkpoint_bytes in 1_000_u64..50_000,
    ) {
        let scene = Scene::new();
        let mut boot = 0;
        let open = |boot: i32| {
            let policy = Policy { boot: Some(boot.to_string()), checkpoint_bytes, ..policy() };
            PartFile::open_with(&scene.target, scene.wanted(), true, policy, &RUN_ON).unwrap()
        };
        for (len, event) in script {
            let part = open(boot);
            let from = part.resume_point().map_or(0, |point| point.proved);
            let mut part = part.begin(&scene.object, scene.range(), from, &RUN_ON).unwrap();
            let from = usize::try_from(from).unwrap();
            for chunk in scene.bytes[from..scene.bytes.len().min(from + len)].chunks(3_333) {
                part.write(chunk).unwrap();
            }
            match event {
                Event::Suspend => part.suspend().unwrap(),
                Event::Kill => drop(part),
                Event::PowerCut { zeros } => {
                    drop(part);
                    cut_power(&scene, zeros);
                    boot += 1;
                }
                Event::Damage { at } => {
                    drop(part);
                    damage(&scene, at);
                }
            }
        }
        prop_assert_eq!(scene.finish(open(boot)).unwrap(), PROVED);
        scene.assert_done();
    }
}
