//! The body of one request: blocks from disk, and runs of missing ones from the store.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gantry_verify::Verifier;
use tracing::{debug, warn};

use super::fill::Fill;
use super::folder::Folder;
use super::format::{About, BLOCK_BYTES};
use super::name::{FileName, VersionName};
use super::observe::Report;
use super::table::{Moment, is_same_checksum};
use crate::{Body, Budget, Error, Opened, Store};
use gantry_proto::{Checksum, ObjectInfo, Span};

/// What the readers of one store share.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) store: Arc<dyn Store>,
    /// The store's name.
    pub(super) name: String,
    pub(super) folder: Arc<Folder>,
    pub(super) budget: Budget,
}

/// Reads a range of one version.
pub(super) struct Reader {
    room: Arc<Room>,
    object: Arc<ObjectInfo>,
    version: VersionName,
    /// The description that blocks get.
    about: Arc<About>,
    /// The bytes that have not been returned.
    rest: Range<u64>,
    run: Option<Run>,
    /// The rest of a block from disk.
    parts: VecDeque<Bytes>,
    check: Option<Check>,
}

/// Consecutive bytes from the store.
struct Run {
    body: Body,
    /// The exclusive end.
    end: u64,
    fill: Fill,
}

/// Compares a whole object with its stored checksum.
struct Check {
    verifier: Verifier,
    started: Moment,
}

impl Reader {
    /// Reads `range` of a version from disk, as far as it is there.
    pub(super) fn new(room: Arc<Room>, object: Arc<ObjectInfo>, version: VersionName, range: Range<u64>) -> Self {
        let about = Arc::new(About { store: room.name.clone(), object: identity(&object) });
        let check = Check::new(&room.folder, &object, version, &range);
        Self { room, object, version, about, rest: range, run: None, parts: VecDeque::new(), check }
    }

    /// Takes a body of the store for the first bytes, up to `end`, exclusive.
    pub(super) fn starting_with(mut self, body: Body, end: u64) -> Self {
        let (folder, budget) = (Arc::clone(&self.room.folder), self.room.budget.clone());
        let fill = Fill::new(folder, budget, Arc::clone(&self.about), self.version, self.rest.start);
        self.run = (self.rest.start < end).then_some(Run { body, end, fill });
        self
    }

    pub(super) fn into_opened(self) -> Opened {
        let object = ObjectInfo::clone(&self.object);
        let body = stream::try_unfold(self, async |mut reader| Ok(reader.next().await?.map(|piece| (piece, reader))));
        Opened { object, body: Box::pin(body) }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }

        let piece = match self.next_kept().await {
            Some(piece) => piece,
            None => self.next_of_run().await?,
        };
        self.rest.start += piece.len() as u64;
        self.check(&piece).await;
        Ok(Some(piece))
    }

    /// Returns the next bytes from disk, unless the store is being read or the next block is missing.
    async fn next_kept(&mut self) -> Option<Bytes> {
        if self.run.is_some() {
            return None;
        }
        if self.parts.is_empty() {
            self.parts = self.block().await?;
        }

        let mut part = self.parts.pop_front()?;
        part.truncate(usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX));
        self.room.folder.record(Report::Served(part.len() as u64));
        Some(part)
    }

    /// Returns the bytes of the next block from its next byte on.
    async fn block(&mut self) -> Option<VecDeque<Bytes>> {
        let number = self.rest.start / BLOCK_BYTES;
        let (head, parts) = self.room.folder.read(FileName::Block(self.version.block(number))).await?;
        if !belongs_to(&head.about.object, &self.object) {
            self.discard(&head.about.object).await;
            return None;
        }

        let mut skipped = usize::try_from(self.rest.start - number * BLOCK_BYTES).unwrap_or(usize::MAX);
        let mut rest = VecDeque::new();
        for mut part in parts {
            let len = part.len();
            if skipped < len {
                rest.push_back(part.split_off(skipped));
            }
            skipped = skipped.saturating_sub(len);
        }
        Some(rest)
    }

    /// Removes all blocks of the version, since `kept` describes one of other, or unknown, bytes. Without the other blocks,
    /// the rest is one request.
    async fn discard(&mut self, kept: &ObjectInfo) {
        let (store, key) = (&self.room.name, self.object.key.as_str());
        if kept.contradicts(&self.object) {
            warn!(store, key, "the cached blocks of an object are discarded: its stored checksum changed");
        } else {
            debug!(store, key, "the cached blocks of an object are discarded: they lack its stored checksum");
        }
        self.room.folder.forget(self.version).await;
    }

    /// Returns the next bytes from the store.
    async fn next_of_run(&mut self) -> Result<Bytes, Error> {
        if self.run.is_none() {
            let end = self.run_end();
            let body = self.open(end).await?;
            let (folder, budget) = (Arc::clone(&self.room.folder), self.room.budget.clone());
            let fill = Fill::new(folder, budget, Arc::clone(&self.about), self.version, self.rest.start);
            self.run = Some(Run { body, end, fill });
        }
        let run = self.run.as_mut().expect("a run was started unless there was one");

        let left = run.end - self.rest.start;
        let piece = match run.body.next().await {
            Some(Ok(piece)) if piece.len() as u64 <= left => piece,
            Some(Ok(_)) => return Err(Error::Protocol("the store sends more bytes than requested".to_owned())),
            Some(Err(error)) => return Err(error),
            None => return Err(Error::Protocol(format!("the store's bytes end {left} too early"))),
        };

        run.fill.push(piece.clone());
        if piece.len() as u64 == left {
            self.run = None;
        }
        Ok(piece)
    }

    /// Returns where the missing bytes end, exclusive.
    fn run_end(&self) -> u64 {
        let next_block = (self.rest.start / BLOCK_BYTES + 1) * BLOCK_BYTES;
        if next_block >= self.rest.end {
            return self.rest.end;
        }
        let kept = self.room.folder.first_in(self.version, &(next_block..self.rest.end));
        kept.map_or(self.rest.end, |number| number * BLOCK_BYTES)
    }

    async fn open(&mut self, end: u64) -> Result<Body, Error> {
        let span = Span { start: self.rest.start, end: Some(end) };
        let opened = self.room.store.open(&self.object.key, &self.object.pin(), span).await?;

        if is_same(&opened.object, &self.object) {
            Ok(opened.body)
        } else {
            Err(Error::Changed(format!("key {:?}: was replaced", self.object.key.as_str())))
        }
    }

    /// Adds bytes to the check of the whole object, and ends it with the last ones.
    async fn check(&mut self, piece: &Bytes) {
        let Some(check) = &mut self.check else { return };
        check.verifier.update(piece);
        if !self.rest.is_empty() {
            return;
        }

        let Some(Check { verifier, started }) = self.check.take() else { return };
        let folder = &self.room.folder;
        match verifier.finish() {
            Ok(_) => folder.lock().table.prove(self.version, &self.object, started),
            Err(mismatch) => {
                let key = self.object.key.as_str();
                warn!(store = self.room.name, key, "the cached blocks of an object are discarded: {mismatch}");
                folder.forget(self.version).await;
            }
        }
    }
}

impl Check {
    /// Returns a check if the whole object is read and not proved yet.
    fn new(folder: &Folder, object: &ObjectInfo, version: VersionName, range: &Range<u64>) -> Option<Self> {
        let checksum = object.stated_checksum()?;
        let state = folder.lock();
        let is_due = *range == (0..object.size) && !state.table.is_proved(version, checksum);
        is_due.then(|| Self { verifier: Verifier::new(Some(checksum), object.size), started: state.table.now() })
    }
}

/// Compares the blocks of a version with the stored checksum, unless that was done.
///
/// # Errors
/// If a block is missing, damaged or not of this object, or if the bytes do not match. In the last case, all blocks are
/// removed.
pub(super) async fn prove(room: &Arc<Room>, object: &ObjectInfo, version: VersionName) -> Result<(), ()> {
    let folder = &room.folder;
    let Some(mut check) = Check::new(folder, object, version, &(0..object.size)) else { return Ok(()) };

    for number in 0..object.size.div_ceil(BLOCK_BYTES) {
        let (head, parts) = folder.read(FileName::Block(version.block(number))).await.ok_or(())?;
        if !belongs_to(&head.about.object, object) {
            return Err(());
        }
        parts.iter().for_each(|part| check.verifier.update(part));
    }

    if let Err(mismatch) = check.verifier.finish() {
        warn!(store = room.name, key = object.key.as_str(), "the cached blocks of an object are discarded: {mismatch}");
        folder.forget(version).await;
        return Err(());
    }
    folder.lock().table.prove(version, object, check.started);
    Ok(())
}

/// Returns whether two descriptions are of the same bytes. Dates and metadata may differ among relays.
pub(super) fn is_same(one: &ObjectInfo, other: &ObjectInfo) -> bool {
    (&one.etag, &one.version_id, one.size) == (&other.etag, &other.version_id, other.size) && !one.contradicts(other)
}

/// Returns whether a block of `kept` has bytes of `object`, another description of its version. A store may replace an
/// object under its `ETag`, so the stored checksum must be the same. If `object` has none, nothing can be compared.
fn belongs_to(kept: &ObjectInfo, object: &ObjectInfo) -> bool {
    let is_of_kept = |stated| kept.stated_checksum().is_some_and(|kept| is_same_checksum(kept, stated));
    object.stated_checksum().is_none_or(is_of_kept)
}

/// Returns what identifies a version and its bytes, without what would make each block's head large.
fn identity(object: &ObjectInfo) -> ObjectInfo {
    let mut identity = ObjectInfo::new(object.key.clone(), object.size, object.etag.clone());
    identity.version_id.clone_from(&object.version_id);
    identity.last_modified.clone_from(&object.last_modified);
    let without_parts = |checksum: &Checksum| Checksum { parts: Vec::new(), ..checksum.clone() };
    identity.checksum = object.checksum.as_ref().map(without_parts);
    identity.other_checksum = object.other_checksum.as_ref().map(without_parts);
    identity
}
