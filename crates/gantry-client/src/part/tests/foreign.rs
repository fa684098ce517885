//! Files that other users may have put in place of a target, its part file or its record.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::os::unix::net::UnixListener;

use super::*;

/// Another user's id: `nobody` on most systems.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

impl Scene {
    fn try_open(&self) -> Result<PartFile, Error> {
        PartFile::open_with(&self.target, self.wanted(), true, policy(), &RUN_ON)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!(".object.bin.gantry-part{suffix}"))
    }
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// A FIFO in place of the sidecar once blocked forever.
#[test]
fn a_special_file_in_place_of_a_part_file_or_record_is_refused() {
    let make: [fn(&Path); 5] = [
        |path| fs::create_dir(path).unwrap(),
        fifo,
        |path| drop(UnixListener::bind(path).unwrap()),
        |path| symlink("missing", path).unwrap(),
        |path| symlink("/dev/null", path).unwrap(),
    ];
    for (suffix, make) in ["", ".json"].into_iter().flat_map(|suffix| make.map(|make| (suffix, make))) {
        for interrupted in [false, true] {
            let scene = Scene::new();
            if interrupted {
                scene.interrupt(10, 20);
                fs::remove_file(scene.beside(suffix)).unwrap();
            }
            make(&scene.beside(suffix));

            let error = scene.try_open().unwrap_err();

            assert!(matches!(&error, Error::NotAFile(path) if *path == scene.beside(suffix)), "{error:?}");
            assert!(fs::symlink_metadata(scene.beside(suffix)).is_ok());
        }
    }
}

#[test]
fn a_folder_in_place_of_the_scratch_file_is_refused_and_anything_else_is_replaced() {
    let scene = Scene::new();
    fs::create_dir(scene.beside(".json.new")).unwrap();
    let error = scene.try_open().unwrap_err();
    assert!(matches!(error, Error::NotAFile(_)), "{error:?}");
    fs::remove_dir(scene.beside(".json.new")).unwrap();

    fifo(&scene.beside(".json.new"));
    scene.finish(scene.open()).unwrap();
    scene.assert_done();
}

/// Truncating a part file with a second hard link once truncated another user's file.
#[test]
fn a_part_file_or_record_with_a_second_hard_link_is_refused() {
    for suffix in ["", ".json"] {
        let scene = Scene::new();
        scene.interrupt(10, 20);
        let victim = scene.folder.path().join("victim");
        fs::hard_link(scene.beside(suffix), &victim).unwrap();
        let before = fs::read(&victim).unwrap();

        let error = scene.try_open().unwrap_err();

        assert!(matches!(error, Error::Untrusted { why: Distrust::Linked, .. }), "{error:?}");
        assert_eq!(fs::read(&victim).unwrap(), before);
    }
}

/// A process that opened it while that was allowed can still write to it.
#[test]
fn a_part_file_that_others_may_write_is_replaced_by_another_file() {
    for mode in [0o666, 0o660, 0o622] {
        let scene = Scene::new();
        scene.interrupt(10, 20);
        chmod(&scene.beside(""), mode);
        let mut planted = scene.part();

        let part = scene.open();
        assert_eq!(part.resume_point(), None, "{mode:o}");
        let inode = part.claim.file.metadata().unwrap().ino();
        assert_ne!(inode, planted.metadata().unwrap().ino());
        scene.finish(part).unwrap();
        planted.write_all(b"planted").unwrap();

        scene.assert_done();
    }
}

#[test]
fn a_record_that_others_may_write_is_ignored() {
    let scene = Scene::new();
    scene.interrupt(10, 20);
    chmod(&scene.beside(".json"), 0o666);
    let part = scene.open();
    assert_eq!((part.resume_point(), part.stale()), (None, Some(Stale::NoRecord)));
    scene.finish(part).unwrap();
    scene.assert_done();
}

#[test]
fn part_file_and_record_are_private() {
    let scene = Scene::new();
    scene.interrupt(10, 20);
    for suffix in ["", ".json"] {
        assert_eq!(fs::metadata(scene.beside(suffix)).unwrap().mode() & 0o7777, 0o600);
    }
}

/// Another user's part file once became the final file and still belonged to that user. Without root, a file can't be
/// given to another user; the unit tests in `trust` cover the decision alone.
#[test]
fn a_part_file_or_record_of_another_user_is_refused() {
    for (suffix, mode) in [("", 0o666), ("", 0o600), (".json", 0o666), (".json", 0o644)] {
        let scene = Scene::new();
        scene.interrupt(10, 20);
        chmod(&scene.beside(suffix), mode);
        if !is_root() {
            assert!(chown(scene.beside(suffix), Some(OTHER), None).is_err());
            continue;
        }
        chown(scene.beside(suffix), Some(OTHER), None).unwrap();
        let before = fs::read(scene.beside(suffix)).unwrap();

        let error = scene.try_open().unwrap_err();

        assert!(matches!(error, Error::Untrusted { why: Distrust::Foreign { uid: OTHER }, .. }), "{error:?}");
        assert!(error.to_string().contains("uid 65534"), "{error}");
        assert_eq!(fs::read(scene.beside(suffix)).unwrap(), before);
    }
}

#[test]
fn another_users_file_does_not_make_its_replacement_writable() {
    let scene = Scene::new();
    let plain = scene.folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let new_mode = fs::metadata(&plain).unwrap().mode() & 0o777;
    for (before, after) in [(0o666, new_mode), (0o777, new_mode | 0o111), (0o600, 0o600)] {
        fs::write(&scene.target, "old").unwrap();
        chmod(&scene.target, before);
        let after = if is_root() {
            chown(&scene.target, Some(OTHER), None).unwrap();
            after
        } else {
            before
        };

        scene.finish(scene.open()).unwrap();

        let metadata = fs::metadata(&scene.target).unwrap();
        assert_eq!(metadata.mode() & 0o7777, after, "{before:o}");
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
        fs::remove_file(&scene.target).unwrap();
    }
}

/// The kernel refuses to follow such a link if `protected_symlinks` is on. The client once followed it by hand.
#[test]
fn a_link_of_another_user_in_a_folder_open_to_all_is_not_followed() {
    let scene = Scene::new();
    let shared = scene.folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    chmod(&shared, 0o1777);
    let victim = scene.folder.path().join("victim");
    for dangling in [false, true] {
        fs::write(&victim, "precious").unwrap();
        let link = shared.join("link");
        symlink(if dangling { scene.folder.path().join("missing") } else { victim.clone() }, &link).unwrap();
        let indirect = scene.folder.path().join("indirect");
        symlink(&link, &indirect).unwrap();
        for target in [&link, &indirect] {
            assert!(matches!(destination(target), Ok(Destination::File(_))), "a link of ours is followed");
        }
        if is_root() {
            lchown(&link, Some(OTHER), None).unwrap();
            for target in [&link, &indirect] {
                let error = PartFile::open_with(target, scene.wanted(), true, policy(), &RUN_ON).unwrap_err();
                assert!(matches!(&error, Error::ForeignLink { path, uid: OTHER } if *path == link), "{error:?}");
            }
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");

            chmod(&shared, 0o755);
            assert!(matches!(destination(&link), Ok(Destination::File(_))), "only the owner can create links there");
            chmod(&shared, 0o1777);
        }
        fs::remove_file(&link).unwrap();
        fs::remove_file(&indirect).unwrap();
    }
}

/// The kernel itself follows a link before a slash, so the link was once not checked.
#[test]
fn a_link_with_a_slash_after_it_is_held_to_the_same_rule() {
    let scene = Scene::new();
    let (shared, private) = (scene.folder.path().join("shared"), scene.folder.path().join("private"));
    fs::create_dir(&shared).unwrap();
    chmod(&shared, 0o1777);
    fs::create_dir(&private).unwrap();
    let link = shared.join("link");
    symlink(&private, &link).unwrap();
    // The slash may also be in the target of another link.
    let indirect = scene.folder.path().join("indirect");
    symlink("shared/link/", &indirect).unwrap();
    let targets = [link.join(""), shared.join("link//"), indirect];
    for target in &targets {
        let error = destination(target).unwrap_err();
        assert!(matches!(&error, Error::NotAFile(path) if *path == private), "a link of ours is followed: {error:?}");
    }

    if is_root() {
        lchown(&link, Some(OTHER), None).unwrap();
        for target in &targets {
            let error = destination(target).unwrap_err();
            assert!(matches!(&error, Error::ForeignLink { path, uid: OTHER } if *path == link), "{error:?}");
        }
    }
}

#[test]
fn a_path_with_a_final_slash_is_a_folder_or_missing() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    fs::write(folder.join("file"), "").unwrap();
    symlink("file", folder.join("to-file")).unwrap();
    symlink("file/", folder.join("to-file-with-slash")).unwrap();
    symlink("/dev/null", folder.join("to-device")).unwrap();
    for name in ["file/", "missing/", "to-file/", "to-file//", "to-file-with-slash", "to-device/"] {
        let error = destination(&folder.join(name)).unwrap_err();
        assert!(matches!(error, Error::NoFolder(_)), "{name}: {error:?}");
    }
    for path in ["/dev/stdout/", "/dev/fd/1/", "/proc/self/fd/1/"] {
        let error = destination(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::NoFolder(_)), "{path}: {error:?}");
    }
    for path in ["/", "//", "/."] {
        let error = destination(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::NotAFile(_)), "{path}: {error:?}");
    }
}

#[test]
fn devices_and_fifos_are_special_and_files_are_not() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    symlink("/dev/null", folder.join("link")).unwrap();
    fifo(&folder.join("fifo"));
    fs::write(&scene.target, "").unwrap();

    let special = |path: &Path| Destination::Special(path.to_owned());
    assert_eq!(destination(Path::new("/dev/null")).unwrap(), special(Path::new("/dev/null")));
    assert_eq!(destination(&folder.join("link")).unwrap(), special(Path::new("/dev/null")));
    assert_eq!(destination(&folder.join("fifo")).unwrap(), special(&folder.join("fifo")));
    assert_eq!(destination(&scene.target).unwrap(), Destination::File(scene.target.clone()));
    let missing = folder.join("missing");
    assert_eq!(destination(&missing).unwrap(), Destination::File(missing));
    assert!(matches!(destination(folder), Err(Error::NotAFile(_))));
}

/// Such a path was once followed to the open file, which was then replaced.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_names_a_descriptor_is_not_a_file() {
    let scene = Scene::new();
    let link = scene.folder.path().join("link");
    symlink("/dev/stdout", &link).unwrap();
    let open = fs::File::create(scene.folder.path().join("open")).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&open);
    let pid = std::process::id();
    for (path, number) in [
        ("/dev/stdout".to_owned(), 1),
        ("/dev/stderr".to_owned(), 2),
        ("/dev/fd/1".to_owned(), 1),
        ("/proc/self/fd/2".to_owned(), 2),
        ("/proc/thread-self/fd/1".to_owned(), 1),
        (format!("/proc/{pid}/fd/1"), 1),
        (format!("/proc/{pid}/task/{pid}/fd/1"), 1),
        ("/dev/../proc/self/fd/./1".to_owned(), 1),
        (link.to_str().unwrap().to_owned(), 1),
        (format!("/dev/fd/{number}"), number),
    ] {
        assert_eq!(destination(Path::new(&path)).unwrap(), Destination::Descriptor(number), "{path}");
        let error = PartFile::open_with(Path::new(&path), scene.wanted(), true, policy(), &RUN_ON).unwrap_err();
        assert!(matches!(error, Error::NotAFile(_)), "{path}: {error:?}");
    }
    // The kernel accepts only one spelling of each number.
    for path in [
        "/dev/fd/99999",
        "/dev/fd/01",
        "/dev/fd/+1",
        "/dev/fd/ 1",
        "/proc/self/fd/-1",
        "/proc/self/fd/x",
        "/proc/self/fd/00",
    ] {
        let error = destination(Path::new(path)).unwrap_err();
        assert!(matches!(error, Error::NoDescriptor(_) | Error::NotAFile(_)), "{path}: {error:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_another_process_has_open_is_not_replaced_through_that_process() {
    let scene = Scene::new();
    let open = scene.folder.path().join("open");
    let child = Command::new("sleep").arg("60").stdout(fs::File::create(&open).unwrap()).spawn().unwrap();
    let victim = Victim(child);

    let error = destination(Path::new(&format!("/proc/{}/fd/1", victim.0.id()))).unwrap_err();

    assert!(matches!(error, Error::OpenElsewhere(_)), "{error:?}");
}
