//! The folder that holds the files of a tree until they are complete and durable: `.gantry-tree` in the target folder.
//!
//! Only its owner may read or write it. It is locked while a tree is being downloaded, and removed at the end.
//!
//! A complete file has a name that identifies the version of its object and the current boot of the machine. If the
//! process is killed before it has moved the file to its place, the next process reuses the file. After a crash of the
//! machine the boot id differs, so the file is not reused: its bytes may not have reached the disk.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::folder::{Folder, sync_folder};
use super::item::Item;
use super::name::STAGE;
use super::time::Modified;

/// The name of the file that is locked.
const LOCK: &str = "lock";

/// The number of attempts to open the folder if another process removes it meanwhile.
const ATTEMPTS: usize = 16;

/// How the file system's changes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// All at once, by `syncfs`.
    Whole,
    /// Each file and folder on its own.
    Each,
}

/// The locked folder.
#[derive(Debug)]
pub(super) struct Stage {
    folder: File,
    _lock: File,
    /// The owner of the files that this process creates here.
    uid: u32,
    path: PathBuf,
    boot: Option<String>,
    durability: Durability,
}

/// Why the folder can't be used.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another process has locked it.
    InUse,
    /// It belongs to this other user.
    Foreign(u32),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Stage {
    /// Creates and locks the folder. `boot` identifies the current boot of the machine.
    pub(super) fn open(target: &Folder, boot: Option<String>) -> Result<Self, Refused> {
        for _ in 0..ATTEMPTS {
            let folder = open_private(target)?;
            let lock = match open_lock(&folder) {
                Ok(lock) => lock,
                // The folder was removed after it was opened.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Err(Refused::InUse),
                Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
            }
            if lock.metadata()?.nlink() == 0 {
                continue;
            }

            let uid = lock.metadata()?.uid();
            let owner = folder.metadata()?.uid();
            if owner != uid {
                return Err(Refused::Foreign(owner));
            }
            let path = path_of(&folder, target.path());
            let durability = durability(&folder);
            return Ok(Self { folder, _lock: lock, uid, path, boot, durability });
        }
        Err(Refused::InUse)
    }

    /// Returns the path of a file, for downloads by path. It leads through the open folder where the system allows that,
    /// so that nobody can put another folder in its place.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns an error that names the path that the user knows.
    pub(super) fn show(&self, error: io::Error, target: &Folder) -> crate::part::Error {
        crate::part::Error::io(&target.path().join(STAGE), error)
    }

    /// Returns the name of the complete file of an object's version, or `None` if the version is not known.
    pub(super) fn complete_name(&self, item: &Item) -> Option<String> {
        let etag = item.etag.as_deref()?;
        let boot = self.boot.as_deref()?;
        let size = item.size?.to_string();
        let modified = item.last_modified.as_deref().unwrap_or_default();
        Some(hash(&[boot, item.store.as_str(), item.key.as_str(), etag, &size, modified]))
    }

    /// Returns the name of an object's unfinished file.
    pub(super) fn unfinished_name(item: &Item) -> String {
        hash(&[item.store.as_str(), item.key.as_str()])
    }

    /// Returns whether a complete file of `len` bytes is here, from a process that was killed.
    pub(super) fn has(&self, name: &str, len: u64) -> bool {
        let Ok(stat) = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == self.uid
            && stat.st_nlink == 1
            && u64::try_from(stat.st_size) == Ok(len)
    }

    /// Writes a file. A file that is shorter than its object is incomplete: the process was killed during the write.
    pub(super) fn write(&self, name: &str, pieces: &[Bytes]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.folder, name, flags, Mode::from_raw_mode(0o666))?);
        let written = pieces.iter().try_for_each(|piece| file.write_all(piece));
        if written.is_err() {
            // A partial file would look like an interrupted one, and take up space on a full disk.
            self.remove(name)?;
        }
        written
    }

    /// Gives a file its modification time and, if it replaces another one, the permission bits of that one.
    pub(super) fn finish(&self, name: &str, modified: Option<Modified>, mode: Option<u32>) -> io::Result<()> {
        let time = modified.and_then(Modified::system_time);
        if time.is_none() && mode.is_none() {
            return Ok(());
        }

        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?);
        if let Some(time) = time {
            file.set_modified(time)?;
        }
        if let Some(mode) = mode {
            match file.set_permissions(Permissions::from_mode(mode)) {
                // The file system has no permissions.
                Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {}
                set => set?,
            }
        }
        Ok(())
    }

    /// Renames a file within the folder.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    /// Moves a file to its place.
    pub(super) fn publish(&self, name: &str, folder: &OwnedFd, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, name, folder, to)?)
    }

    /// Removes a file, if it exists.
    pub(super) fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, name.as_ref(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates an empty file for the process's own use.
    pub(super) fn scratch(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Makes the bytes of these files durable.
    pub(super) fn sync_files<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> io::Result<()> {
        match self.durability {
            Durability::Whole => Ok(rustix::fs::syncfs(&self.folder)?),
            Durability::Each => names.try_for_each(|name| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                File::from(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?).sync_all()
            }),
        }
    }

    /// Makes the names in these folders durable, unless [`Self::sync_names`] does that for all folders at once.
    pub(super) fn sync_folders<'a>(&self, mut folders: impl Iterator<Item = &'a OwnedFd>) -> io::Result<()> {
        match self.durability {
            Durability::Whole => Ok(()),
            Durability::Each => folders.try_for_each(sync_folder),
        }
    }

    /// Makes the names in all folders durable.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        match self.durability {
            Durability::Whole => Ok(rustix::fs::syncfs(&self.folder)?),
            Durability::Each => Ok(()),
        }
    }

    /// Returns whether each new folder must be made durable on its own.
    pub(super) fn syncs_each(&self) -> bool {
        self.durability == Durability::Each
    }

    /// Returns whether upper and lower case are the same in file names here.
    pub(super) fn ignores_case(&self) -> io::Result<bool> {
        drop(self.scratch("Case")?);
        let ignores = rustix::fs::statat(&self.folder, "cASE", AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.remove("Case")?;
        Ok(ignores)
    }

    /// Removes the folder and its contents at the end of a complete download.
    pub(super) fn dispose(self, target: &Folder) -> io::Result<()> {
        for name in self.names()? {
            self.remove(&name)?;
        }
        self.dispose_empty(target)
    }

    /// Removes the folder if it contains nothing that a later run can use, so nothing but `scratch`. Returns whether it
    /// did.
    pub(super) fn dispose_if_unused(self, target: &Folder, scratch: &str) -> io::Result<bool> {
        if self.names()?.iter().any(|name| name != scratch) {
            return Ok(false);
        }
        self.dispose(target)?;
        Ok(true)
    }

    /// Returns the names of the files other than the lock.
    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if !matches!(name.as_bytes(), b"." | b"..") && name != LOCK {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn dispose_empty(self, target: &Folder) -> io::Result<()> {
        self.remove(LOCK)?;
        match rustix::fs::unlinkat(target.top(), STAGE, AtFlags::REMOVEDIR) {
            // Another process has just started to use it.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_private(target: &Folder) -> Result<File, Refused> {
    match rustix::fs::mkdirat(target.top(), STAGE, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }

    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::openat(target.top(), STAGE, flags, Mode::empty())?);
    // A file system without permissions refuses this. A folder of another user is detected by its owner. The bits above
    // the permissions stay, since one of them gives new files the group of the target folder.
    let special = folder.metadata()?.mode() & 0o7000;
    drop(folder.set_permissions(Permissions::from_mode(special | 0o700)));
    Ok(folder)
}

fn open_lock(folder: &File) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, LOCK, flags, Mode::from_raw_mode(0o600))?.into())
}

fn path_of(folder: &File, target: &Path) -> PathBuf {
    let through_descriptor = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let is_same = |path: &Path| {
        let (Ok(there), Ok(here)) = (std::fs::metadata(path), folder.metadata()) else { return false };
        (there.dev(), there.ino()) == (here.dev(), here.ino())
    };
    if is_same(&through_descriptor) { through_descriptor } else { target.join(STAGE) }
}

/// Returns how to make changes durable. `syncfs` is used only on file systems where it is known to work and to report
/// failures.
///
/// `syncfs` reports failed writes since Linux 5.8 (`syncfs(2)`). FUSE does not pass it on to the file system's process.
#[cfg(target_os = "linux")]
fn durability(folder: &File) -> Durability {
    /// btrfs, ext2 to ext4, f2fs, overlayfs, tmpfs, XFS and ZFS. Source: `statfs(2)`, ZFS's `zfs_vfsops.c`.
    const KNOWN: [u32; 7] = [0x9123_683e, 0xef53, 0xf2f5_2010, 0x794c_7630, 0x0102_1994, 0x5846_5342, 0x2fc1_2fc1];

    let kind = rustix::fs::fstatfs(folder).ok().and_then(|found| u32::try_from(found.f_type).ok());
    let is_known = kind.is_some_and(|kind| KNOWN.contains(&kind));
    if is_known && reports_failures() { Durability::Whole } else { Durability::Each }
}

#[cfg(not(target_os = "linux"))]
fn durability(_: &File) -> Durability {
    Durability::Each
}

#[cfg(target_os = "linux")]
fn reports_failures() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

fn hash(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }

    let mut name = String::with_capacity(32);
    for byte in &hasher.finalize()[..16] {
        // Writing to a string never fails.
        write!(name, "{byte:02x}").unwrap_or_default();
    }
    name
}
