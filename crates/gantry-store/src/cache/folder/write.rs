//! What a cache folder writes and removes. A single thread does it, so that the limits hold at all times.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::info;

use super::super::currents::Change;
use super::super::disk::{self, Disk};
use super::super::format::{self, About};
use super::super::name::{BlockName, FileName, KeyName, VersionName};
use super::super::observe::Report;
use super::super::table::NoRoom;
use super::super::trouble::Trouble;
use super::Folder;
use crate::budget::Reservation;
use crate::jobs::Abandoned;

impl Folder {
    /// Removes a file.
    pub(super) async fn remove(self: &Arc<Self>, name: FileName) {
        let Some(disk) = self.disk() else { return };
        let folder = Arc::clone(self);
        self.settle(self.writer.run(move |_| Ok(folder.remove_now(&disk, name))).await);
        self.record_kept();
    }

    /// Removes all blocks of a version.
    pub(in crate::cache) async fn forget(self: &Arc<Self>, version: VersionName) {
        let Some(disk) = self.disk() else { return };
        let folder = Arc::clone(self);
        let work = move |_: &Abandoned| {
            let blocks = folder.lock().table.blocks_of(version);
            Ok(blocks.into_iter().try_for_each(|name| folder.remove_now(&disk, name)))
        };
        self.settle(self.writer.run(work).await);
        self.record_kept();
    }

    /// Returns whether blocks of an object of `size` bytes are written at present, and all of them have room.
    pub(in crate::cache) fn takes(self: &Arc<Self>, size: u64) -> bool {
        if self.disk().is_none() {
            return false;
        }
        let state = self.lock();
        state.unfilled_until.is_none_or(|until| until <= Instant::now()) && state.table.may_hold(size)
    }

    /// Returns whether a block is worth collecting.
    pub(in crate::cache) fn wants(self: &Arc<Self>, block: BlockName) -> bool {
        if self.disk().is_none() {
            return false;
        }
        let state = self.lock();
        if state.table.has(FileName::Block(block)) {
            return false;
        }

        let is_full = state.unfilled_until.is_some_and(|until| Instant::now() < until);
        drop(state);
        if is_full {
            self.record(Report::Skipped);
        }
        !is_full
    }

    /// Writes a block, unless the disk is busy with others.
    pub(in crate::cache) fn write(
        self: &Arc<Self>,
        block: BlockName,
        about: Arc<About>,
        payload: Vec<Bytes>,
        memory: Reservation,
    ) {
        let Some(place) = self.place() else { return self.record(Report::Skipped) };
        let Some(disk) = self.disk() else { return };
        if !self.lock().table.begin(block) {
            return;
        }

        let folder = Arc::clone(self);
        drop(tokio::spawn(async move {
            let writing = Arc::clone(&folder);
            let work = move |_: &Abandoned| {
                let written = writing.write_now(&disk, FileName::Block(block), &about, block.number, &payload);
                drop(memory);
                Ok(written)
            };
            let written = folder.writer.run(work).await;
            folder.lock().table.give_up(block);
            folder.settle(written);
            drop(place);
        }));
    }

    /// Stores on disk which versions are current, if that has changed.
    pub(in crate::cache) fn write_currents(self: &Arc<Self>) {
        let Some(place) = self.place() else { return };
        let Some(disk) = self.disk() else { return };

        let folder = Arc::clone(self);
        drop(tokio::spawn(async move {
            let writing = Arc::clone(&folder);
            let written = folder.writer.run(move |_| Ok(writing.write_currents_now(&disk))).await;
            folder.settle(written);
            drop(place);
        }));
    }

    /// Records which version is current. Without `is_new`, nothing is written down for an object of which nothing was.
    pub(in crate::cache) fn note_current(
        self: &Arc<Self>,
        key: KeyName,
        version: VersionName,
        about: &Arc<About>,
        is_new: bool,
    ) {
        let mut state = self.lock();
        if !is_new && !state.is_noted(key) {
            return;
        }

        let is_changed = state.currents.confirm(key, version, about, disk::now());
        state.table.use_file(FileName::Current(key));
        drop(state);
        if is_changed {
            self.write_currents();
        }
    }

    /// Records that the version that is written down is not current, unless it is `except`.
    pub(in crate::cache) fn note_gone(self: &Arc<Self>, key: KeyName, except: Option<VersionName>) {
        let mut state = self.lock();
        let is_same = except.is_some() && state.currents.version(key) == except;
        if is_same || !state.is_noted(key) {
            return;
        }

        state.currents.remove(key);
        drop(state);
        self.write_currents();
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.queue).try_acquire_owned().ok()
    }

    /// Pauses after an operation that failed, or did not end.
    fn settle(&self, ended: Result<Result<(), Trouble>, crate::Error>) {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(trouble)) => self.pause(trouble),
            Err(_) => self.pause(Trouble::Hangs),
        }
    }

    fn write_currents_now(&self, disk: &Disk) -> Result<(), Trouble> {
        loop {
            let Some((key, change)) = self.lock().currents.next_change() else { return Ok(()) };
            let name = FileName::Current(key);
            let marked = match change {
                Change::Write(about, confirmed) => {
                    self.write_now(disk, name, &about, u64::MAX, &[])?;
                    Some(confirmed)
                }
                Change::Mark(confirmed) => Some(confirmed),
                Change::Remove => {
                    self.remove_now(disk, name)?;
                    None
                }
            };
            if let Some(confirmed) = marked {
                disk.mark(name, confirmed).map_err(|error| Trouble::of(&error))?;
                self.lock().table.mark(name, confirmed);
            }
            self.lock().currents.end_change(key);
        }
    }

    /// Writes a file after others have made room for it.
    fn write_now(
        &self,
        disk: &Disk,
        name: FileName,
        about: &About,
        number: u64,
        payload: &[Bytes],
    ) -> Result<(), Trouble> {
        let head = format::head(about, number, payload);
        let payload_len: usize = payload.iter().map(Bytes::len).sum();
        let len = (head.len() + payload_len) as u64;

        loop {
            let victim = self.lock().table.victim(len);
            match victim {
                Err(NoRoom) => {
                    self.record(Report::Skipped);
                    return Ok(());
                }
                Ok(None) => break,
                Ok(Some(victim)) => {
                    self.remove_now(disk, victim)?;
                    self.record(Report::Evicted);
                }
            }
        }
        match disk.write(name, &head, payload) {
            // A directory in the file's place, which nothing of a cache has created.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.record(Report::Skipped);
                return Ok(());
            }
            written => written.map_err(|error| Trouble::of(&error))?,
        }

        let mut state = self.lock();
        state.table.insert(name, len, disk::now());
        if state.unfilled_until.take().is_some() && state.reported.take().is_some() {
            info!(folder = %self.path.display(), "the cache folder is filled again");
        }
        drop(state);
        self.record(Report::Filled(payload_len as u64));
        self.record_kept();
        Ok(())
    }

    fn remove_now(&self, disk: &Disk, name: FileName) -> Result<(), Trouble> {
        disk.remove(name).map_err(|error| Trouble::of(&error))?;

        let mut state = self.lock();
        state.table.remove(name);
        if let FileName::Current(key) = name {
            state.currents.forget(key);
        }
        Ok(())
    }
}
