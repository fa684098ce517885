//! The target folder. Every path is followed one name at a time from its descriptor, and no symbolic link is followed, so
//! that nothing outside of the folder is ever reached.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::name::RelativePath;
use super::time::Modified;
use crate::error::Error;
use crate::part;

/// How a folder is opened. `O_PATH` needs no permission to read it.
#[cfg(target_os = "linux")]
const OPEN_FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const OPEN_FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The number of folders that are kept open. Keys come in order, so few are enough.
const OPEN_FOLDERS_MAX: usize = 64;

/// The target folder of a tree.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The folders that were created for it: itself, and those above it from the inside out.
    created: Vec<PathBuf>,
    top: Arc<OwnedFd>,
    /// Folders below, by their paths.
    open: Mutex<HashMap<String, Arc<OwnedFd>>>,
    syncs_each: AtomicBool,
}

/// The entry at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Present {
    Nothing,
    File(Found),
    Folder,
    Blocked(Blocked),
}

/// A regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) len: u64,
    pub(super) modified: Modified,
    /// The permission bits.
    pub(super) mode: u32,
}

/// Why nothing can be written at a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// A symbolic link is in the way. It is neither followed nor replaced.
    #[error("{0:?} is a symbolic link, which is not followed")]
    Link(String),
    /// A folder is where the file would be.
    #[error("{0:?} is a folder")]
    Folder(String),
    /// A file is where a folder would be.
    #[error("{0:?} is a file, and would have to be a folder")]
    File(String),
    /// A device, FIFO or socket is in the way.
    #[error("{0:?} is not a regular file")]
    Special(String),
}

/// Why a folder can't be opened.
#[derive(Debug)]
pub(super) enum Failed {
    Missing,
    Blocked(Blocked),
    Io(io::Error),
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Folder {
    /// Opens the target folder itself, whose path may contain links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let top = File::open(path).or_else(|error| {
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Err(error);
            }
            // A folder that is writable but not readable.
            let flags = OPEN_FOLDER.difference(OFlags::NOFOLLOW);
            Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
        })?;
        if !top.metadata()?.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Self {
            path: path.to_owned(),
            created: Vec::new(),
            top: Arc::new(top.into()),
            open: Mutex::default(),
            syncs_each: AtomicBool::new(false),
        })
    }

    /// Opens the target folder, and creates it and the folders above it if they are missing.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let missing: Vec<_> = path.ancestors().take_while(is_missing).collect();
        fs::create_dir_all(path)?;
        for folder in &missing {
            let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_folder(&File::open(parent.unwrap_or(Path::new(".")))?.into())?;
        }
        Ok(Self { created: missing.into_iter().map(Path::to_owned).collect(), ..Self::open(path)? })
    }

    /// Removes the target folder, and those above it, as far as they are empty and [`create`](Self::create) made them.
    pub(super) fn remove_new(&self) {
        for folder in &self.created {
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn top(&self) -> &OwnedFd {
        &self.top
    }

    /// Returns the error of the file system at a path.
    pub(super) fn failed(&self, path: &RelativePath, error: io::Error) -> Error {
        part::Error::io(&self.path.join(path.as_path()), error).into()
    }

    /// Looks up a path without following links.
    pub(super) fn look(&self, path: &RelativePath) -> io::Result<Present> {
        let (parent, name) = path.split();
        let parent = match self.folder(parent, false) {
            Ok(parent) => parent,
            Err(Failed::Missing) => return Ok(Present::Nothing),
            Err(Failed::Blocked(blocked)) => return Ok(Present::Blocked(blocked)),
            Err(Failed::Io(error)) => return Err(error),
        };
        look_at(&parent, name, path)
    }

    /// Opens a folder by its path, which is empty for the target folder. Creates missing folders if `create` is set.
    pub(super) fn folder(&self, path: &str, create: bool) -> Result<Arc<OwnedFd>, Failed> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.top));
        }
        if let Some(folder) = self.lock().get(path) {
            return Ok(Arc::clone(folder));
        }

        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.folder(parent, create)?;
        let folder = match open_folder(&parent, name, path) {
            Err(Failed::Missing) if create => {
                self.make(&parent, name)?;
                open_folder(&parent, name, path)?
            }
            opened => opened?,
        };

        let folder = Arc::new(folder);
        let mut open = self.lock();
        if open.len() >= OPEN_FOLDERS_MAX {
            open.clear();
        }
        open.insert(path.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    fn make(&self, parent: &OwnedFd, name: &str) -> Result<(), Failed> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) if self.syncs_each.load(Ordering::Relaxed) => sync_folder(parent).map_err(Failed::Io),
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes each folder that is created from now on durable at once.
    pub(super) fn sync_each(&self) {
        self.syncs_each.store(true, Ordering::Relaxed);
    }

    /// Opens a file for reading without following links.
    pub(super) fn open_file(&self, path: &RelativePath) -> io::Result<File> {
        let (parent, name) = path.split();
        let parent = match self.folder(parent, false) {
            Ok(parent) => parent,
            Err(Failed::Missing | Failed::Blocked(_)) => return Err(io::ErrorKind::NotFound.into()),
            Err(Failed::Io(error)) => return Err(error),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?.into())
    }

    /// Removes a regular file. Returns `false` if the file does not exist.
    pub(super) fn remove_file(&self, path: &RelativePath) -> io::Result<bool> {
        let (parent, name) = path.split();
        let parent = match self.folder(parent, false) {
            Ok(parent) => parent,
            Err(Failed::Missing | Failed::Blocked(_)) => return Ok(false),
            Err(Failed::Io(error)) => return Err(error),
        };
        if !matches!(look_at(&parent, name, path)?, Present::File(_)) {
            return Ok(false);
        }
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
        Ok(true)
    }

    /// Removes a folder if it is empty. Returns whether it was.
    pub(super) fn remove_folder(&self, path: &str) -> io::Result<bool> {
        // A descriptor of the removed folder is useless.
        self.lock().remove(path);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Ok(parent) = self.folder(parent, false) else { return Ok(false) };
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<OwnedFd>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a name in a folder. `path` is for messages.
pub(super) fn look_at(folder: impl AsFd, name: &str, path: &RelativePath) -> io::Result<Present> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Present::Nothing),
        Err(error) => return Err(error.into()),
    };

    let path = || path.as_str().to_owned();
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Present::File(found(&stat)),
        FileType::Directory => Present::Folder,
        FileType::Symlink => Present::Blocked(Blocked::Link(path())),
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            Present::Blocked(Blocked::Special(path()))
        }
    })
}

fn found(stat: &Stat) -> Found {
    Found {
        len: u64::try_from(stat.st_size).unwrap_or(0),
        modified: Modified::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        mode: stat.st_mode & 0o777,
    }
}

fn open_folder(parent: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd, Failed> {
    match rustix::fs::openat(parent, name, OPEN_FOLDER, Mode::empty()) {
        Ok(folder) => Ok(folder),
        Err(Errno::NOENT) => Err(Failed::Missing),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let path = RelativePath::of_names(path.to_owned());
            match look_at(parent, name, &path).map_err(Failed::Io)? {
                Present::Nothing => Err(Failed::Missing),
                Present::Blocked(blocked) => Err(Failed::Blocked(blocked)),
                Present::File(_) | Present::Folder => Err(Failed::Blocked(Blocked::File(path.as_str().to_owned()))),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the names in a folder durable, if folders can be synced.
pub(super) fn sync_folder(folder: &OwnedFd) -> io::Result<()> {
    // The descriptor may have been opened with `O_PATH`, which can't be synced.
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    match File::from(rustix::fs::openat(folder, ".", flags, Mode::empty())?).sync_all() {
        // Some network file systems can't sync a folder.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}
