//! The part file: a download's bytes beside their target until they are proved, safe against a crash at any moment.
//!
//! While `dir/name` is being downloaded there are `dir/.name.gantry-part` (the bytes) and
//! `dir/.name.gantry-part.json` (the *sidecar*: what the bytes are). [`PartWriter::commit`] proves the bytes, makes
//! them durable and renames them over the target, which until then is as it was. All of it blocks: run it where
//! blocking is allowed.
//!
//! # Which bytes of an interrupted download are reused
//! Those whose CRC is in the sidecar, and only if it still holds. Bytes that no CRC was recorded of are fetched again.
//! - A *checkpoint* makes the bytes so far durable, then records their length and CRC. It is due after 128 MiB or 10 s
//!   and runs beside the writing, one at a time.
//! - A *note* records length and CRC of the bytes that the kernel has taken, without waiting for the disk. It is due
//!   after 1 MiB or 250 ms, and counts only in the same run of the kernel (Linux's `boot_id`, noted in the sidecar):
//!   after a power cut the length and the note may be there without the bytes.
//!
//! So a killed process loses what came since the last note, and a power cut what came since the last checkpoint. Where
//! bytes are damaged, those up to the last mark before the damage are reused. (A disk that is pulled out while the
//! machine runs on can lose bytes that are then reused; only a stored checksum notices.) A part of another object,
//! version, range or store is never resumed. A checksum mismatch throws the part away.
//!
//! The checksum that a relay states now is the one that the file is held against; if the kept bytes were read for
//! another one, or for none, they are read again.
//!
//! # A full disk
//! The sidecar has room for its marks from the start, so that what was written before the disk was full can still be
//! recorded. A record that can't be written costs nothing but itself: the one before stays in force. Only when the
//! system fails to bring bytes to the disk are these given up, back to the last checkpoint.
//!
//! # One at a time
//! The part file is locked (`flock`) for as long as its [`PartFile`] or [`PartWriter`] lives; a second download to
//! the same target gets [`Error::InUse`] at once.
//!
//! # Shared folders
//! A part file or sidecar is used only if it is a regular file of ours with one name, that others can't write to. Those
//! of another user are refused, as are links, FIFOs and the like in their place; one of ours that others may write to
//! is removed. Both are readable by their owner only.
//!
//! # What becomes of the target
//! A new file has the rights that the process's umask gives. A file that is replaced keeps its permission bits
//! (without set-user-id and the like), but not its owner, access lists or other hard links; those of another user's
//! file are limited to what the umask gives. A symbolic link is followed where Linux would with `protected_symlinks`:
//! what it leads to is replaced. Devices, FIFOs and folders are refused, as are paths that name an open file; see
//! [`destination`].

mod checkpoint;
mod claim;
mod descriptor;
mod error;
mod kept;
mod path;
mod sidecar;
mod tally;
#[cfg(test)]
mod tests;
mod trust;

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::Instant;

use self::checkpoint::{Checkpoint, Lapse};
use self::claim::{Claim, Held};
pub use self::error::Error;
use self::kept::{Found, examine};
pub use self::path::{Destination, destination};
use self::sidecar::{Mark, Record, Sidecar};
use self::tally::Tally;
pub use self::trust::Distrust;
use self::trust::Ours;
use super::verify::{Mismatch, Proof};
use gantry_proto::chunk::{self, Chunk};
use gantry_proto::{Checksum, Key, ObjectInfo, Pin, Span, StoreName};

/// What is being downloaded, as it was asked for. Bytes of anything else are not resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The store.
    pub store: StoreName,
    /// The object's key.
    pub key: Key,
    /// The byte range.
    pub span: Span,
    /// The version, if one was asked for.
    pub pin: Pin,
}

/// From where an interrupted download can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// The version that the bytes belong to.
    pub object: ObjectInfo,
    /// The absolute byte range that is being downloaded.
    pub range: Range<u64>,
    /// The absolute offset to go on from, above `range.start`: everything before it is there.
    pub proved: u64,
    /// What to pin the request to: the `ETag` of the bytes that are there, and the version only if one was asked
    /// for, so that a newer current version answers `changed`.
    pub pin: Pin,
}

/// Why the part file that was found is not resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// It belongs to another object, version, range or store.
    #[error("the part file belongs to another object, version or range")]
    Other,
    /// Nothing readable says what it is.
    #[error("the part file has no readable record")]
    NoRecord,
    /// Its bytes are not the ones that were recorded.
    #[error("the part file is damaged")]
    Damaged,
    /// The process was killed before its bytes were recorded, or the machine was restarted before they were durable.
    #[error("nothing of the part file was recorded before it was interrupted")]
    Unrecorded,
}

/// A locked part file, before its transfer begins.
///
/// Dropping it leaves what an earlier download left, if that is of use.
#[derive(Debug)]
pub struct PartFile {
    claim: Claim,
    ours: Ours,
    wanted: Wanted,
    policy: Policy,
    found: Found,
}

impl PartFile {
    /// Locks the part file of `target` and looks whether it can be resumed, for which it reads all that can be kept.
    ///
    /// With `resume` off whatever is there will be written over. Reading may take long: it ends when `stop` is set.
    ///
    /// # Errors
    /// As [`Error`] says, but for those of writing and proving. [`Error::Stopped`] leaves what is there.
    pub fn open(target: &Path, wanted: Wanted, resume: bool, stop: &AtomicBool) -> Result<Self, Error> {
        Self::open_with(target, wanted, resume, Policy::of_this_machine(), stop)
    }

    fn open_with(
        target: &Path,
        wanted: Wanted,
        resume: bool,
        policy: Policy,
        stop: &AtomicBool,
    ) -> Result<Self, Error> {
        let Held { mut claim, ours } = Claim::acquire(&path::resolve(target)?)?;
        let len = claim.len()?;
        // Also where it says nothing: one that is not ours is refused before the first byte.
        let recorded = Sidecar::read(&claim.names, &ours)?;
        claim.records_are_ours = true;
        let found = if resume && len > 0 { examine(&claim, recorded, &wanted, &policy, stop)? } else { Found::Nothing };
        claim.keep = match found {
            Found::Nothing => len > 0,
            Found::Kept(_) | Found::Stale(Stale::Other) => true,
            Found::Stale(Stale::NoRecord | Stale::Damaged | Stale::Unrecorded) => false,
        };
        Ok(Self { claim, ours, wanted, policy, found })
    }

    /// Returns from where the download can go on; `None` when it must start afresh.
    #[must_use]
    pub fn resume_point(&self) -> Option<&ResumePoint> {
        match &self.found {
            Found::Kept(kept) => Some(&kept.point),
            Found::Nothing | Found::Stale(_) => None,
        }
    }

    /// Returns why a part file that was found is not resumed.
    #[must_use]
    pub const fn stale(&self) -> Option<Stale> {
        match self.found {
            Found::Stale(stale) => Some(stale),
            Found::Nothing | Found::Kept(_) => None,
        }
    }

    /// Returns the file that will be replaced, links followed.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.claim.target
    }

    /// Returns whether [`Self::begin`] would go on with what is there.
    #[must_use]
    pub fn resumes(&self, object: &ObjectInfo, range: &Range<u64>, from: u64) -> bool {
        matches!(&self.found, Found::Kept(kept) if kept.goes_on(object, range, from))
    }

    /// Begins to write `range` of `object` at the absolute offset `from`.
    ///
    /// At `range.start` the part file is emptied first; anywhere else it is resumed. The kept bytes are read again if
    /// `object` has a checksum that they were not read for; that ends when `stop` is set.
    ///
    /// # Errors
    /// [`Error::Unresumable`] when it is to be resumed anywhere but at its [`ResumePoint`], or for another range or
    /// version: the part file then stays as it is. [`Error::Stopped`]. Otherwise as the file system answers.
    pub fn begin(
        self,
        object: &ObjectInfo,
        range: Range<u64>,
        from: u64,
        stop: &AtomicBool,
    ) -> Result<PartWriter, Error> {
        let Self { mut claim, ours, wanted, policy, found } = self;
        let (mut sidecar, tally) = if from == range.start {
            let sidecar = Sidecar::new(wanted.store, object.clone(), &range, None);
            (sidecar, Tally::new(object, &range))
        } else {
            match found {
                Found::Kept(kept) if kept.goes_on(object, &range, from) => kept.take_up(object, &claim, stop)?,
                Found::Kept(_) | Found::Nothing | Found::Stale(_) => {
                    return Err(Error::Unresumable { path: claim.names.part.clone(), from });
                }
            }
        };
        sidecar.boot.clone_from(&policy.boot);
        claim.keep = tally.len() > 0;

        // Cut first, vouch later: the new sidecar never meets bytes that it does not know.
        claim.cut(tally.len())?;
        let record = sidecar.place(&claim.names, tally.mark())?;

        let mark = tally.mark();
        let writer = PartWriter {
            claim,
            ours,
            record,
            tally,
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

/// A part file that is being written.
///
/// Dropping it keeps what is written, to be resumed; nothing stays if nothing is written.
#[derive(Debug)]
pub struct PartWriter {
    claim: Claim,
    ours: Ours,
    record: Record,
    tally: Tally,
    start: u64,
    /// Of the whole object.
    size: u64,
    /// The last checkpoint.
    durable: Mark,
    /// The last note.
    noted: Mark,
    noted_at: Instant,
    /// The checkpoint that runs.
    checkpoint: Option<Checkpoint>,
    /// Where and when the last one was begun.
    checkpoint_len: u64,
    checkpoint_at: Instant,
    /// Why the last checkpoint could not be recorded.
    unrecorded: Option<Error>,
    policy: Policy,
    broken: bool,
}

impl PartWriter {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// As the file system answers. None of these bytes count as written then, and the same ones may be written again.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write_summed(bytes, chunk::crc(bytes))
    }

    /// The same with the bytes of a chunk whose checksum was checked.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_chunk(&mut self, chunk: &Chunk) -> Result<(), Error> {
        self.write_summed(&chunk.payload, chunk.crc)
    }

    fn write_summed(&mut self, bytes: &[u8], crc: u64) -> Result<(), Error> {
        self.collect_checkpoint(false)?;
        if let Err(source) = self.claim.file.write_all(bytes) {
            self.claim.seek(self.tally.len())?;
            return Err(Error::io(&self.claim.names.part, source));
        }
        self.tally.update(bytes, crc);
        self.claim.keep = self.tally.len() > 0;

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

    /// Has the bytes proved against a checksum that was stated while they were written, unless they already are against
    /// another: reads them again, until `stop` is set.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::Broken`] when the file no longer holds what was written. Otherwise as the file system
    /// answers.
    pub fn check_against(&mut self, checksum: &Checksum, stop: &AtomicBool) -> Result<(), Error> {
        let range = self.start..self.written();
        let Some(mut afresh) = self.tally.checked_instead(checksum, &range, self.size) else { return Ok(()) };

        let part = &self.claim.names.part;
        match afresh.read(&self.claim.file, &[self.tally.mark()], stop).map_err(|source| Error::io(part, source))? {
            tally::Outcome::Read => self.tally = afresh,
            tally::Outcome::Stopped => return Err(Error::Stopped(part.clone())),
            tally::Outcome::Differs => return Err(Error::Broken(part.clone())),
        }
        Ok(())
    }

    /// Proves the bytes, makes them durable and renames them over the target.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when they are not the store's: they are thrown away. Otherwise as the file system answers:
    /// they stay, to be resumed unless it was the renaming that failed. In both cases the target is as it was, unless
    /// only the last step fails, which makes the new name durable.
    pub fn commit(mut self) -> Result<Proof, Error> {
        self.collect_checkpoint(true)?;
        let proof = match self.prove()? {
            Ok(proof) => proof,
            Err(source) => {
                self.claim.keep = false;
                return Err(Error::Mismatch { target: self.claim.target.clone(), source });
            }
        };
        if let Err(source) = self.claim.file.sync_all() {
            return Err(self.cut_back(Error::io(&self.claim.names.part, source)));
        }

        // After the sync, which may take long: a part that its owner may not write can't be resumed.
        self.claim.admit(self.ours.mode_to_replace(&self.claim.target))?;
        self.claim.publish()?;
        Ok(proof)
    }

    /// Stops, and makes what is written durable, so that the download can be resumed also after a restart of the
    /// machine.
    ///
    /// # Errors
    /// As the file system answers. What the last checkpoint covers is kept all the same.
    pub fn suspend(mut self) -> Result<(), Error> {
        self.collect_checkpoint(true)?;
        if self.tally.len() > self.durable.len {
            self.start_checkpoint()?;
            self.collect_checkpoint(true)?;
        }
        self.unrecorded.take().map_or(Ok(()), Err)
    }

    /// Stops, and throws away what is written.
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

    fn is_note_due(&self) -> bool {
        let since = self.tally.len() - self.noted.len;
        since >= self.policy.note_bytes || self.noted_at.elapsed() >= self.policy.note_interval
    }

    /// Records what the kernel has taken. One that fails costs only itself: the bytes are in the file.
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

    /// Takes the outcome of the checkpoint that runs, if it is done or `wait` says so.
    fn collect_checkpoint(&mut self, wait: bool) -> Result<(), Error> {
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
            // The bytes are on the disk, and the record before this one still holds; a later one may succeed.
            Err(Lapse::Unrecorded(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a checkpoint can't be recorded");
                self.unrecorded = Some(error);
                Ok(())
            }
            Err(Lapse::Unsynced(error)) => Err(self.cut_back(error)),
        }
    }

    /// Gives up the bytes past the last checkpoint: the system failed to bring them to the disk and may have dropped
    /// them, so that no record speaks for them.
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
        // The thread shares the lock, and writes a sidecar that must not outlive the part file.
        if let Err(error) = self.collect_checkpoint(true) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the part file could not be made durable");
        } else if self.claim.keep {
            self.note();
        }
    }
}

/// How often the bytes are recorded, and in which run of the kernel.
#[derive(Clone, Debug)]
struct Policy {
    boot: Option<String>,
    note_bytes: u64,
    note_interval: Duration,
    checkpoint_bytes: u64,
    checkpoint_interval: Duration,
}

impl Policy {
    /// 128 MiB are a second or two of a fast disk's time, 10 s of waiting are little to lose on a slow link; both
    /// keep the cost of a checkpoint (one more flush) out of sight. A note is a write of 128 bytes to the page cache.
    fn of_this_machine() -> Self {
        Self {
            boot: sidecar::boot_id(),
            note_bytes: 1024 * 1024,
            note_interval: Duration::from_millis(250),
            checkpoint_bytes: 128 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}
