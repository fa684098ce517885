//! Folders and disks that can't be used, and damaged files.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use tokio::time::{Duration, Instant, advance};

use super::*;
use crate::double::Handle;

type Damaging = fn(&World, u64);

/// Ways to damage a block.
const DAMAGES: [(&str, Damaging); 9] = [
    ("a flipped bit", |world, number| {
        let mut bytes = fs::read(world.block(number)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(world.block(number), bytes).unwrap();
    }),
    ("a flipped bit in the head", |world, number| {
        let mut bytes = fs::read(world.block(number)).unwrap();
        bytes[20] ^= 1;
        fs::write(world.block(number), bytes).unwrap();
    }),
    ("truncated", |world, number| {
        let len = fs::metadata(world.block(number)).unwrap().len();
        OpenOptions::new().write(true).open(world.block(number)).unwrap().set_len(len - 1).unwrap();
    }),
    ("without its bytes", |world, number| {
        let len = fs::metadata(world.block(number)).unwrap().len();
        let file = OpenOptions::new().write(true).truncate(true).open(world.block(number)).unwrap();
        file.set_len(len).unwrap();
    }),
    ("empty", |world, number| fs::write(world.block(number), "").unwrap()),
    ("longer", |world, number| {
        OpenOptions::new().append(true).open(world.block(number)).unwrap().write_all(b"x").unwrap();
    }),
    ("another block", |world, number| {
        fs::copy(world.block((number + 1) % 3), world.block(number)).map(|_| ()).unwrap();
    }),
    ("a link", |world, number| {
        let path = world.block(number);
        fs::rename(&path, path.with_extension("moved")).unwrap();
        std::os::unix::fs::symlink(path.with_extension("moved"), &path).unwrap();
    }),
    ("a directory", |world, number| {
        let path = world.block(number);
        fs::remove_file(&path).unwrap();
        fs::create_dir(path).unwrap();
    }),
];

#[tokio::test]
async fn every_damaged_block_is_detected_removed_and_read_again() {
    for (name, damage) in DAMAGES {
        for is_restarted in [false, true] {
            let (mut world, bytes) = filled().await;
            for number in [0, 2] {
                damage(&world, number);
            }
            if is_restarted {
                world.restart(AMPLE, Options::default()).await;
            }

            assert_eq!(world.read(WHOLE).await.unwrap(), bytes, "{name}");
            world.folder.settled().await;
            assert!(world.folder.is_usable() && world.blocks().iter().all(|path| path.is_file()), "{name}");
            assert_eq!(world.reports.take(Report::Damaged), 2, "{name}");
            assert_eq!((world.take_read(), world.blocks().len()), (2 * MIB, 4), "{name}");
            assert_eq!(world.fill().await, bytes);
            assert_eq!(world.take_read(), 0, "{name}");
        }
    }
}

/// Reads that memory shares come here from time to time, unless that would read the upstream again.
#[tokio::test(start_paused = true)]
async fn a_store_keeps_objects_that_fit_while_its_folder_can_be_filled() {
    let limits = Limits { bytes_max: (3 << 20) + 5000, files_max: 3 };
    let world = World::new(limits, Options::default()).await;
    let keeps = |size: usize| world.store.keeps(&ObjectInfo::new("k".parse().unwrap(), size as u64, String::new()));
    assert!(keeps(0) && keeps(2 * MIB) && !keeps(2 * MIB + 1));
    world.folder.set_limits(Limits { files_max: 9, ..limits });
    assert!(keeps(3 * MIB) && !keeps(3 * MIB + 5000));

    let bytes = pattern(MIB, 1);
    world.double.put("k", "\"1\"", &bytes);
    *world.folder.disk_of_tests().faults.write.lock().unwrap() = Some(io::ErrorKind::StorageFull);
    assert_eq!(world.fill().await, bytes);
    assert!(world.folder.is_usable() && !keeps(1));
    assert_eq!((world.fill().await, world.reports.take(Report::Skipped)), (bytes, 1));
    advance(Duration::from_secs(31)).await;
    assert!(keeps(1));
}

/// Such a block made the whole folder unusable for a while.
#[tokio::test]
async fn a_block_that_can_not_be_opened_is_read_from_the_store_and_replaced() {
    let (world, bytes) = filled().await;
    *world.folder.disk_of_tests().faults.read.lock().unwrap() = Some(io::ErrorKind::PermissionDenied);
    assert_eq!(world.fill().await, bytes);
    assert_eq!((world.reports.take(Report::Damaged), world.folder.trouble()), (4, None));

    *world.folder.disk_of_tests().faults.read.lock().unwrap() = None;
    world.take_read();
    assert_eq!(world.fill().await, bytes);
    assert_eq!((world.take_read(), world.blocks().len()), (0, 4));
}

/// Nothing of a cache has created it, so it stays, and its block is always read from the store.
#[tokio::test]
async fn a_directory_with_content_in_a_blocks_place_costs_only_that_block() {
    let (mut world, bytes) = filled().await;
    let path = world.block(1);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();

    for is_restarted in [false, true] {
        if is_restarted {
            world.restart(AMPLE, Options::default()).await;
        }
        for _ in 0..2 {
            assert_eq!(world.fill().await, bytes);
            assert_eq!((world.take_read(), world.folder.trouble()), (MIB, None));
        }
    }

    // It does not count as removed.
    let look = Inspection::open(&world.path()).unwrap();
    let damaged = look.verify().unwrap();
    assert_eq!((damaged.len(), look.remove_damaged(&damaged).unwrap()), (1, 0));
    assert_eq!(look.purge(|store, key| (store, key) == ("s", "k")).unwrap().1, 3);
    assert_eq!(Inspection::open(&world.path()).unwrap().purge_all().unwrap(), (0, 0));
    assert_eq!(fs::read(path.join("notes.txt")).unwrap(), b"mine");
}

#[tokio::test]
async fn blocks_that_are_purged_while_they_are_read_are_read_from_the_store_at_once() {
    for purged in [&[1, 2][..], &[2, 3], &[1, 2, 3]] {
        let (world, bytes) = filled().await;
        let mut opened = world.open(WHOLE).await.unwrap();
        let first = opened.body.next().await.unwrap().unwrap();
        let opens = Double::count(&world.double.opens);

        for number in purged {
            fs::remove_file(world.block(*number)).unwrap();
        }
        let rest = collect(opened).await.unwrap();
        assert!([first, rest].concat() == bytes, "{purged:?}");
        assert_eq!(Double::count(&world.double.opens) - opens, 1, "{purged:?}");
    }
}

#[tokio::test]
async fn a_look_at_a_folder_names_what_can_not_be_read_and_purges_it() {
    for (name, damage) in DAMAGES {
        let (world, _) = filled().await;
        let whole = Inspection::open(&world.path()).unwrap().objects();
        for number in [0, 2] {
            damage(&world, number);
        }

        let look = Inspection::open(&world.path()).unwrap();
        assert_eq!(look.verify().unwrap().len(), 2, "{name}");
        assert_eq!((look.objects().len(), &look.objects()[0].key), (1, &whole[0].key), "{name}");

        assert_eq!(look.purge(|_, key| key == "other").unwrap(), (0, 0));
        assert_eq!(look.purge(|store, key| (store, key) == ("s", "k")).unwrap().1, 4, "{name}");
        assert!(world.blocks().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_block_of_another_store_or_version_in_a_blocks_place_is_not_served() {
    let (world, bytes) = filled().await;
    let path = world.block(0);
    fs::copy(&path, world.path().join("aside")).unwrap();

    // Another version of the same size.
    let new = pattern(bytes.len(), 9);
    world.double.put_object(checked("k", "\"2\"", &new), &new);
    fs::remove_file(&path).unwrap();
    assert_eq!(world.fill().await, new);
    fs::rename(world.path().join("aside"), world.block(0)).unwrap();

    assert_eq!(world.fill().await, new);
    assert_eq!(world.reports.take(Report::Damaged), 1);
}

#[tokio::test]
async fn a_crash_leaves_nothing_behind_that_is_served_or_that_stays() {
    let (mut world, bytes) = filled().await;
    fs::write(world.path().join("7.unfinished"), pattern(MIB, 3)).unwrap();
    fs::write(world.path().join("notes.txt"), "mine").unwrap();
    OpenOptions::new().write(true).open(world.block(3)).unwrap().set_len(0).unwrap();
    fs::write(world.path().join("gantry-cache"), "gant").unwrap();

    world.restart(AMPLE, Options::default()).await;
    assert!(!world.path().join("7.unfinished").exists());
    assert_eq!(world.fill().await, bytes);
    assert_eq!((world.reports.take(Report::Damaged), world.take_read()), (1, MIB / 2));
    assert_eq!(fs::read(world.path().join("notes.txt")).unwrap(), b"mine");
}

#[tokio::test]
async fn lower_limits_apply_with_the_next_block() {
    let (mut world, bytes) = filled().await;
    let limits = Limits { bytes_max: 2 * MIB as u64, files_max: 100 };
    world.restart(limits, Options::default()).await;

    // The most recent blocks are kept.
    world.read(Span { start: 2 * MIB as u64, end: None }).await.unwrap();
    let other = pattern(100, 5);
    world.double.put("o", "\"1\"", &other);
    collect(world.store.open(&"o".parse().unwrap(), &CURRENT, WHOLE).await.unwrap()).await.unwrap();
    world.folder.settled().await;
    let used: u64 = world.blocks().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(used <= limits.bytes_max, "{used}");
    assert!(world.block(3).exists());
    assert_eq!(world.read(WHOLE).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_folder_is_used_by_one_process_at_a_time() {
    let (world, bytes) = filled().await;
    let second = Folder::open(world.path(), AMPLE, Arc::new(Unobserved)).await;
    assert!(!second.is_usable());
    assert_eq!(second.trouble(), Some(Trouble::Locked));

    let inner = Arc::new(Handle(Arc::clone(&world.double)));
    let store = CacheStore::new(inner, "s", second, Budget::new(1 << 30), Options::default());
    let opened = store.open(&"k".parse().unwrap(), &CURRENT, WHOLE).await.unwrap();
    assert_eq!(collect(opened).await.unwrap(), bytes);
    assert_eq!(world.take_read(), bytes.len());
}

#[tokio::test]
async fn folders_that_can_not_be_used_are_named_with_a_cure() {
    let dir = tempfile::tempdir().unwrap();
    let open = async |name: &str| Folder::open(dir.path().join(name), AMPLE, Arc::new(Unobserved)).await.trouble();
    let put = |name: &str, marker: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("gantry-cache"), marker).unwrap();
    };

    assert_eq!(open("new").await, None);
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(matches!(open("absent/below").await, Some(Trouble::Unopened(_))));
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(open("file").await, Some(Trouble::NoDirectory));
    put("newer", "gantry cache 2\n");
    assert_eq!(open("newer").await, Some(Trouble::Format("gantry cache 2".to_owned())));
    put("binary", "\u{1}\u{2}");
    assert!(matches!(open("binary").await, Some(Trouble::Format(_))));
    put("exposed", "");
    fs::set_permissions(dir.path().join("exposed"), Permissions::from_mode(0o777)).unwrap();
    assert_eq!(open("exposed").await, Some(Trouble::Exposed(0o777)));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_left_alone_for_a_while_and_what_it_has_is_served() {
    let world = World::new(AMPLE, Options::default()).await;
    let bytes = pattern(3 * MIB, 1);
    world.double.put("k", "\"1\"", &bytes);
    world.read(Span { start: 0, end: Some(MIB as u64) }).await.unwrap();
    world.folder.settled().await;

    *world.folder.disk_of_tests().faults.write.lock().unwrap() = Some(io::ErrorKind::StorageFull);
    assert_eq!(world.fill().await, bytes);
    assert_eq!(world.folder.trouble(), Some(Trouble::Full));
    assert_eq!(world.blocks().len(), 1);
    assert_eq!(fs::read_dir(world.path()).unwrap().count(), 2, "the unfinished file is removed");
    world.take_read();
    assert_eq!(world.fill().await, bytes);
    assert_eq!(world.take_read(), 2 * MIB);

    *world.folder.disk_of_tests().faults.write.lock().unwrap() = None;
    assert_eq!(world.fill().await, bytes);
    assert_eq!(world.blocks().len(), 1);
    advance(Duration::from_secs(31)).await;
    assert_eq!(world.fill().await, bytes);
    assert_eq!((world.blocks().len(), world.folder.trouble()), (3, None));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_is_left_alone_for_a_while() {
    for (kind, trouble) in [(io::ErrorKind::ReadOnlyFilesystem, Some(Trouble::ReadOnly)), (io::ErrorKind::Other, None)]
    {
        let (world, bytes) = filled().await;
        *world.folder.disk_of_tests().faults.read.lock().unwrap() = Some(kind);

        assert_eq!(world.fill().await, bytes);
        assert!(!world.folder.is_usable());
        if trouble.is_some() {
            assert_eq!(world.folder.trouble(), trouble);
        }
        assert_eq!(world.fill().await, bytes);
        assert_eq!(world.take_read(), 2 * bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_was_removed_is_created_again() {
    let (world, bytes) = filled().await;
    for _ in 0..2 {
        fs::remove_dir_all(world.path()).unwrap();
        assert_eq!(world.fill().await, bytes);
        assert!(!world.folder.is_usable());
        advance(Duration::from_secs(31)).await;
        while !world.folder.is_usable() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(world.fill().await, bytes);
    assert_eq!(world.blocks().len(), 4);
}

#[tokio::test]
async fn a_slow_disk_delays_nobody() {
    let world = World::new(AMPLE, Options::default()).await;
    let bytes = pattern(40 * MIB, 1);
    world.double.put("k", "\"1\"", &bytes);
    let disk = world.folder.disk_of_tests();
    let hang = disk.faults.hang.lock().unwrap();

    let started = Instant::now();
    assert_eq!(read_while_disk_hangs(&world), bytes);
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(world.reports.take(Report::Skipped), 24);
    drop(hang);
    world.folder.settled().await;
    assert_eq!(world.blocks().len(), 16);
}

/// Reads on another thread, since a lock must not be held across an `await`.
fn read_while_disk_hangs(world: &World) -> Bytes {
    let store = Arc::clone(&world.store);
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            let open = async { collect(store.open(&"k".parse().unwrap(), &CURRENT, WHOLE).await.unwrap()).await };
            runtime.block_on(open).unwrap()
        });
        read.join().unwrap()
    })
}
