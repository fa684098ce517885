//! The folder on disk. All functions may block.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::process::geteuid;

use super::format::FORMAT;
use super::name::FileName;
use super::trouble::Trouble;

/// The file that marks a folder as a cache, and that the process that uses it has locked.
const MARKER: &str = "gantry-cache";

/// How the name of an unfinished file ends.
const UNFINISHED: &str = ".unfinished";

/// A file that is longer is read in two parts, in bytes.
const PART_BYTES: u64 = 512 << 10;

/// Maximum number of files that a scan remembers. The rest is removed, since no cache needs as many.
const FILES_MAX: usize = 4_000_000;

/// A folder that this process alone uses.
#[derive(Debug)]
pub(super) struct Disk {
    dir: Dir,
    /// Locked while this exists.
    _marker: File,
    /// Numbers the unfinished files.
    written: AtomicU64,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// What happens in place of the next operations, in tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The failure of all reads or writes.
    pub(super) read: std::sync::Mutex<Option<io::ErrorKind>>,
    pub(super) write: std::sync::Mutex<Option<io::ErrorKind>>,
    /// Writing waits while this is locked.
    pub(super) hang: std::sync::Mutex<()>,
}

/// A file that a scan has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) modified: SystemTime,
    pub(super) name: FileName,
    pub(super) len: u64,
}

impl Disk {
    /// Creates the folder unless it exists, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        if let Err(error) = DirBuilder::new().mode(0o700).create(path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(Trouble::Unopened(error.to_string()));
        }

        let dir = open_folder(path)?;
        let metadata = dir.dir_metadata().map_err(|error| Trouble::of(&error))?;
        check_owner(metadata.uid(), geteuid().as_raw(), metadata.mode())?;

        let marker = lock(&dir)?;
        Ok(Self {
            dir,
            _marker: marker,
            written: AtomicU64::new(0),
            #[cfg(test)]
            faults: Faults::default(),
        })
    }

    /// Returns all files of the cache, the one that was used last at the end, and removes unfinished ones.
    pub(super) fn scan(&self, is_abandoned: &dyn Fn() -> bool) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in self.dir.entries()? {
            if is_abandoned() {
                return Err(io::Error::other("abandoned"));
            }
            let entry = entry?;
            let name = entry.file_name();
            let Some(text) = name.to_str() else { continue };

            // Another process may remove each file meanwhile.
            if text.ends_with(UNFINISHED) {
                absent(self.dir.remove_file(text))?;
            } else if let Some(name) = FileName::parse(text) {
                if found.len() == FILES_MAX {
                    self.remove(name)?;
                    continue;
                }
                let Some(metadata) = absent(entry.metadata())? else { continue };
                let modified = metadata.modified().map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std);
                found.push(Found { modified, name, len: metadata.len() });
            }
        }

        found.sort_unstable_by_key(|file| (file.modified, file.name));
        Ok(found)
    }

    /// Reads at most `len` bytes and one more of a file, and sets its modification time if `marked` is present. Returns
    /// `None` if there is no such file.
    ///
    /// A block comes in two parts, so that a transfer that has taken the first one holds only half of it.
    pub(super) fn read(&self, name: FileName, len: u64, marked: Option<SystemTime>) -> io::Result<Option<Vec<Bytes>>> {
        #[cfg(test)]
        if let Some(kind) = *self.faults.read.lock().unwrap() {
            return Err(kind.into());
        }
        let Some(mut file) = absent(open(&self.dir, &name.to_string()))? else { return Ok(None) };

        let first_len = if len > PART_BYTES { len.div_ceil(2) } else { len + 1 };
        let mut parts = vec![read_up_to(&mut file, first_len)?];
        if len > PART_BYTES {
            // One more byte shows that the file is longer.
            parts.push(read_up_to(&mut file, len - first_len + 1)?);
        }

        if let Some(marked) = marked {
            // A failure loses nothing but the order of eviction.
            drop(file.set_modified(marked));
        }
        Ok(Some(parts))
    }

    /// Sets the modification time of a file.
    pub(super) fn mark(&self, name: FileName, marked: SystemTime) -> io::Result<()> {
        let marked = absent(open(&self.dir, &name.to_string())).and_then(|file| match file {
            Some(file) => file.set_modified(marked),
            None => Ok(()),
        });
        // The next reader of this block replaces the file.
        marked.or_else(|error| if is_of_file(&error) { Ok(()) } else { Err(error) })
    }

    /// Writes a file. After a crash it may be missing, truncated or damaged, which its checksum shows.
    pub(super) fn write(&self, name: FileName, head: &[u8], payload: &[Bytes]) -> io::Result<()> {
        let unfinished = format!("{}{UNFINISHED}", self.written.fetch_add(1, Ordering::Relaxed));
        let written = self.write_new(&unfinished, head, payload);
        let renamed = written.and_then(|()| self.replace(&unfinished, name));

        if renamed.is_err() {
            drop(self.dir.remove_file(&unfinished));
        }
        renamed
    }

    /// Gives an unfinished file its name.
    fn replace(&self, unfinished: &str, name: FileName) -> io::Result<()> {
        let rename = || self.dir.rename(unfinished, &self.dir, name.to_string());
        match rename() {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.remove(name)?;
                rename()
            }
            renamed => renamed,
        }
    }

    fn write_new(&self, name: &str, head: &[u8], payload: &[Bytes]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = self.dir.open_with(name, &options)?;

        file.write_all(head)?;
        #[cfg(test)]
        {
            drop(self.faults.hang.lock().unwrap());
            if let Some(kind) = *self.faults.write.lock().unwrap() {
                return Err(kind.into());
            }
        }
        payload.iter().try_for_each(|piece| file.write_all(piece))
    }

    /// Returns whether there is something under this name.
    pub(super) fn has(&self, name: FileName) -> io::Result<bool> {
        absent(self.dir.symlink_metadata(name.to_string())).map(|found| found.is_some())
    }

    /// Removes a file, if there is one. A directory with content in its place stays.
    pub(super) fn remove(&self, name: FileName) -> io::Result<()> {
        remove(&self.dir, name).map(|_| ())
    }
}

/// Returns whether a failure concerns one file, in contrast to the folder or the disk.
pub(super) fn is_of_file(error: &io::Error) -> bool {
    let is_kind = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory);
    // A link or a socket in the file's place. Source: open(2).
    is_kind || matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO))
}

/// Removes a file, if there is one, or an empty directory in its place. Returns whether nothing is left there: a directory
/// with content stays, since no cache has created it.
pub(super) fn remove(dir: &Dir, name: FileName) -> io::Result<bool> {
    let name = name.to_string();
    let removed = match dir.remove_file(&name) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => dir.remove_dir(&name),
        removed => removed,
    };

    match absent(removed) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        removed => removed.map(|_| true),
    }
}

/// Returns the files of a folder that another process may use.
pub(super) fn found(dir: &Dir) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(FileName::parse) else { continue };
        // It may have been removed meanwhile.
        let Some(metadata) = absent(entry.metadata())? else { continue };
        let modified = metadata.modified().map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std);
        found.push(Found { modified, name, len: metadata.len() });
    }
    Ok(found)
}

/// Checks that a folder is a cache of this version.
pub(super) fn check_marker(dir: &Dir) -> Result<(), Trouble> {
    let marker = absent(open(dir, MARKER)).map_err(|error| Trouble::of(&error))?.ok_or(Trouble::NoCache)?;
    let mut text = Vec::new();
    marker.take(64).read_to_end(&mut text).map_err(|error| Trouble::of(&error))?;

    let expected = format!("gantry cache {FORMAT}\n");
    if expected.as_bytes().starts_with(&text) {
        return Ok(());
    }
    Err(Trouble::Format(String::from_utf8_lossy(&text).trim().escape_default().to_string()))
}

/// Returns the time of the system's clock, which modification times are compared with.
#[expect(clippy::disallowed_methods, reason = "what is kept outlives the process")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// Checks that only this user can add files to the folder.
fn check_owner(owner: u32, user: u32, mode: u32) -> Result<(), Trouble> {
    if owner != user {
        return Err(Trouble::Owner { owner, user });
    }
    if mode & 0o022 != 0 {
        return Err(Trouble::Exposed(mode & 0o777));
    }
    Ok(())
}

/// Opens a folder to look at it.
pub(super) fn open_folder(path: &Path) -> Result<Dir, Trouble> {
    let opened = Dir::open_ambient_dir(path, ambient_authority());
    opened.map_err(|error| {
        let is_file = error.kind() == io::ErrorKind::NotADirectory;
        if is_file { Trouble::NoDirectory } else { Trouble::Unopened(error.to_string()) }
    })
}

/// Opens a file of a folder for reading. A link or a pipe in its place is an error.
pub(super) fn open(dir: &Dir, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    dir.open_with(name, &options).map(cap_std::fs::File::into_std)
}

/// Creates or checks the marker of a folder, and locks it.
fn lock(dir: &Dir) -> Result<File, Trouble> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let opened = dir.open_with(MARKER, &options).map_err(|error| Trouble::of(&error))?;
    let mut marker = opened.into_std();

    marker.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => Trouble::Locked,
        std::fs::TryLockError::Error(error) => Trouble::Fails(format!("it can't be locked: {error}")),
    })?;

    let mut text = String::new();
    let read = (&marker).take(64).read_to_string(&mut text);
    let expected = format!("gantry cache {FORMAT}\n");
    match read {
        Ok(_) if text == expected => Ok(marker),
        // A crash may have truncated it.
        Ok(_) if expected.starts_with(&text) => {
            let written = marker.rewind().and_then(|()| marker.write_all(expected.as_bytes()));
            written.map_err(|error| Trouble::of(&error))?;
            Ok(marker)
        }
        Ok(_) => Err(Trouble::Format(text.trim().escape_default().to_string())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Trouble::Format("unknown".to_owned())),
        Err(error) => Err(Trouble::of(&error)),
    }
}

fn read_up_to(file: &mut File, len: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX));
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Returns `None` for a file that does not exist.
fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// `gantry cache purge` during the scan at a relay's start once made the whole folder unusable for a while.
    #[test]
    fn a_scan_skips_files_that_are_removed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let disk = Disk::open(&path).unwrap();
        let names = [format!("{:032x}.current", 1), format!("{:032x}.current", 2), "7.unfinished".to_owned()];
        names.iter().for_each(|name| std::fs::write(path.join(name), "").unwrap());

        // The names of a small folder are read at once, so the scan still gets those of the removed files.
        let is_purged = Cell::new(false);
        let purge = || {
            if !is_purged.replace(true) {
                names.iter().for_each(|name| std::fs::remove_file(path.join(name)).unwrap());
            }
            false
        };
        assert_eq!(disk.scan(&purge).unwrap(), []);
        assert!(is_purged.get());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        assert_eq!(check_owner(7, 7, 0o40700), Ok(()));
        assert_eq!(check_owner(7, 7, 0o40755), Ok(()));
        assert_eq!(check_owner(7, 0, 0o40700), Err(Trouble::Owner { owner: 7, user: 0 }));
        assert_eq!(check_owner(0, 7, 0o40700), Err(Trouble::Owner { owner: 0, user: 7 }));
        assert_eq!(check_owner(7, 7, 0o40770), Err(Trouble::Exposed(0o770)));
    }
}
