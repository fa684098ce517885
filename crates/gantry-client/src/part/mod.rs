//! The part file: a download's bytes beside their target until they are verified. It survives a crash at any moment.
//!
//! While `dir/name` is being downloaded, `dir/.name.gantry-part` contains the bytes and `dir/.name.gantry-part.json`
//! (the *sidecar*) describes them. [`PartWriter::commit`] verifies the bytes, makes them durable and renames the part
//! file over the target, which is unchanged until then. All operations block: call them on a thread that may block.
//!
//! # Which bytes of an interrupted download are reused
//! The bytes up to the last valid *mark* are reused. A mark is a length of the part file and the CRC of that many
//! bytes, stored in the sidecar (`part/record.rs` describes its layout). Bytes that no mark covers are fetched again.
//! - A *checkpoint* makes all bytes so far durable, and then records their mark. It is due after 128 MiB or 10 s. One
//!   checkpoint at a time runs in parallel with the writes.
//! - A *note* is the mark of the bytes that the kernel has accepted, without waiting for the disk. It is due after 1
//!   MiB or 250 ms, and replaces the previous note.
//! - The *trail* is up to 256 marks at equal distances of at least 256 KiB, so that damage costs only what follows it.
//!   Its marks are written like notes.
//!
//! Marks past the last checkpoint count only until the machine restarts (the sidecar contains Linux's `boot_id`): after
//! a power cut, the length and the mark may exist without the bytes.
//!
//! A killed process loses the bytes since the last note, and a power cut loses those since the last checkpoint. If
//! bytes are damaged, those up to the last mark before the damage are reused, and the file is truncated there. (If a
//! disk is removed while the machine keeps running, it can lose bytes that are then reused. Only a stored checksum
//! detects this.) A part file of another object, version, range or store is never resumed. A checksum mismatch discards
//! the part file.
//!
//! The file is verified against the checksum that a relay states now. If the kept bytes were hashed for another
//! checksum, or for none, they are read again.
//!
//! # Several streams
//! If several transfers fetch one file, each writes its bytes at their place. Only the contiguous bytes from the start
//! count as written, have marks and are reused. Bytes past a gap count once the gap is closed: their CRC is combined
//! with that of the bytes before them, or they are read again if the stored checksum is of another kind.
//!
//! # A full disk
//! The space for the sidecar's marks is allocated at the start, so that bytes written before the disk was full can
//! still be recorded. A mark that can't be written costs only itself: the previous one remains valid. Only if the
//! system fails to write bytes to the disk are these discarded, back to the last checkpoint.
//!
//! # Concurrent downloads
//! The part file is locked (`flock`) while its [`PartFile`] or [`PartWriter`] exists. A second download to the same
//! target gets [`Error::InUse`] at once.
//!
//! # Shared folders
//! A part file or sidecar is used only if it is a regular file of this user with one hard link, which others can't
//! write to. Files of other users, links, FIFOs and other special files in their place are refused. A file of this user
//! that others may write to is removed. Part file and sidecar are readable by their owner only.
//!
//! # Permissions and links
//! A new file has the permissions that the process's umask gives. A replaced file keeps its permission bits (except
//! set-user-id, set-group-id and the sticky bit), but not its owner, access lists or other hard links. The bits of
//! another user's file are limited to what the umask gives. A symbolic link is followed if Linux would follow it with
//! `protected_symlinks`, and the file that it leads to is replaced. Devices, FIFOs and folders are refused, and so are
//! paths that name an open file: see [`destination`].

mod ahead;
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

/// The point from which an interrupted download can continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// The version of the bytes.
    pub object: ObjectInfo,
    /// The absolute byte range that is being downloaded.
    pub range: Range<u64>,
    /// The absolute offset to continue from, greater than `range.start`. All bytes before it are present.
    pub proved: u64,
    /// The pin of the request: the `ETag` of the kept bytes, and the version only if the caller requested one, so that
    /// the relay answers `changed` if there is a newer version.
    pub pin: Pin,
}

/// Why an existing part file is not resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// It belongs to another object, version, range or store.
    #[error("the part file belongs to another object, version or range")]
    Other,
    /// It has no readable record.
    #[error("the part file has no readable record")]
    NoRecord,
    /// Its bytes do not match the record.
    #[error("the part file is damaged")]
    Damaged,
    /// The process was killed before its bytes were recorded, or the machine was restarted before they were durable.
    #[error("nothing of the part file was recorded before it was interrupted")]
    Unrecorded,
}

/// A locked part file, before its transfer starts.
///
/// Dropping it keeps the bytes of an earlier download, if they can be reused.
#[derive(Debug)]
pub struct PartFile {
    claim: Claim,
    ours: Ours,
    get: Get,
    policy: Policy,
    found: Found,
}

impl PartFile {
    /// Locks the part file of `target` and determines whether it can be resumed, which includes reading the kept bytes.
    ///
    /// Only bytes that `get` requests are resumed. If `resume` is false, none are, and they will be overwritten.
    /// Reading may take long. It ends early once `stop` is set.
    ///
    /// # Errors
    /// Any [`Error`] except those of writing and verifying. [`Error::Stopped`] leaves the part file unchanged.
    pub fn open(target: &Path, get: Get, resume: bool, stop: &AtomicBool) -> Result<Self, Error> {
        Self::open_with(target, get, resume, Policy::of_this_machine(), stop)
    }

    fn open_with(target: &Path, get: Get, resume: bool, policy: Policy, stop: &AtomicBool) -> Result<Self, Error> {
        let Held { mut claim, ours } = Claim::acquire(&path::resolve(target)?)?;
        let len = claim.len()?;
        // Read in any case, so that a sidecar of another user is refused before the first byte.
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

    /// Returns the point from which the download can continue, or `None` if it must start from the beginning.
    #[must_use]
    pub fn resume_point(&self) -> Option<&ResumePoint> {
        match &self.found {
            Found::Kept(kept) => Some(&kept.point),
            Found::Nothing | Found::Stale(_) => None,
        }
    }

    /// Returns why an existing part file is not resumed.
    #[must_use]
    pub const fn stale(&self) -> Option<Stale> {
        match self.found {
            Found::Stale(stale) => Some(stale),
            Found::Nothing | Found::Kept(_) => None,
        }
    }

    /// Returns the file that will be replaced, with links resolved.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.claim.target
    }

    /// Returns whether [`Self::begin`] would continue with the kept bytes.
    #[must_use]
    pub fn resumes(&self, object: &ObjectInfo, range: &Range<u64>, from: u64) -> bool {
        matches!(&self.found, Found::Kept(kept) if kept.goes_on(object, range, from))
    }
}
