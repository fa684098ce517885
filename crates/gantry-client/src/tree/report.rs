//! Events and counts of a tree.

use std::sync::{Arc, Mutex, PoisonError};

use gantry_proto::{Key, StoreName};
use serde::Serialize;
use tokio::sync::watch;

use super::folder::Blocked;
use super::name::Unusable;
use crate::error::Error;
use crate::verify::Proof;

/// Something that happened to an object or file. Paths are relative to the target folder, with slashes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// An object is in its place, verified. It is durable once the whole download has returned.
    Fetched {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// The file.
        path: String,
        /// The file's size.
        bytes: u64,
        /// How the bytes were verified. `None` if an earlier download has fetched and verified them.
        proof: Option<Proof>,
        /// Whether there was a file before.
        replaced: bool,
    },
    /// An object would be fetched.
    WouldFetch {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// The file.
        path: String,
        /// The object's size, if it is known.
        bytes: Option<u64>,
        /// Whether there is a file now.
        replaces: bool,
    },
    /// The file is a copy of the object.
    Unchanged {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// The file.
        path: String,
    },
    /// The path of an object that is fetched is spelled differently from its key.
    Renamed {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// The file.
        path: String,
    },
    /// An object changed between its listing, or an interrupted download, and this one. The newer version is fetched.
    Changed {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// What changed.
        reason: String,
    },
    /// An object can't be part of the tree.
    LeftOut {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// Why.
        why: LeftOut,
    },
    /// The download of an object failed.
    Failed {
        /// The store.
        store: StoreName,
        /// The object's key.
        key: Key,
        /// Why.
        error: Error,
    },
    /// A file without an object was deleted.
    Deleted {
        /// The file.
        path: String,
    },
    /// A file without an object would be deleted.
    WouldDelete {
        /// The file.
        path: String,
    },
}

/// Why an object can't be part of the tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeftOut {
    /// Its key can't be a path.
    #[error("its key can't be a path: {0}")]
    Unusable(#[from] Unusable),
    /// Something in the target folder is in the way.
    #[error("its place is taken: {0}")]
    Blocked(#[from] Blocked),
    /// Another key is a file where this one needs a folder.
    #[error("the key {0:?} is a file, and would have to be a folder")]
    File(String),
    /// Another object of the same download has the same path.
    #[error("another object has the same path")]
    Twice,
    /// Another key differs only in case, and the file system ignores case.
    #[error("another key differs only in upper and lower case, which the file system ignores")]
    Case,
}

/// The progress of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeProgress {
    /// The number of objects found so far.
    pub found: u64,
    /// The number of objects to fetch.
    pub wanted: u64,
    /// The bytes of these objects.
    pub wanted_bytes: u64,
    /// The number of objects that were fetched, or failed.
    pub done: u64,
    /// The bytes that are received or were kept by an earlier download.
    pub done_bytes: u64,
    /// Whether all objects were found, so that the numbers above are final.
    pub is_listed: bool,
    /// The number of transfers that were abandoned and replaced by another one.
    pub recoveries: u64,
}

/// The result of the download of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TreeReport {
    /// The number of objects that were found.
    pub objects: u64,
    /// The number of objects that were fetched, or would be.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Of the fetched ones, the number that match a checksum of their store.
    pub proved: u64,
    /// Of the fetched ones, the number that an earlier download had fetched and verified.
    pub kept: u64,
    /// The number of objects whose files were up to date.
    pub unchanged: u64,
    /// The number of objects that changed while they were downloaded.
    pub changed: u64,
    /// The number of fetched objects whose paths are spelled differently from their keys.
    pub renamed: u64,
    /// The number of objects that can't be in the tree.
    pub left_out: u64,
    /// The number of objects that could not be downloaded.
    pub failed: u64,
    /// The number of files that were deleted, or would be.
    pub deleted: u64,
}

impl TreeReport {
    /// Returns whether every object is in its place.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.left_out == 0 && self.failed == 0
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Fetched { bytes, proof, .. } => {
                self.fetched += 1;
                self.fetched_bytes += bytes;
                self.kept += u64::from(proof.is_none());
                let is_proved = matches!(proof, Some(Proof::FullObject { .. } | Proof::Composite { .. }));
                self.proved += u64::from(is_proved);
            }
            Event::WouldFetch { bytes, .. } => {
                self.fetched += 1;
                self.fetched_bytes += bytes.unwrap_or(0);
            }
            Event::Unchanged { .. } => self.unchanged += 1,
            Event::Renamed { .. } => self.renamed += 1,
            Event::Changed { .. } => self.changed += 1,
            Event::LeftOut { .. } => self.left_out += 1,
            Event::Failed { .. } => self.failed += 1,
            Event::Deleted { .. } | Event::WouldDelete { .. } => self.deleted += 1,
        }
    }
}

/// Counts events and passes them on.
#[derive(Clone)]
pub(super) struct Reporter {
    report: Arc<Mutex<TreeReport>>,
    progress: watch::Sender<TreeProgress>,
    events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Reporter {
    pub(super) fn new(
        progress: Option<watch::Sender<TreeProgress>>,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Self {
        let progress = progress.unwrap_or_else(|| watch::Sender::new(TreeProgress::default()));
        Self { report: Arc::default(), progress, events: Arc::new(events) }
    }

    pub(super) fn report(&self, event: Event) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).count(&event);
        if matches!(event, Event::Fetched { .. } | Event::Failed { .. } | Event::WouldFetch { .. }) {
            self.progress(|progress| progress.done += 1);
        }
        (self.events)(event);
    }

    pub(super) fn found(&self, objects: u64) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).objects += objects;
        self.progress(|progress| progress.found += objects);
    }

    pub(super) fn progress(&self, modify: impl FnOnce(&mut TreeProgress)) {
        self.progress.send_modify(modify);
    }

    /// Returns the counts so far.
    pub(super) fn so_far(&self) -> TreeReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
