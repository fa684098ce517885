//! Finds and deletes the files of a folder that have no object.
//!
//! The files are walked in parallel with the keys, both in ascending byte order of the keys. Files without a key are
//! recorded in a file, and deleted once all keys are known. Memory depends neither on the number of keys nor on that of
//! files, only on the names in one folder at each level.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::vec::IntoIter;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use tracing::warn;

use super::folder::{Failed, Folder};
use super::name::{self, Names, RelativePath};
use super::report::{Event, Reporter};
use crate::error::Error;
use crate::part;

/// The walk, and what it has found.
#[derive(Debug)]
pub(super) struct Prune {
    folder: Arc<Folder>,
    names: Names,
    reporter: Reporter,
    /// The file system of the target folder.
    device: Option<u64>,
    levels: Vec<Level>,
    /// The paths to delete, each followed by a NUL. `None` if nothing is deleted.
    found: Option<BufWriter<File>>,
    last_key: Option<String>,
    is_ordered: bool,
}

/// A folder that is being walked.
#[derive(Debug)]
struct Level {
    /// The beginning of its files' paths: empty, or ending with a slash.
    path: String,
    /// The beginning of their keys. `None` if no key leads here.
    key: Option<String>,
    entries: std::iter::Peekable<IntoIter<Entry>>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// The part of a key that has this name, with a slash after that of a folder. `None` if no key has it.
    part: Option<String>,
    is_folder: bool,
}

/// What comes next in the order of keys.
enum Next {
    Nothing,
    File { key: Option<String> },
    Folder { key: Option<String> },
}

impl Prune {
    /// Starts to walk a folder. `found` receives the paths to delete. Without it they are only reported.
    pub(super) fn new(folder: Arc<Folder>, names: Names, reporter: Reporter, found: Option<File>) -> Self {
        let device = rustix::fs::fstat(folder.top()).ok().map(|stat| stat.st_dev);
        let mut prune = Self {
            folder,
            names,
            reporter,
            device,
            levels: Vec::new(),
            found: found.map(BufWriter::new),
            last_key: None,
            is_ordered: true,
        };
        prune.enter(String::new(), Some(String::new()));
        prune
    }

    /// Keeps the file of a key, and records all files before it that have no key.
    pub(super) fn keep(&mut self, key: &str) -> Result<(), Error> {
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            self.is_ordered = false;
        }
        self.last_key = Some(key.to_owned());

        loop {
            match self.next() {
                Next::Nothing => return Ok(()),
                Next::File { key: Some(file) } if file == key => {
                    self.skip();
                    return Ok(());
                }
                Next::File { key: Some(next) } if *next > *key => return Ok(()),
                Next::Folder { key: Some(next) } if *next > *key && !key.starts_with(&next) => return Ok(()),
                Next::File { .. } => self.record()?,
                Next::Folder { .. } => self.descend(),
            }
        }
    }

    /// Deletes the files that have no key, and the folders that become empty.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the keys were not in order; nothing is deleted then. Otherwise an error of the file
    /// system.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        if !self.is_ordered {
            let message = "the listing is not in order, so that nothing is deleted";
            return Err(Error::Malformed(message.to_owned()));
        }
        // An empty store is most likely a mistake, and never a reason to delete everything.
        if self.last_key.is_none() {
            return Ok(());
        }

        loop {
            match self.next() {
                Next::Nothing => break,
                Next::File { .. } => self.record()?,
                Next::Folder { .. } => self.descend(),
            }
        }
        self.delete()
    }

    fn delete(&mut self) -> Result<(), Error> {
        let Some(found) = self.found.take() else { return Ok(()) };
        let failed_here = |error| Error::from(part::Error::io(self.folder.path(), error));
        let mut found = found.into_inner().map_err(|error| failed_here(error.into_error()))?;
        found.rewind().map_err(failed_here)?;

        let mut last_parent = String::new();
        for path in BufReader::new(found).split(0) {
            let path = String::from_utf8_lossy(&path.map_err(failed_here)?).into_owned();
            let path = RelativePath::of_names(path);
            let (parent, _) = path.split();
            if parent != last_parent && !parent.starts_with(&format!("{last_parent}/")) {
                self.remove_empty(&last_parent);
            }
            last_parent = parent.to_owned();

            match self.folder.remove_file(&path) {
                Ok(true) => self.reporter.report(Event::Deleted { path: path.as_str().to_owned() }),
                Ok(false) => {}
                Err(error) => return Err(self.folder.failed(&path, error)),
            }
        }
        self.remove_empty(&last_parent);
        Ok(())
    }

    /// Removes an empty folder, and the folders above it that become empty.
    fn remove_empty(&self, path: &str) {
        let mut path = path;
        while !path.is_empty() {
            match self.folder.remove_folder(path) {
                Ok(true) => path = path.rsplit_once('/').map_or("", |(parent, _)| parent),
                Ok(false) => return,
                Err(error) => {
                    return warn!(error = &error as &dyn std::error::Error, path, "the empty folder can't be removed");
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        while let Some(level) = self.levels.last_mut() {
            let Some(entry) = level.entries.peek() else {
                self.levels.pop();
                continue;
            };
            let key = match (&level.key, &entry.part) {
                (Some(key), Some(part)) => Some(format!("{key}{part}")),
                _ => None,
            };
            return if entry.is_folder { Next::Folder { key } } else { Next::File { key } };
        }
        Next::Nothing
    }

    fn skip(&mut self) -> Option<(String, Entry)> {
        let level = self.levels.last_mut()?;
        let entry = level.entries.next()?;
        Some((format!("{}{}", level.path, entry.name), entry))
    }

    fn record(&mut self) -> Result<(), Error> {
        let Some((path, _)) = self.skip() else { return Ok(()) };
        match &mut self.found {
            None => self.reporter.report(Event::WouldDelete { path }),
            Some(found) => {
                let written = found.write_all(path.as_bytes()).and_then(|()| found.write_all(b"\0"));
                written.map_err(|error| Error::from(part::Error::io(self.folder.path(), error)))?;
            }
        }
        Ok(())
    }

    fn descend(&mut self) {
        let key = match self.next() {
            Next::Folder { key } => key,
            Next::File { .. } | Next::Nothing => None,
        };
        if let Some((path, _)) = self.skip() {
            self.enter(format!("{path}/"), key);
        }
    }

    fn enter(&mut self, path: String, key: Option<String>) {
        match self.read(&path, key.is_some()) {
            Ok(mut entries) => {
                entries.sort_by(|one, other| one.order().cmp(other.order()));
                self.levels.push(Level { path, key, entries: entries.into_iter().peekable() });
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, path, "the folder can't be read: skipping it")
            }
        }
    }

    /// Reads the files and folders in a folder, except those that are never deleted.
    fn read(&self, path: &str, is_of_keys: bool) -> std::io::Result<Vec<Entry>> {
        let folder = match self.folder.folder(path.trim_end_matches('/'), false) {
            Ok(folder) => folder,
            Err(Failed::Missing | Failed::Blocked(_)) => return Ok(Vec::new()),
            Err(Failed::Io(error)) => return Err(error),
        };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(&folder, ".", flags, Mode::empty())?;
        if Some(rustix::fs::fstat(&readable)?.st_dev) != self.device {
            return Ok(Vec::new());
        }

        let mut entries = Vec::new();
        for entry in Dir::read_from(&readable)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = kind(&readable, name, entry.file_type())?;
            let is_folder = kind == FileType::Directory;
            if !is_folder && kind != FileType::RegularFile {
                continue;
            }
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if name::is_reserved(name) {
                continue;
            }

            let part = name::decode(name, self.names).filter(|_| is_of_keys);
            let part = part.map(|part| if is_folder { format!("{part}/") } else { part });
            entries.push(Entry { name: name.to_owned(), part, is_folder });
        }
        Ok(entries)
    }
}

impl Entry {
    fn order(&self) -> &str {
        self.part.as_deref().unwrap_or(&self.name)
    }
}

fn kind(folder: &OwnedFd, name: &[u8], stated: FileType) -> std::io::Result<FileType> {
    if stated != FileType::Unknown {
        return Ok(stated);
    }
    let stat = rustix::fs::statat(folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}
