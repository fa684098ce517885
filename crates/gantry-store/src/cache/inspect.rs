//! A look at a cache folder from another process. All functions block.
//!
//! The folder may be in use: its files are replaced as a whole, and its user reads what is missing from the store.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use cap_std::fs::Dir;

use super::disk::{self, Found};
use super::folder::checked;
use super::format::{self, About, Damage, HEAD_BYTES};
use super::name::{FileName, KeyName, VersionName};
use super::trouble::Trouble;

/// The longest valid file: a description and a block, each of at most a MiB, and a head.
const FILE_MAX_BYTES: u64 = (format::DESCRIPTION_MAX_BYTES as u64) + format::BLOCK_BYTES + (HEAD_BYTES as u64);

/// A cache folder that is only looked at.
#[derive(Debug)]
pub struct Inspection {
    dir: Dir,
    files: Vec<Found>,
}

/// A version of an object of which blocks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptObject {
    /// The store's name.
    pub store: String,
    /// The object's key.
    pub key: String,
    /// The version's `ETag`.
    pub etag: String,
    /// The object's size, in bytes.
    pub size: u64,
    /// How many of these bytes are kept.
    pub kept_bytes: u64,
    /// When a block of it was last used, exact to ten minutes.
    pub used: SystemTime,
}

impl KeptObject {
    /// Returns whether the whole object is kept.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.kept_bytes == self.size
    }
}

/// A damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// Its name in the folder.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    file: FileName,
}

impl Inspection {
    /// Looks at a folder.
    ///
    /// # Errors
    /// If it can't be read, or is no cache folder of this version.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let dir = disk::open_folder(path)?;
        disk::check_marker(&dir)?;
        let files = disk::found(&dir).map_err(|error| Trouble::of(&error))?;
        Ok(Self { dir, files })
    }

    /// Returns the length of all files, in bytes, and their number.
    #[must_use]
    pub fn total(&self) -> (u64, usize) {
        (self.files.iter().map(|file| file.len).sum(), self.files.len())
    }

    /// Returns the kept versions by store and key. Versions whose files can't be read are left out.
    #[must_use]
    pub fn objects(&self) -> Vec<KeptObject> {
        let mut versions: BTreeMap<VersionName, Vec<(Found, u64)>> = BTreeMap::new();
        for file in &self.files {
            if let FileName::Block(block) = file.name {
                versions.entry(block.version).or_default().push((*file, block.number));
            }
        }

        let mut objects: Vec<_> = versions.iter().filter_map(|(version, blocks)| self.kept(*version, blocks)).collect();
        objects.sort_by(|one, other| (&one.store, &one.key, one.used).cmp(&(&other.store, &other.key, other.used)));
        objects
    }

    /// Reads every file and returns the damaged ones. Files that are removed meanwhile are no problem.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn verify(&self) -> Result<Vec<DamagedFile>, Trouble> {
        let mut damaged = Vec::new();
        for file in &self.files {
            let bytes = match self.read(file.name, FILE_MAX_BYTES + 1) {
                Ok(bytes) => Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if disk::is_of_file(&error) => Err(Damage::Unreadable(error.kind())),
                Err(error) => return Err(Trouble::of(&error)),
            };
            if let Err(damage) = bytes.and_then(|bytes| checked(file.name, vec![bytes])) {
                damaged.push(DamagedFile { name: file.name.to_string(), reason: damage.to_string(), file: file.name });
            }
        }
        Ok(damaged)
    }

    /// Removes damaged files, and returns how many. A directory with content in a file's place stays.
    ///
    /// # Errors
    /// If the disk fails, or this process may not write to the folder.
    pub fn remove_damaged(&self, damaged: &[DamagedFile]) -> Result<usize, Trouble> {
        let mut count = 0;
        for damaged in damaged {
            count += usize::from(self.remove(damaged.file)?);
        }
        Ok(count)
    }

    /// Removes all files of objects that `matches` accepts by store and key, and returns the length and the number of
    /// the removed files. A directory with content in a file's place stays.
    ///
    /// # Errors
    /// If the disk fails, or this process may not write to the folder.
    pub fn purge(&self, matches: impl Fn(&str, &str) -> bool) -> Result<(u64, u64), Trouble> {
        let mut keys: BTreeMap<KeyName, Vec<&Found>> = BTreeMap::new();
        for file in &self.files {
            keys.entry(file.name.key()).or_default().push(file);
        }

        let mut purged = Vec::new();
        for files in keys.values() {
            // Any intact file names the object.
            let is_own = |file: &Found, about: &About| KeyName::of(&about.store, &about.object.key) == file.name.key();
            let about = files.iter().find_map(|file| self.about(file.name).ok().filter(|about| is_own(file, about)));
            if about.is_none_or(|about| !matches(&about.store, about.object.key.as_str())) {
                continue;
            }
            purged.extend(files);
        }
        self.remove_all(purged)
    }

    /// Removes all files, also those that can't be read, and returns the length and the number of the removed files. A
    /// directory with content in a file's place stays.
    ///
    /// # Errors
    /// If the disk fails, or this process may not write to the folder.
    pub fn purge_all(&self) -> Result<(u64, u64), Trouble> {
        self.remove_all(&self.files)
    }

    fn remove_all<'a>(&self, files: impl IntoIterator<Item = &'a Found>) -> Result<(u64, u64), Trouble> {
        let (mut bytes, mut count) = (0, 0);
        for file in files {
            if self.remove(file.name)? {
                bytes += file.len;
                count += 1;
            }
        }
        Ok((bytes, count))
    }

    /// Describes a version by any of its blocks that can be read.
    fn kept(&self, version: VersionName, blocks: &[(Found, u64)]) -> Option<KeptObject> {
        let mut kept = blocks.iter().find_map(|(file, _)| self.described(file.name, version))?;
        for (file, number) in blocks {
            kept.kept_bytes += format::payload_len(kept.size, *number);
            kept.used = kept.used.max(file.modified);
        }
        Some(kept)
    }

    fn described(&self, name: FileName, version: VersionName) -> Option<KeptObject> {
        let About { store, object } = self.about(name).ok()?;
        let is_own = VersionName::of(KeyName::of(&store, &object.key), &object) == version;
        is_own.then(|| KeptObject {
            store,
            key: object.key.as_str().to_owned(),
            etag: object.etag,
            size: object.size,
            kept_bytes: 0,
            used: SystemTime::UNIX_EPOCH,
        })
    }

    /// Reads what a file is about. Its checksum is not compared.
    fn about(&self, name: FileName) -> Result<About, Damage> {
        let read = |len: usize| self.read(name, len as u64).map_err(|_| Damage::Length);
        let head = read(HEAD_BYTES)?;
        let head = head.first_chunk::<HEAD_BYTES>().ok_or(Damage::Length)?;
        let bytes = read(HEAD_BYTES + format::description_len(head)?)?;
        Ok(format::parse(&bytes)?.about)
    }

    fn read(&self, name: FileName, len: u64) -> io::Result<Bytes> {
        let mut bytes = Vec::new();
        disk::open(&self.dir, &name.to_string())?.take(len).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    fn remove(&self, name: FileName) -> Result<bool, Trouble> {
        disk::remove(&self.dir, name).map_err(|error| Trouble::of(&error))
    }
}
