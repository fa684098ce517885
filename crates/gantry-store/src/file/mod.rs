//! Objects from the files of a directory.
//!
//! A key is a file's path below the directory, with `/` between names. Nothing outside is ever opened: `cap-std`
//! resolves every path beneath the directory, and rejects `..`, absolute paths, and symbolic links that are absolute or
//! lead out. Only regular files are objects.

mod failure;
mod identity;
mod list;
mod lookup;
mod reader;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::failure::failed;
use self::identity::Identity;
use self::lookup::find;
use self::reader::Reader;
use super::{Budget, Error, Opened, Store};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

/// Options of a [`FileStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory. Keys are relative to it.
    pub root: PathBuf,
    /// Number of bytes that are read at once. It is the size of every piece but the last. At least 1.
    ///
    /// A piece becomes one chunk if it is not larger than the transfer's chunk size.
    pub block_bytes: usize,
}

impl Options {
    /// Makes the options for a directory, with blocks of 512 KiB − 4 KiB, the relay's default size of a chunk.
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
    /// Opens the directory. It is kept open, so it stays the same one if it is renamed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it can't be opened or is not a directory, or if `block_bytes` is 0.
    pub fn new(options: &Options, budget: Budget) -> Result<Self, Error> {
        let root = options.root.display();
        if options.block_bytes == 0 {
            return Err(Error::Invalid("the block size of a file store is 0".to_owned()));
        }

        let dir = Dir::open_ambient_dir(&options.root, ambient_authority())
            .map_err(|error| Error::Invalid(format!("directory {root}: {error}")))?;
        // The path as configured, without `//`, `/.` and a final slash, so that copies on several hosts are one place.
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

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    // It fails only if the work panicked or the runtime ends.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::unavailable(format!("reading: {error}"))))
}
