//! The part file: a download's bytes beside their target until they are proved, safe against a crash at any moment.
//!
//! While `dir/name` is being downloaded there are `dir/.name.gantry-part` (the bytes) and
//! `dir/.name.gantry-part.json` (the *sidecar*: what the bytes are). [`PartWriter::commit`] proves the bytes, makes
//! them durable and renames them over the target, which until then is as it was. All of it blocks: run it where
//! blocking is allowed.
//!
//! # Which bytes of an interrupted download are reused
//! Those up to the last *mark* that still holds. A mark is a length of the part file and the CRC of that many bytes,
//! kept in the sidecar (its layout is described in `part/record.rs`). Bytes that no mark covers are fetched again.
//! - A *checkpoint* makes the bytes so far durable, then records their mark. It is due after 128 MiB or 10 s and runs
//!   beside the writing, one at a time.
//! - A *note* is the mark of the bytes that the kernel has taken, without waiting for the disk. It is due after 1 MiB
//!   or 250 ms, and replaces the note before.
//! - The *trail* keeps up to 256 marks at equal distances of at least 256 KiB, so that damage costs only what lies after
//!   it. They are made like notes.
//!
//! Marks past the last checkpoint count only in the same run of the kernel (Linux's `boot_id`, noted in the sidecar):
//! after a power cut the length and the mark may be there without the bytes.
//!
//! So a killed process loses what came since the last note, and a power cut what came since the last checkpoint. Where
//! bytes are damaged, those up to the last mark before the damage are reused, and the file is cut there. (A disk that is
//! pulled out while the machine runs on can lose bytes that are then reused; only a stored checksum notices.) A part of
//! another object, version, range or store is never resumed. A checksum mismatch throws the part away.
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
mod destination;
mod error;
mod kept;
mod path;
mod policy;
mod record;
mod sidecar;
mod tally;
#[cfg(test)]
mod tests;
mod trail;
mod trust;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use self::claim::{Claim, Held};
pub use self::destination::Destination;
pub use self::error::{Distrust, Error};
use self::kept::{Found, examine};
pub use self::path::destination;
use self::policy::Policy;
use self::sidecar::Sidecar;
pub(crate) use self::sidecar::boot_id;
use self::trust::Ours;
pub use self::writer::PartWriter;
use gantry_proto::{Get, ObjectInfo, Pin};

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
    get: Get,
    policy: Policy,
    found: Found,
}

impl PartFile {
    /// Locks the part file of `target` and looks whether it can be resumed, for which it reads all that can be kept.
    ///
    /// Bytes of anything but `get` are not resumed; with `resume` off none are, and they will be written over. Reading
    /// may take long: it ends when `stop` is set.
    ///
    /// # Errors
    /// As [`Error`] says, but for those of writing and proving. [`Error::Stopped`] leaves what is there.
    pub fn open(target: &Path, get: Get, resume: bool, stop: &AtomicBool) -> Result<Self, Error> {
        Self::open_with(target, get, resume, Policy::of_this_machine(), stop)
    }

    fn open_with(target: &Path, get: Get, resume: bool, policy: Policy, stop: &AtomicBool) -> Result<Self, Error> {
        let Held { mut claim, ours } = Claim::acquire(&path::resolve(target)?)?;
        let len = claim.len()?;
        // Also where it says nothing: one that is not ours is refused before the first byte.
        let recorded = Sidecar::read(&claim.names, &ours)?;
        claim.records_are_ours = true;
        let found = if resume && len > 0 { examine(&claim, recorded, &get, &policy, stop)? } else { Found::Nothing };
        claim.keep = match found {
            Found::Nothing => len > 0,
            Found::Kept(_) | Found::Stale(Stale::Other) => true,
            Found::Stale(Stale::NoRecord | Stale::Damaged | Stale::Unrecorded) => false,
        };
        Ok(Self { claim, ours, get, policy, found })
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
}
