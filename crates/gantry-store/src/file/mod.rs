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
mod root;
mod window;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::failure::failed;
use self::identity::Identity;
use self::list::Listing;
use self::lookup::find;
use self::reader::Reader;
use self::root::Root;
use self::window::Windows;
use super::{Budget, Error, Opened, Store};
use crate::jobs::{Abandoned, Handle, Jobs};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

/// Maximum number of threads that open, describe and read files of one directory at once. tokio has 512 for the process.
const THREADS_MAX: usize = 16;

/// Maximum number of listings of one directory at once.
const LISTINGS_MAX: usize = 4;

/// Options of a [`FileStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory. Keys are relative to it.
    pub root: PathBuf,
    /// Number of bytes that are read at once, at least 1. Every piece except the last has this size.
    ///
    /// A piece becomes one chunk if it is not larger than the transfer's chunk size.
    pub block_bytes: usize,
}

impl Options {
    /// Creates the options for a directory, with blocks of 512 KiB − 4 KiB, the relay's default size of a chunk.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), block_bytes: 512 * 1024 - gantry_proto::HEADERS_MAX_BYTES }
    }
}

/// A directory whose files are objects.
#[derive(Debug)]
pub struct FileStore {
    root: Arc<Root>,
    /// Opens, describes and reads files.
    jobs: Arc<Jobs>,
    /// Lists. Each listing may hold the names of a large directory.
    listings: Jobs,
    /// Probes. Another probe of a directory that hangs would only occupy another thread.
    probes: Jobs,
    windows: Arc<Windows>,
    block_bytes: usize,
    budget: Budget,
    fingerprint: String,
}

impl FileStore {
    /// Opens the directory. If its path leads to another directory later, that one is served.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it can't be opened or is not a directory, or if `block_bytes` is 0.
    pub fn new(options: &Options, budget: Budget) -> Result<Self, Error> {
        let root = options.root.display();
        if options.block_bytes == 0 {
            return Err(Error::Invalid("the block size of a file store is 0".to_owned()));
        }

        let opened = Root::open(options.root.clone());
        let opened = opened.map_err(|error| Error::Invalid(format!("directory {root}: {error}")))?;
        // The path as configured, without `//`, `/.` and a final slash, so that copies on several hosts are one place.
        let plain: PathBuf = options.root.components().collect();
        let fingerprint = super::fingerprint("file", &[&plain.to_string_lossy()]);

        Ok(Self {
            root: Arc::new(opened),
            jobs: Arc::new(Jobs::new(THREADS_MAX)),
            listings: Jobs::new(LISTINGS_MAX),
            probes: Jobs::new(1),
            windows: Arc::default(),
            block_bytes: options.block_bytes,
            budget,
            fingerprint,
        })
    }

    /// Opens the directory like [`Self::new`], on a thread that may block.
    ///
    /// # Errors
    /// Those of [`Self::new`], and [`Error::Unavailable`] if the directory hangs.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, a directory that hangs still occupies a thread.
    pub async fn connect(options: Options, budget: Budget) -> Result<Self, Error> {
        Jobs::new(1).run(move |_| Self::new(&options, budget)).await
    }
}

impl Store for FileStore {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        async move {
            let (object, file) = self.find(key, pin).await?;
            let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;

            let (budget, jobs) = (self.budget.clone(), Arc::clone(&self.jobs));
            let body = Reader::new(file, &object, range, self.block_bytes, budget, jobs).into_body();
            Ok(Opened { object, body })
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move { Ok(self.find(key, pin).await?.0) }.boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        let (root, windows) = (Arc::clone(&self.root), Arc::clone(&self.windows));
        let (budget, request) = (self.budget.clone(), request.clone());
        let list = move |abandoned: &Abandoned| {
            let root = root.current()?;
            let listing = Listing { root: &root, windows: &windows, budget: &budget, abandoned };
            list::page(&listing, &request)
        };
        self.listings.run(list).boxed()
    }

    /// A page begins after the last name of the page before.
    fn token_after(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.windows.forget_old();

        let root = Arc::clone(&self.root);
        let probe = move |_: &Abandoned| match root.current()?.entries() {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("the directory", &error)),
        };
        self.probes.run(probe).boxed()
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }
}

impl FileStore {
    async fn find(&self, key: &Key, pin: &Pin) -> Result<(ObjectInfo, (Handle, Identity)), Error> {
        let (root, key, pin) = (Arc::clone(&self.root), key.clone(), pin.clone());
        let jobs = Arc::clone(&self.jobs);
        let find = move |_: &Abandoned| {
            let (object, (file, identity)) = find(&*root.current()?, key, &pin)?;
            Ok((object, (Handle::new(file, jobs), identity)))
        };
        self.jobs.run(find).await
    }
}
