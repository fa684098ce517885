//! The disk cache: a store whose objects are kept on disk, for a relay behind a thin link.
//!
//! [`CacheStore`] is a [`Store`] around a [`Store`]. What is read is kept in blocks on a fixed grid, one file each, until
//! others need the room.
//!
//! - **Nothing is older than the request.** A request of which something is kept first asks the store for the current
//!   version, and so does a request for a range. Requests that arrive together share this question. Other requests are
//!   passed to the store.
//! - **Versions do not mix**, even if a store replaces an object under its `ETag`. Each block has the stored checksum of a
//!   description that was requested before its bytes, or together with them. It is served only for descriptions with the
//!   same checksum, or without any.
//! - **Every block is checked before its bytes are served**, over all of its file. A damaged one is removed, and its bytes
//!   are read from the store. There is no index on disk: a scan at the start finds the files.
//! - **Bytes are never delayed.** They go to the consumer as they arrive, and to the disk once a block is whole. If the disk
//!   is slower, blocks are skipped.
//! - **The cache is never the reason for a failure.** A folder that can't be used, is full or hangs is reported once, and
//!   is left alone for a while ([`Trouble`]).
//! - **The limits hold at all times.** A block is written after others have made room for it.
//! - **A wrong object does not stay.** A whole object that does not match its stored checksum is removed.
//!
//! With [`Options::serve_stale`], an object whose store is unreachable is served from disk if all of it is there, matches
//! its stored checksum, and is the version that was current last. Its description states how old this knowledge is.

mod currents;
mod disk;
mod fill;
mod folder;
mod format;
mod inspect;
mod name;
mod observe;
mod reader;
mod table;
mod trouble;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::currents::has_parts;
use self::format::About;
use self::name::{KeyName, VersionName};
use self::reader::{Reader, Room, is_same, prove};
use crate::descriptions::Descriptions;
use crate::{Budget, Error, Opened, Store, UnavailableKind};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

pub use self::folder::Folder;
pub use self::inspect::{DamagedFile, Inspection, KeptObject};
pub use self::observe::{Observe, Observer, Report, Unobserved};
pub use self::trouble::Trouble;

/// How long to wait for the store's description of an object that can be served without it.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Limits of a cache folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum length of all files together, in bytes.
    pub bytes_max: u64,
    /// Maximum number of files. An object needs one for each MiB, and one more with [`Options::serve_stale`].
    pub files_max: u64,
}

/// Options of a [`CacheStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether to serve complete objects while the store is unreachable.
    pub serve_stale: bool,
}

/// A store whose objects are kept in a folder.
#[derive(Debug)]
pub struct CacheStore {
    room: Arc<Room>,
    options: Options,
    descriptions: Descriptions,
    /// Held while blocks are compared with a stored checksum, so that it is done once.
    proving: Mutex<()>,
}

impl CacheStore {
    /// Keeps objects of `store`, which has this name, in `folder`. The memory for blocks that are being collected is a part
    /// of `budget`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, name: &str, folder: Arc<Folder>, budget: Budget, options: Options) -> Self {
        let room = Arc::new(Room { store, name: name.to_owned(), folder, budget });
        Self { room, options, descriptions: Descriptions::default(), proving: Mutex::default() }
    }

    async fn open_cached(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opened, Error> {
        let Room { store, name, folder, .. } = &*self.room;
        if span.end.is_some_and(|end| end <= span.start) || !folder.is_usable() {
            return store.open(key, pin, span).await;
        }
        let key_name = KeyName::of(name, key);
        // The answer to a request for a range lacks the stored checksum, which its blocks need.
        let is_range = span.end.is_some();
        if !is_range && !folder.lock().table.has_key(key_name) {
            return self.open_upstream(key, pin, span, None).await;
        }

        match self.describe(key_name, key, pin, Detail::Whole).await {
            Ok(object) => match self.open_kept(key_name, Arc::clone(&object), span).await {
                Some(opened) => opened,
                None => self.open_upstream(key, pin, span, Some(&object)).await,
            },
            Err(error) if is_away(&error) => self.open_stale(key_name, pin, span).await.unwrap_or(Err(error)),
            Err(error) if error.is_retryable() => Err(error),
            // A store may describe objects by other rules than it reads them, so it decides.
            Err(_) => self.open_upstream(key, pin, span, None).await,
        }
    }

    /// Opens an object in the store, and keeps what passes by. `described` is what the store said about it before.
    async fn open_upstream(
        &self,
        key: &Key,
        pin: &Pin,
        span: Span,
        described: Option<&ObjectInfo>,
    ) -> Result<Opened, Error> {
        let Room { store, name, folder, .. } = &*self.room;
        let key_name = KeyName::of(name, key);
        let opened = store.open(key, pin, span).await;
        let detail = if span.end.is_none() { Detail::Whole } else { Detail::Range };
        self.note(key_name, pin, &opened.as_ref().map(|opened| &opened.object), detail);

        let Opened { mut object, body } = opened?;
        folder.record(Report::Miss);
        if let Some(described) = described.filter(|described| is_same(described, &object))
            && (span.end.is_some() || object.stated_checksum().is_none())
        {
            copy_checksum(described, &mut object);
        }
        let Some(range) = span.resolve(object.size) else { return Ok(Opened { object, body }) };
        let end = range.end;
        let opened = self.reader(key_name, object, range).starting_with(body, end);
        Ok(opened.into_opened())
    }

    /// Opens the version that the store describes, unless all of its bytes are missing.
    async fn open_kept(&self, key: KeyName, object: Arc<ObjectInfo>, span: Span) -> Option<Result<Opened, Error>> {
        let folder = &self.room.folder;
        let Some(range) = span.resolve(object.size) else {
            return Some(Err(Error::Range { start: span.start, size: object.size }));
        };
        let version = VersionName::of(key, &object);
        let first = folder.first_in(version, &range)?;

        let object = match self.completed(version, object, span).await {
            Ok(object) => object,
            Err(error) => return Some(Err(error)),
        };
        let reader = self.reader(key, ObjectInfo::clone(&object), range.clone());
        folder.record(Report::Hit);
        let first_offset = (first * format::BLOCK_BYTES).max(range.start);
        if first_offset == range.start {
            return Some(Ok(reader.into_opened()));
        }

        // An object that was replaced meanwhile, or can't be read, is reported before its first byte.
        let missing = Span { start: range.start, end: Some(first_offset) };
        match self.room.store.open(&object.key, &object.pin(), missing).await {
            Ok(opened) if is_same(&opened.object, &object) => {
                Some(Ok(reader.starting_with(opened.body, first_offset).into_opened()))
            }
            Ok(_) | Err(Error::Changed(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Adds what a description lacks because it was not requested together with the bytes up to the object's end.
    async fn completed(
        &self,
        version: VersionName,
        object: Arc<ObjectInfo>,
        span: Span,
    ) -> Result<Arc<ObjectInfo>, Error> {
        if span.end.is_some() || has_parts(&object) {
            return Ok(object);
        }

        let known = self.room.folder.lock().table.object(version);
        let full = match known.filter(|known| is_same(known, &object)) {
            Some(known) => known,
            None => {
                let nothing = Span { start: object.size, end: None };
                Arc::new(self.room.store.open(&object.key, &object.pin(), nothing).await?.object)
            }
        };
        if !is_same(&full, &object) {
            return Err(Error::Changed(format!("key {:?}: was replaced", object.key.as_str())));
        }
        self.room.folder.lock().table.set_object(version, &full);

        let mut object = Arc::unwrap_or_clone(object);
        copy_checksum(&full, &mut object);
        Ok(Arc::new(object))
    }

    /// Opens an object without the store. Returns `None` if the current version is unknown, incomplete or wrong.
    async fn open_stale(&self, key: KeyName, pin: &Pin, span: Span) -> Option<Result<Opened, Error>> {
        let object = self.stale(key, pin).await?;
        let range = span.resolve(object.size);
        let range = match range.ok_or(Error::Range { start: span.start, size: object.size }) {
            Ok(range) => range,
            Err(error) => return Some(Err(error)),
        };

        self.room.folder.record(Report::Stale);
        Some(Ok(self.reader(key, object, range).into_opened()))
    }

    /// Describes an object that is complete and matches its stored checksum, as of when it was known to be current.
    async fn stale(&self, key: KeyName, pin: &Pin) -> Option<ObjectInfo> {
        let folder = &self.room.folder;
        if !self.options.serve_stale {
            return None;
        }
        let (About { mut object, .. }, confirmed) = folder.current(key).await?;
        let is_wanted = pin.if_match.as_ref().is_none_or(|etag| *etag == object.etag)
            && pin.version_id.as_ref().is_none_or(|id| object.version_id.as_ref() == Some(id));
        let version = VersionName::of(key, &object);
        if !is_wanted || !folder.lock().table.is_complete(version, object.size) {
            return None;
        }

        let proving = self.proving.lock().await;
        prove(&self.room, &object, version).await.ok()?;
        drop(proving);

        let age = disk::now().duration_since(confirmed).unwrap_or_default();
        object.stale_s = Some(age.as_secs());
        Some(object)
    }

    /// Describes an object as it is now, or a moment later.
    async fn describe(
        &self,
        key_name: KeyName,
        key: &Key,
        pin: &Pin,
        detail: Detail,
    ) -> Result<Arc<ObjectInfo>, Error> {
        let describing = self.descriptions.describe(&self.room.store, key, pin);
        let may_be_stale = self.options.serve_stale && self.room.folder.lock().table.has_key(key_name);
        let described = if may_be_stale {
            let described = timeout(STALE_AFTER, describing).await;
            described.unwrap_or_else(|_| Err(Error::unavailable("the store does not answer")))
        } else {
            describing.await
        };

        self.note(key_name, pin, &described.as_ref().map(|object| &**object), detail);
        described
    }

    /// Stores on disk which version is current, or that there is none.
    fn note(&self, key: KeyName, pin: &Pin, found: &Result<&ObjectInfo, &Error>, detail: Detail) {
        // A request for a certain version id does not show which one is current.
        if !self.options.serve_stale || pin.version_id.is_some() {
            return;
        }

        let folder = &self.room.folder;
        match found {
            // The store itself does not know whether it is current.
            Ok(object) if object.stale_s.is_some() => {}
            Ok(object) if detail == Detail::Range => folder.note_gone(key, Some(VersionName::of(key, object))),
            Ok(object) => {
                let about = About { store: self.room.name.clone(), object: (*object).clone() };
                let is_new = detail == Detail::Whole;
                folder.note_current(key, VersionName::of(key, object), &Arc::new(about), is_new);
            }
            Err(Error::NotFound(_) | Error::Changed(_)) => folder.note_gone(key, None),
            Err(_) => {}
        }
    }

    fn reader(&self, key: KeyName, object: ObjectInfo, range: Range<u64>) -> Reader {
        let version = VersionName::of(key, &object);
        Reader::new(Arc::clone(&self.room), Arc::new(object), version, range)
    }
}

/// What a description is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    /// It may lack the stored checksum.
    Range,
    /// It has the stored checksum, and nothing was requested.
    Stat,
    /// It has the stored checksum, and bytes of the object are kept.
    Whole,
}

/// Copies the stored checksum of a description to another one of the same bytes.
fn copy_checksum(from: &ObjectInfo, to: &mut ObjectInfo) {
    to.checksum.clone_from(&from.checksum);
    to.other_checksum.clone_from(&from.other_checksum);
}

/// Returns whether a store, or the service that issues tokens for it, is unreachable, in contrast to one that refuses. A
/// store that an upstream relay can't read before its operator has corrected something refuses.
fn is_away(error: &Error) -> bool {
    use UnavailableKind::{Other, Proxy, TokenService};
    matches!(error, Error::Unavailable { kind: Other | Proxy | TokenService, .. })
}

impl Store for CacheStore {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        self.open_cached(key, pin, span).boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move {
            let key_name = KeyName::of(&self.room.name, key);
            match self.describe(key_name, key, pin, Detail::Stat).await {
                Ok(object) => Ok(Arc::unwrap_or_clone(object)),
                Err(error) if is_away(&error) => self.stale(key_name, pin).await.ok_or(error),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        self.room.store.list(request)
    }

    fn token_after(&self, name: &str) -> Option<String> {
        self.room.store.token_after(name)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.room.store.probe()
    }

    fn probe_listing(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.room.store.probe_listing()
    }

    fn keeps(&self, object: &ObjectInfo) -> bool {
        self.room.folder.takes(object.size)
    }

    fn fingerprint(&self) -> Option<String> {
        self.room.store.fingerprint()
    }
}

#[cfg(test)]
mod tests;
