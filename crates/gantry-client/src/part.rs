//! The part file: a download's bytes beside their target until they are proved, safe against a crash at any moment.
//!
//! While `dir/name` is being downloaded there are `dir/.name.gantry-part` (the bytes) and
//! `dir/.name.gantry-part.json` (the *sidecar*: what the bytes are). [`PartWriter::commit`] proves the bytes, makes
//! them durable and renames them over the target, which until then is as it was. All of it blocks: run it where
//! blocking is allowed.
//!
//! # Which bytes of an interrupted download are reused
//! Bytes are written in order, so the part file's length says how many there are, also after the process was killed
//! in the middle of a write: what the kernel took stays. After a power cut this does not hold, since the length may
//! reach the disk without the bytes. Therefore:
//! - A *checkpoint* makes the bytes so far durable, then notes their length and CRC in the sidecar. It is due after
//!   128 MiB or 10 s and runs beside the writing, one at a time.
//! - Bytes up to the last checkpoint are reused if their CRC holds.
//! - Bytes past it are reused only in the same run of the kernel (Linux's `boot_id`, noted in the sidecar). Where
//!   that is unknown they are fetched again.
//!
//! So a killed process loses nothing, and a power cut what came since the last checkpoint. (A disk that is pulled out
//! while the machine runs on can lose bytes that are then reused; only a stored checksum notices.) A part of another object,
//! version, range or store is never resumed. A checksum mismatch throws the part away.
//!
//! # One at a time
//! The part file is locked (`flock`) for as long as its [`PartFile`] or [`PartWriter`] lives; a second download to
//! the same target gets [`Error::InUse`] at once.
//!
//! # What becomes of the target
//! A new file has the rights that the process's umask gives. A file that is replaced keeps its permission bits
//! (without set-user-id and the like), but not its owner, access lists or other hard links. A symbolic link is
//! followed: what it leads to is replaced. Devices, FIFOs and folders are refused; see [`is_special`].

mod claim;
mod error;
mod path;
mod sidecar;
mod tally;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use self::claim::{Claim, Rights};
pub use self::error::Error;
pub use self::path::is_special;
use self::sidecar::Sidecar;
use self::tally::Tally;
use super::verify::{Mismatch, Proof};
use gantry_proto::chunk::{self, Chunk};
use gantry_proto::{Key, ObjectInfo, Pin, Span, StoreName};

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
    /// Its bytes are not the ones that were made durable.
    #[error("the part file is damaged")]
    Damaged,
    /// The machine was restarted before any of its bytes were sure to be on the disk.
    #[error("the machine was restarted before the part file was made durable")]
    Unsynced,
}

/// A locked part file, before its transfer begins.
///
/// Dropping it leaves what an earlier download left, if that is of use.
#[derive(Debug)]
pub struct PartFile {
    claim: Claim,
    wanted: Wanted,
    policy: Policy,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Nothing,
    Stale(Stale),
    Kept(Box<Kept>),
}

/// Bytes that can be reused, read and hashed.
#[derive(Debug)]
struct Kept {
    point: ResumePoint,
    sidecar: Sidecar,
    tally: Tally,
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
        let mut claim = Claim::lock(path::resolve(target)?)?;
        let len = claim.len()?;
        let found = if resume && len > 0 { examine(&claim, len, &wanted, &policy, stop)? } else { Found::Nothing };
        claim.keep = match found {
            Found::Nothing => len > 0,
            Found::Kept(_) | Found::Stale(Stale::Other) => true,
            Found::Stale(Stale::NoRecord | Stale::Damaged | Stale::Unsynced) => false,
        };
        Ok(Self { claim, wanted, policy, found })
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
    /// At `range.start` the part file is emptied first; anywhere else it is resumed.
    ///
    /// # Errors
    /// [`Error::Unresumable`] when it is to be resumed anywhere but at its [`ResumePoint`], or for another range or
    /// version: the part file then stays as it is. Otherwise as the file system answers.
    pub fn begin(self, object: &ObjectInfo, range: Range<u64>, from: u64) -> Result<PartWriter, Error> {
        let Self { mut claim, wanted, policy, found } = self;
        let (mut sidecar, tally) = if from == range.start {
            let sidecar = Sidecar::new(wanted.store, object.clone(), &range, None);
            (sidecar, Tally::new(object, &range))
        } else {
            match found {
                Found::Kept(kept) if kept.goes_on(object, &range, from) => kept.take_up(object),
                Found::Kept(_) | Found::Nothing | Found::Stale(_) => {
                    return Err(Error::Unresumable { path: claim.names.part.clone(), from });
                }
            }
        };
        sidecar.boot.clone_from(&policy.boot);
        claim.keep = tally.len() > 0;
        // Cut first, vouch later: the new sidecar never meets bytes that it does not know.
        claim.cut(tally.len())?;
        claim.admit(Rights::WhileWriting)?;
        sidecar.write(&claim.names)?;
        let writer = PartWriter {
            claim,
            sidecar,
            tally,
            start: range.start,
            checkpoint: None,
            checkpoint_at: Instant::now(),
            policy,
            broken: false,
        };
        Ok(writer)
    }
}

impl Kept {
    fn goes_on(&self, object: &ObjectInfo, range: &Range<u64>, from: u64) -> bool {
        self.point.proved == from && self.point.range == *range && self.sidecar.is_same_version(object)
    }

    fn take_up(self, object: &ObjectInfo) -> (Sidecar, Tally) {
        let Self { mut sidecar, tally, .. } = self;
        let checksum = sidecar.object.checksum.take();
        sidecar.object = object.clone();
        sidecar.object.checksum = checksum;
        sidecar.durable = tally.len();
        sidecar.durable_crc = tally.crc();
        (sidecar, tally)
    }
}

/// Reads what is there, as far as it can be trusted.
fn examine(claim: &Claim, len: u64, wanted: &Wanted, policy: &Policy, stop: &AtomicBool) -> Result<Found, Error> {
    let Some(sidecar) = Sidecar::read(&claim.names) else { return Ok(Found::Stale(Stale::NoRecord)) };
    if !sidecar.is_of(wanted) {
        return Ok(Found::Stale(Stale::Other));
    }
    let range = sidecar.range();
    if len < sidecar.durable || len > range.end - range.start {
        return Ok(Found::Stale(Stale::Damaged));
    }
    let same_boot = sidecar.boot.is_some() && sidecar.boot == policy.boot;
    // Bytes past the checkpoint are to be durable before a new one claims them, and a failure to write them back that
    // nobody saw shows here.
    let reusable = if same_boot && claim.file.sync_data().is_ok() { len } else { sidecar.durable };
    if reusable == 0 {
        return Ok(Found::Stale(Stale::Unsynced));
    }
    let mut tally = Tally::new(&sidecar.object, &range);
    match tally.read(&claim.file, &sidecar, reusable, stop) {
        Ok(tally::Outcome::Read) => {}
        Ok(tally::Outcome::Stopped) => return Err(Error::Stopped(claim.names.part.clone())),
        Ok(tally::Outcome::Differs) => return Ok(Found::Stale(Stale::Damaged)),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the part file can't be read");
            return Ok(Found::Stale(Stale::Damaged));
        }
    }
    let pin = Pin { if_match: Some(sidecar.object.etag.clone()), version_id: wanted.pin.version_id.clone() };
    let point = ResumePoint { object: sidecar.object.clone(), proved: range.start + reusable, range, pin };
    Ok(Found::Kept(Box::new(Kept { point, sidecar, tally })))
}

/// A part file that is being written.
///
/// Dropping it keeps what is written, to be resumed; nothing stays if nothing is written.
#[derive(Debug)]
pub struct PartWriter {
    claim: Claim,
    /// As it stands on the disk.
    sidecar: Sidecar,
    tally: Tally,
    start: u64,
    checkpoint: Option<JoinHandle<Result<Sidecar, Error>>>,
    checkpoint_at: Instant,
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
            // What was taken of them are the right bytes: whoever opens the file later may rely on its length.
            self.claim.seek(self.tally.len())?;
            return Err(Error::io(&self.claim.names.part, source));
        }
        self.tally.update(bytes, crc);
        self.claim.keep = self.tally.len() > 0;
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
        self.claim.admit(Rights::Final)?;
        self.claim.publish()?;
        Ok(proof)
    }

    /// Stops, and makes what is written durable, so that the download can be resumed also after a restart of the
    /// machine.
    ///
    /// # Errors
    /// As the file system answers.
    pub fn suspend(mut self) -> Result<(), Error> {
        self.collect_checkpoint(true)?;
        if self.tally.len() > self.sidecar.durable {
            self.start_checkpoint()?;
            self.collect_checkpoint(true)?;
        }
        Ok(())
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

    fn is_checkpoint_due(&self) -> bool {
        let since = self.tally.len() - self.sidecar.durable;
        since >= self.policy.checkpoint_bytes || self.checkpoint_at.elapsed() >= self.policy.checkpoint_interval
    }

    fn start_checkpoint(&mut self) -> Result<(), Error> {
        let part = &self.claim.names.part;
        let file = self.claim.file.try_clone().map_err(|source| Error::io(part, source))?;
        let names = self.claim.names.clone();
        let mut sidecar = self.sidecar.clone();
        sidecar.durable = self.tally.len();
        sidecar.durable_crc = self.tally.crc();
        let work = move || {
            file.sync_data().map_err(|source| Error::io(&names.part, source))?;
            sidecar.write(&names)?;
            Ok(sidecar)
        };
        let thread = std::thread::Builder::new().name("gantry-part".to_owned()).spawn(work);
        self.checkpoint = Some(thread.map_err(|source| Error::io(part, source))?);
        self.checkpoint_at = Instant::now();
        Ok(())
    }

    /// Takes the outcome of the checkpoint that runs, if it is done or `wait` says so.
    fn collect_checkpoint(&mut self, wait: bool) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken(self.claim.names.part.clone()));
        }
        let Some(thread) = self.checkpoint.take_if(|thread| wait || thread.is_finished()) else { return Ok(()) };
        match thread.join() {
            Ok(Ok(sidecar)) => {
                self.sidecar = sidecar;
                Ok(())
            }
            Ok(Err(error)) => Err(self.cut_back(error)),
            Err(_) => {
                let source = io::Error::other("the thread that makes it durable panicked");
                Err(self.cut_back(Error::io(&self.claim.names.part, source)))
            }
        }
    }

    /// Gives up the bytes past the last checkpoint: the system failed to bring them to the disk and may have dropped
    /// them, so that the file's length no longer speaks for them.
    fn cut_back(&mut self, error: Error) -> Error {
        self.broken = true;
        self.claim.keep = self.sidecar.durable > 0 && self.claim.cut(self.sidecar.durable).is_ok();
        error
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        // The thread shares the lock, and writes a sidecar that must not outlive the part file.
        if !self.broken
            && let Err(error) = self.collect_checkpoint(true)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the part file could not be made durable");
        }
    }
}

/// How often a checkpoint is made, and in which run of the kernel.
#[derive(Clone, Debug)]
struct Policy {
    boot: Option<String>,
    checkpoint_bytes: u64,
    checkpoint_interval: Duration,
}

impl Policy {
    /// 128 MiB are a second or two of a fast disk's time, 10 s of waiting are little to lose on a slow link; both
    /// keep the cost of the sidecar (a few hundred bytes and one more flush) out of sight.
    fn of_this_machine() -> Self {
        Self {
            boot: sidecar::boot_id(),
            checkpoint_bytes: 128 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}
