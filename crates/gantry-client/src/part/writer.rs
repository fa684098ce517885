//! A part file that is being written.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

use tokio::time::Instant;

use super::ahead::{Ahead, Run};
use super::checkpoint::{Checkpoint, Lapse};
use super::claim::{Claim, tolerate_unsynced};
use super::kept::{Base, Found};
use super::policy::Policy;
use super::record::{Mark, Record};
use super::tally::{self, Tally};
use super::trail::Trail;
use super::trust::Ours;
use super::{Error, PartFile};
use crate::verify::{Mismatch, Proof};
use gantry_proto::chunk::{self, Chunk};
use gantry_proto::{Checksum, ObjectInfo};

/// A part file that is being written.
///
/// Dropping it keeps the written bytes for a later download. If nothing was written, nothing is left.
#[derive(Debug)]
pub struct PartWriter {
    pub(super) claim: Claim,
    ours: Ours,
    pub(super) record: Record,
    trail: Trail,
    tally: Tally,
    /// The bytes past a gap.
    ahead: Ahead,
    start: u64,
    /// The size of the whole object.
    size: u64,
    /// The last checkpoint.
    durable: Mark,
    /// The last note.
    noted: Mark,
    noted_at: Instant,
    /// The running checkpoint.
    checkpoint: Option<Checkpoint>,
    /// The length and the time at which the last checkpoint was started.
    checkpoint_len: u64,
    checkpoint_at: Instant,
    /// Why the last checkpoint could not be recorded.
    unrecorded: Option<Error>,
    policy: Policy,
    broken: bool,
}

impl PartFile {
    /// Starts to write `range` of `object` at the absolute offset `from`.
    ///
    /// At `range.start` the part file is emptied first. At any other offset it is resumed. If `object` has a checksum
    /// for which the kept bytes have not been hashed, they are read again. That ends early once `stop` is set.
    ///
    /// # Errors
    /// [`Error::Unresumable`] if `from` is not the [`ResumePoint`](super::ResumePoint), or if the range or version
    /// differs. The part file then stays unchanged. [`Error::Stopped`] or [`Error::Altered`] from reading the kept
    /// bytes. Otherwise an error of the file system.
    pub fn begin(
        self,
        object: &ObjectInfo,
        range: Range<u64>,
        from: u64,
        stop: &AtomicBool,
    ) -> Result<PartWriter, Error> {
        let Self { mut claim, ours, get, policy, found } = self;
        let base = if from == range.start {
            Base::empty(get.store, object, &range)
        } else {
            match found {
                Found::Kept(kept) if kept.goes_on(object, &range, from) => kept.take_up(object, &claim, stop)?,
                Found::Kept(_) | Found::Nothing | Found::Stale(_) => {
                    return Err(Error::Unresumable { path: claim.names.part.clone(), from });
                }
            }
        };
        let Base { mut sidecar, tally, marks } = base;
        sidecar.boot.clone_from(&policy.boot);
        claim.keep = tally.len() > 0;

        // Truncate first: the new sidecar must never cover unknown bytes.
        claim.cut(tally.len())?;
        claim.admit_len(range.end.saturating_sub(range.start))?;
        let mut trail = Trail::over(range.end.saturating_sub(range.start), policy.trail_bytes);
        let record = sidecar.place(&claim.names, &marks, &mut trail)?;

        let mark = tally.mark();
        let writer = PartWriter {
            claim,
            ours,
            record,
            trail,
            tally,
            ahead: Ahead::default(),
            start: range.start,
            size: object.size,
            durable: mark,
            noted: mark,
            noted_at: Instant::now(),
            checkpoint: None,
            checkpoint_len: mark.len,
            checkpoint_at: Instant::now(),
            unrecorded: None,
            policy,
            broken: false,
        };
        Ok(writer)
    }
}

impl PartWriter {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// An error of the file system. None of these bytes count as written then, and the caller may write them again.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write_summed(bytes, chunk::crc(bytes))
    }

    /// Writes the bytes of a chunk whose checksum was checked.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_chunk(&mut self, chunk: &Chunk) -> Result<(), Error> {
        self.write_summed(&chunk.payload, chunk.crc)
    }

    /// Writes the bytes of a chunk whose checksum was checked, at their place. Bytes past a gap count as written once the
    /// gap is closed. No byte may be written twice.
    ///
    /// Closing a gap may include reading what follows it, until `stop` is set.
    ///
    /// # Errors
    /// As [`Self::write`]. [`Error::Altered`] if the bytes past the gap are not those that were written.
    /// [`Error::Stopped`]. The writer can't close the gap after these two.
    pub(crate) fn write_chunk_at_its_place(&mut self, chunk: &Chunk, stop: &AtomicBool) -> Result<(), Error> {
        let at = chunk.offset.saturating_sub(self.start);
        if at > self.tally.len() {
            self.collect_checkpoint(false)?;
            self.write_at(&chunk.payload, at)?;
            self.ahead.add(at, Run { len: chunk.payload.len() as u64, crc: chunk.crc });
            return Ok(());
        }

        self.write_chunk(chunk)?;
        while let Some(run) = self.ahead.take(self.tally.len()) {
            self.join(run, stop)?;
            self.keep_record()?;
        }
        Ok(())
    }

    fn write_summed(&mut self, bytes: &[u8], crc: u64) -> Result<(), Error> {
        self.collect_checkpoint(false)?;
        self.write_at(bytes, self.tally.len())?;
        self.tally.update(bytes, crc);
        self.keep_record()
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.claim.file.write_all_at(bytes, at).map_err(|source| Error::io(&self.claim.names.part, source))
    }

    /// Counts the bytes that follow the written ones as written.
    fn join(&mut self, run: Run, stop: &AtomicBool) -> Result<(), Error> {
        let before = self.tally.mark();
        if self.tally.join(run.len, run.crc) {
            return Ok(());
        }

        let part = &self.claim.names.part;
        let mark = Mark { len: before.len + run.len, crc: chunk::join_crcs(before.crc, run.crc, run.len) };
        match self.tally.read(&self.claim.file, &[mark], stop).map_err(|source| Error::io(part, source))? {
            tally::Outcome::Read => Ok(()),
            tally::Outcome::Stopped => Err(Error::Stopped(part.clone())),
            tally::Outcome::Differs => Err(Error::Altered(part.clone())),
        }
    }

    /// Records the written bytes, as often as it is due.
    fn keep_record(&mut self) -> Result<(), Error> {
        self.claim.keep = self.tally.len() > 0;

        self.leave_trail();
        if self.is_note_due() {
            self.note();
        }
        if self.checkpoint.is_none() && self.is_checkpoint_due() {
            self.start_checkpoint()?;
        }
        Ok(())
    }

    /// Returns the absolute offset up to which bytes are written, exclusive.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.start + self.tally.len()
    }

    /// Verifies the bytes against a checksum that was stated during the download, unless they are already verified
    /// against another one. Reads them again, until `stop` is set.
    ///
    /// # Errors
    /// [`Error::Stopped`], or [`Error::Altered`] if the file no longer contains what was written. Otherwise an error of
    /// the file system.
    pub fn check_against(&mut self, checksum: &Checksum, stop: &AtomicBool) -> Result<(), Error> {
        let range = self.start..self.written();
        let Some(mut afresh) = self.tally.checked_instead(checksum, &range, self.size) else { return Ok(()) };

        let part = &self.claim.names.part;
        match afresh.read(&self.claim.file, &[self.tally.mark()], stop).map_err(|source| Error::io(part, source))? {
            tally::Outcome::Read => self.tally = afresh,
            tally::Outcome::Stopped => return Err(Error::Stopped(part.clone())),
            tally::Outcome::Differs => return Err(Error::Altered(part.clone())),
        }
        Ok(())
    }

    /// Verifies the bytes, makes them durable and renames the part file over the target.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes do not match the stored checksum. They are then deleted. [`Error::Removed`] if
    /// the part file no longer has its name. Otherwise an error of the file system; the bytes stay and can be resumed.
    /// In all cases the target is unchanged, unless only the last step fails, the sync of the folder after the rename.
    pub fn commit(mut self) -> Result<Proof, Error> {
        self.collect_checkpoint(true)?;
        let proof = match self.prove()? {
            Ok(proof) => proof,
            Err(source) => {
                self.claim.keep = false;
                return Err(Error::Mismatch { target: self.claim.target.clone(), source });
            }
        };
        if let Err(source) = tolerate_unsynced(self.claim.file.sync_all()) {
            return Err(self.cut_back(Error::io(&self.claim.names.part, source)));
        }

        // After the sync, which may take long, because this gives the file its final permission bits.
        self.claim.publish(&self.ours)?;
        Ok(proof)
    }

    /// Stops writing, and makes all written bytes durable, so that the download can be resumed even after a restart of
    /// the machine.
    ///
    /// # Errors
    /// An error of the file system. The bytes that the last checkpoint covers are kept in any case.
    pub fn suspend(mut self) -> Result<(), Error> {
        self.cut_ahead();
        self.collect_checkpoint(true)?;
        if self.tally.len() > self.durable.len {
            self.start_checkpoint()?;
            self.collect_checkpoint(true)?;
        }
        self.unrecorded.take().map_or(Ok(()), Err)
    }

    /// Stops writing, and deletes what was written.
    pub fn discard(mut self) {
        self.claim.keep = false;
    }

    fn prove(&mut self) -> Result<Result<Proof, Mismatch>, Error> {
        let (written, actual) = (self.tally.len(), self.claim.len()?);
        if written != actual {
            return Ok(Err(Mismatch::Length { expected: written, actual }));
        }
        Ok(self.tally.prove())
    }

    /// Writes a mark of the trail, if one is due. A failure costs only this mark.
    fn leave_trail(&mut self) {
        let mark = self.tally.mark();
        let Some(slot) = self.trail.due(mark.len) else { return };
        if let Err(error) = self.record.trail(slot, mark) {
            tracing::debug!(error = &error as &dyn std::error::Error, "a mark of the part file can't be recorded");
        }
    }

    fn is_note_due(&self) -> bool {
        let since = self.tally.len() - self.noted.len;
        since >= self.policy.note_bytes || self.noted_at.elapsed() >= self.policy.note_interval
    }

    /// Records the bytes that the kernel has accepted. A failure costs only this note: the bytes are in the file.
    fn note(&mut self) {
        let mark = self.tally.mark();
        if let Err(error) = self.record.note(mark) {
            tracing::debug!(error = &error as &dyn std::error::Error, "the part file's length can't be noted");
        }
        self.noted = mark;
        self.noted_at = Instant::now();
    }

    fn is_checkpoint_due(&self) -> bool {
        let since = self.tally.len() - self.checkpoint_len;
        since >= self.policy.checkpoint_bytes || self.checkpoint_at.elapsed() >= self.policy.checkpoint_interval
    }

    fn start_checkpoint(&mut self) -> Result<(), Error> {
        self.checkpoint = Some(Checkpoint::start(&self.claim, &self.record, self.tally.mark())?);
        self.checkpoint_len = self.tally.len();
        self.checkpoint_at = Instant::now();
        Ok(())
    }

    /// Handles the result of the running checkpoint, if it is done. With `wait`, waits for it.
    pub(super) fn collect_checkpoint(&mut self, wait: bool) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken(self.claim.names.part.clone()));
        }
        let Some(checkpoint) = self.checkpoint.take_if(|checkpoint| wait || checkpoint.is_done()) else {
            return Ok(());
        };
        match checkpoint.finish() {
            Ok((record, mark)) => {
                self.record = record;
                self.durable = mark;
                self.unrecorded = None;
                Ok(())
            }
            // The bytes are on the disk, and the previous mark remains valid. A later checkpoint may succeed.
            Err(Lapse::Unrecorded(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a checkpoint can't be recorded");
                self.unrecorded = Some(error);
                Ok(())
            }
            Err(Lapse::Unsynced(error)) => Err(self.cut_back(error)),
        }
    }

    /// Frees the space of the bytes past a gap, which the next download fetches again.
    fn cut_ahead(&mut self) {
        if self.broken || self.claim.len().is_ok_and(|len| len <= self.tally.len()) {
            return;
        }
        self.ahead = Ahead::default();
        if let Err(error) = self.claim.cut(self.tally.len()) {
            tracing::debug!(error = &error as &dyn std::error::Error, "the part file's end can't be cut off");
        }
    }

    /// Discards the bytes past the last checkpoint. The system failed to write them to the disk and may have dropped
    /// them, so no record may cover them.
    fn cut_back(&mut self, error: Error) -> Error {
        self.broken = true;
        self.claim.keep = self.durable.len > 0 && self.claim.cut(self.durable.len).is_ok();
        error
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        self.cut_ahead();
        // The thread shares the lock, and writes a sidecar that must not outlive the part file.
        if let Err(error) = self.collect_checkpoint(true) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the part file could not be made durable");
        } else if self.claim.keep {
            self.note();
        }
    }
}
