//! A cache folder: the files on disk and their bookkeeping, with a deadline for every operation.
//!
//! A folder that can't be used is never an error. It has no files then, and takes none.

mod write;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Limits;
use super::currents::{Change, Currents};
use super::disk::{self, Disk};
use super::format::{self, About, Damage, Head};
use super::name::{FileName, KeyName, VersionName};
use super::observe::{Observer, Report};
use super::table::Table;
use super::trouble::Trouble;
use crate::jobs::{Abandoned, Jobs};

/// Maximum number of files that are read at once.
const READS_MAX: usize = 8;

/// Maximum number of blocks that wait for the disk. If it is slower than the objects arrive, further ones are not kept.
const QUEUE_MAX: usize = 16;

/// Time limit for each operation on a file. A consumer waits as long for a disk that hangs, and only once.
const DEADLINE: Duration = Duration::from_secs(5);

/// Time limit for opening the folder, with a look at each of its files.
const OPEN_DEADLINE: Duration = Duration::from_secs(600);

/// How long to wait for the folder at the start. If it takes longer, it is used once it is open.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);

/// How long a folder that can't be used is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// How old a file's modification time may become before a use renews it.
const MARK_AGE: Duration = Duration::from_secs(600);

/// Minimum time between two warnings about damaged files.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A cache folder, which several stores may share.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    observer: Observer,
    readers: Jobs,
    /// A single thread writes and evicts, so the limits hold at all times.
    writer: Jobs,
    opener: Jobs,
    queue: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    pub(super) currents: Currents,
    disk: Option<Arc<Disk>>,
    is_opening: bool,
    /// When the folder may be used again.
    unused_until: Option<Instant>,
    /// When the folder may be written again.
    unfilled_until: Option<Instant>,
    reported: Option<Trouble>,
    warned_at: Option<Instant>,
}

impl Folder {
    /// Opens a folder, or tries to do so from time to time. Problems are logged.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the folder may stay locked until it was scanned.
    pub async fn open(path: PathBuf, limits: Limits, observer: Observer) -> Arc<Self> {
        let state = State {
            table: Table::new(limits),
            currents: Currents::default(),
            disk: None,
            is_opening: true,
            unused_until: None,
            unfilled_until: None,
            reported: None,
            warned_at: None,
        };
        let folder = Arc::new(Self {
            path,
            observer,
            readers: Jobs::new(READS_MAX).within(DEADLINE),
            writer: Jobs::new(1).within(DEADLINE),
            opener: Jobs::new(1).within(OPEN_DEADLINE),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
            state: Mutex::new(state),
        });

        let opening = tokio::spawn(Arc::clone(&folder).open_now());
        drop(timeout(OPEN_PATIENCE, opening).await);
        folder
    }

    /// Changes the limits. What exceeds them is removed with the next block that is written.
    pub fn set_limits(&self, limits: Limits) {
        self.lock().table.set_limits(limits);
    }

    /// Returns why the folder can't be used, or takes no more blocks.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.lock().reported.clone()
    }

    #[cfg(test)]
    pub(super) fn disk_of_tests(&self) -> Arc<Disk> {
        self.lock().disk.clone().unwrap()
    }

    /// Waits until everything that was to be written is written.
    #[cfg(test)]
    pub(super) async fn settled(&self) {
        drop(self.queue.acquire_many(u32::try_from(QUEUE_MAX).unwrap()).await.unwrap());
    }

    pub(super) fn record(&self, report: Report) {
        self.observer.record(report);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the folder if it can be used now. Opens it again after a while if it can't.
    fn disk(self: &Arc<Self>) -> Option<Arc<Disk>> {
        let mut state = self.lock();
        if state.unused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        if state.disk.is_none() && !state.is_opening {
            state.is_opening = true;
            drop(tokio::spawn(Arc::clone(self).open_now()));
        }
        state.disk.clone()
    }

    pub(super) fn is_usable(self: &Arc<Self>) -> bool {
        self.disk().is_some()
    }

    /// Returns the first block of a version that has bytes of the range.
    pub(super) fn first_in(self: &Arc<Self>, version: VersionName, range: &Range<u64>) -> Option<u64> {
        self.disk()?;
        self.lock().table.first_in(version, range)
    }

    async fn open_now(self: Arc<Self>) {
        let path = self.path.clone();
        let open = move |abandoned: &Abandoned| {
            let opened = Disk::open(&path).and_then(|disk| {
                let found = disk.scan(&|| abandoned.is_set()).map_err(|error| Trouble::of(&error))?;
                Ok((disk, found))
            });
            Ok(opened)
        };

        let (disk, found) = match self.opener.run(open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(trouble)) => return self.pause(trouble),
            Err(_) => return self.pause(Trouble::Hangs),
        };

        let mut state = self.lock();
        state.is_opening = false;
        for file in found {
            state.table.insert(file.name, file.len, file.modified);
        }
        state.disk = Some(Arc::new(disk));
        state.unused_until = None;
        if state.reported.take().is_some() {
            info!(folder = %self.path.display(), "the cache folder is used again");
        }
        let (bytes, files) = state.table.kept();
        drop(state);
        self.record(Report::Kept { bytes, files });
        self.record(Report::Usable(true));
    }

    /// Leaves the folder alone for a while.
    fn pause(&self, trouble: Trouble) {
        let mut state = self.lock();
        let until = Instant::now() + PAUSE;
        state.is_opening = false;
        if trouble == Trouble::Full {
            state.unfilled_until = Some(until);
        } else {
            state.unused_until = Some(until);
        }
        if trouble.needs_opening() {
            state.disk = None;
            state.table.clear();
            state.currents.forget_all();
        }

        let is_new = state.reported.as_ref() != Some(&trouble);
        let is_usable = trouble == Trouble::Full;
        state.reported = Some(trouble.clone());
        drop(state);
        if is_new {
            let folder = self.path.display();
            let effect = if is_usable { "takes no more blocks for now" } else { "is not used for now" };
            warn!("the cache folder {folder} {effect}, and what it lacks is passed through: {trouble}");
        }
        self.record(Report::Usable(is_usable));
    }

    /// Reads a file and checks every byte of it. Returns `None` if it is missing, damaged or can't be read.
    pub(super) async fn read(self: &Arc<Self>, name: FileName) -> Option<(Head, Vec<Bytes>)> {
        let disk = self.disk()?;
        let now = disk::now();
        let (len, marked) = self.lock().table.use_file(name)?;
        let age = now.duration_since(marked).unwrap_or_default();
        // The modification time of a description says when it was confirmed.
        let mark = matches!(name, FileName::Block(_)) && age >= MARK_AGE;

        let work = move |_: &Abandoned| {
            Ok(match disk.read(name, len, mark.then_some(now)) {
                Ok(parts) => Ok(parts.map(|parts| checked(name, parts))),
                Err(error) if disk::is_of_file(&error) => Ok(Some(Err(Damage::Unreadable(error.kind())))),
                Err(error) => Err(Trouble::of(&error)),
            })
        };
        let checked = match self.readers.run(work).await {
            Ok(Ok(Some(checked))) => checked,
            Ok(Ok(None)) => {
                self.note_missing(name).await;
                return None;
            }
            Ok(Err(trouble)) => {
                self.pause(trouble);
                return None;
            }
            Err(_) => {
                self.pause(Trouble::Hangs);
                return None;
            }
        };

        match checked {
            Ok(content) => {
                if mark {
                    self.lock().table.mark(name, now);
                }
                Some(content)
            }
            Err(damage) => {
                self.note_damage(name, damage);
                self.remove(name).await;
                None
            }
        }
    }

    /// Forgets a file that another process has removed, and the blocks after it that are missing, too. A reader then reads
    /// all of them from the store at once.
    async fn note_missing(self: &Arc<Self>, name: FileName) {
        self.lock().table.remove(name);
        let (FileName::Block(block), Some(disk)) = (name, self.disk()) else { return self.record_kept() };

        let folder = Arc::clone(self);
        let work = move |abandoned: &Abandoned| {
            let following = (block.number + 1..).map(|number| FileName::Block(block.version.block(number)));
            for name in following.take_while(|name| folder.lock().table.has(*name)) {
                if abandoned.is_set() || !matches!(disk.has(name), Ok(false)) {
                    break;
                }
                folder.lock().table.remove(name);
            }
            Ok(())
        };
        // Without this look, the reader notices each file by itself.
        drop(self.readers.run(work).await);
        self.record_kept();
    }

    fn note_damage(&self, name: FileName, damage: Damage) {
        self.record(Report::Damaged);

        let mut state = self.lock();
        let is_quiet = state.warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
        if !is_quiet {
            state.warned_at = Some(Instant::now());
            let folder = self.path.display();
            warn!(
                "the cache file {folder}/{name} is damaged: it is removed, and its bytes are fetched again: {damage}"
            );
        }
    }

    fn record_kept(&self) {
        let (bytes, files) = self.lock().table.kept();
        self.record(Report::Kept { bytes, files });
    }

    /// Returns the description of the version of a key that was current last, and when that was known.
    pub(super) async fn current(self: &Arc<Self>, key: KeyName) -> Option<(About, SystemTime)> {
        match self.lock().currents.change_of(key) {
            Some(Change::Write(about, confirmed)) => return Some((About::clone(about), *confirmed)),
            Some(Change::Remove) => return None,
            Some(Change::Mark(_)) | None => {}
        }

        let name = FileName::Current(key);
        let (head, _) = self.read(name).await?;
        let state = self.lock();
        let confirmed = state.currents.confirmed(key).or_else(|| state.table.marked(name))?;
        Some((head.about, confirmed))
    }
}

impl State {
    /// Returns whether something is written down, or about to be, for an object.
    fn is_noted(&self, key: KeyName) -> bool {
        self.table.has(FileName::Current(key)) || self.currents.change_of(key).is_some()
    }
}

/// Checks that a file has its own content.
pub(super) fn checked(name: FileName, parts: Vec<Bytes>) -> Result<(Head, Vec<Bytes>), Damage> {
    let head = format::check(&parts)?;
    let key = KeyName::of(&head.about.store, &head.about.object.key);

    let is_own = match name {
        FileName::Current(name) => name == key,
        FileName::Block(block) => {
            let version = VersionName::of(key, &head.about.object);
            let is_whole = head.payload_len == format::payload_len(head.about.object.size, head.number);
            version.block(head.number) == block && is_whole
        }
    };
    if !is_own {
        return Err(Damage::Misplaced);
    }

    let mut payload = parts;
    payload[0] = payload[0].slice(head.payload_at..);
    payload.retain(|part| !part.is_empty());
    Ok((head, payload))
}
