//! Objects from the files of a directory.
//!
//! A key is a file's path below the directory, with `/` between names. Nothing outside is ever opened: `cap-std`
//! resolves every path beneath the directory, so that `..`, absolute paths and symbolic links that lead out (or are
//! absolute) are refused. What is not a regular file is not an object.

mod list;
mod reader;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt, OpenOptions, OpenOptionsExt};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Budget, Error, Opened, Store};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};
use reader::Reader;

/// What a [`FileStore`] reads, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that keys are relative to.
    pub root: PathBuf,
    /// How much is read at once, and so the size of every piece but the last, in bytes.
    ///
    /// A piece is sent on as one chunk when it is no larger than the transfer's chunk size.
    pub block_bytes: usize,
}

impl Options {
    /// Reads below `root` in blocks of 512 KiB − 4 KiB, each of which is a chunk of the relay's default size.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), block_bytes: 512 * 1024 - gantry_proto::HEADERS_MAX_BYTES }
    }
}

/// A directory whose files are objects.
#[derive(Debug)]
pub struct FileStore {
    dir: Arc<Dir>,
    block_bytes: usize,
    budget: Budget,
    fingerprint: String,
}

impl FileStore {
    /// Opens the directory; it is held open, and stays the same one if it is renamed.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no directory or can't be opened, or when `block_bytes` is 0.
    pub fn new(options: &Options, budget: Budget) -> Result<Self, Error> {
        let root = options.root.display();
        if options.block_bytes == 0 {
            return Err(Error::Invalid("the block size of a file store is 0".to_owned()));
        }
        let dir = Dir::open_ambient_dir(&options.root, ambient_authority())
            .map_err(|error| Error::Invalid(format!("directory {root}: {error}")))?;
        // As it was given, so that copies on several hosts are one place, but for `//`, `/.` and a final slash.
        let plain: PathBuf = options.root.components().collect();
        let fingerprint = super::fingerprint("file", &[&plain.to_string_lossy()]);
        Ok(Self { dir: Arc::new(dir), block_bytes: options.block_bytes, budget, fingerprint })
    }
}

impl Store for FileStore {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        async move {
            let (object, file) = self.find(key, pin).await?;
            let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;
            let body = Reader::new(file, &object, range, self.block_bytes, self.budget.clone()).into_body();
            Ok(Opened { object, body })
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move { Ok(self.find(key, pin).await?.0) }.boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        let (dir, request) = (Arc::clone(&self.dir), request.clone());
        blocking(move || list::page(&dir, &request)).boxed()
    }

    /// A page begins after the last name of the page before.
    fn token_after(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        let dir = Arc::clone(&self.dir);
        blocking(move || match dir.entries() {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("the directory", &error)),
        })
        .boxed()
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }
}

impl FileStore {
    async fn find(&self, key: &Key, pin: &Pin) -> Result<(ObjectInfo, (File, Identity)), Error> {
        let (dir, key, pin) = (Arc::clone(&self.dir), key.clone(), pin.clone());
        blocking(move || find(&dir, key, &pin)).await
    }
}

/// Runs `work` off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    // The one other outcome is that the work panicked or the runtime ends.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::unavailable(format!("reading: {error}"))))
}

fn find(dir: &Dir, key: Key, pin: &Pin) -> Result<(ObjectInfo, (File, Identity)), Error> {
    if !is_plain(key.as_str()) {
        return Err(Error::Invalid(format!(
            "key {key:?} is not a plain path: in a directory, no part of it is empty, `.` or `..`",
            key = key.as_str()
        )));
    }
    if let Some(version) = &pin.version_id {
        return Err(Error::NotFound(format!("key {:?}: no version {version:?}, a directory keeps none", key.as_str())));
    }
    let mut options = OpenOptions::new();
    // Opening a FIFO must not wait for someone to write to it. Regular files don't heed the flag.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let failed = |error: io::Error| failed(&format!("key {:?}", key.as_str()), &error);
    let file = dir.open_with(key.as_str(), &options).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::NotFound(format!("key {:?}: not a regular file", key.as_str())));
    }
    let identity = Identity::of(&metadata);
    let etag = identity.etag();
    if let Some(expected) = &pin.if_match
        && *expected != etag
    {
        return Err(Error::Changed(format!("key {:?} has ETag {etag}, not {expected}", key.as_str())));
    }
    let object = ObjectInfo {
        key,
        size: identity.size,
        etag,
        version_id: None,
        last_modified: identity.last_modified(),
        content_type: None,
        metadata: std::collections::BTreeMap::new(),
        checksum: None,
    };
    Ok((object, (file.into_std(), identity)))
}

/// Returns whether a key names the same file by whatever rules it is read: no empty part, no `.` and no `..`.
fn is_plain(key: &str) -> bool {
    key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn failed(what: &str, error: &io::Error) -> Error {
    // A name that is too long for the file system can't exist in it. A loop of links and a socket do, but are no files.
    if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) || is_absent(error) {
        return Error::NotFound(format!("{what}: no such file"));
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::Denied(format!("{what}: {error}"));
    }
    Error::unavailable(format!("{what}: {error}"))
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidFilename)
}

/// What tells one version of a file from another, as far as a file system tells.
///
/// The time of the last write can be set back, as `rsync --inplace --times` does; that of the last change can't. So
/// both are held against the open file for as long as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    size: u64,
}

impl Identity {
    fn of(metadata: &cap_std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        }
    }

    /// Returns whether the open file still holds the bytes of this version.
    fn holds(&self, now: &std::fs::Metadata) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        // To lose its last name, when another file takes it, is a change of the file but not of its bytes.
        let unchanged = nanoseconds(now.ctime(), now.ctime_nsec()) == self.ctime_ns || now.nlink() == 0;
        unchanged
            && (now.ino(), now.len()) == (self.inode, self.size)
            && nanoseconds(now.mtime(), now.mtime_nsec()) == self.mtime_ns
    }

    /// Returns the `ETag`: size and time of the last write, which a copy keeps that `cp -a` or `rsync -t` makes. With
    /// inode and time of the last change, no relay could go on where another one of a copy left off.
    fn etag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.mtime_ns, self.size)
    }

    fn last_modified(&self) -> Option<String> {
        OffsetDateTime::from_unix_timestamp_nanos(self.mtime_ns).ok()?.format(&Rfc3339).ok()
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}
