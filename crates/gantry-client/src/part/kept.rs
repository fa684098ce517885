//! The bytes that an earlier download left, and which of them can be reused.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use super::claim::{Claim, tolerate_unsynced};
use super::policy::Policy;
use super::record::Mark;
use super::sidecar::{self, Sidecar};
use super::tally::{self, Tally};
use super::{Error, ResumePoint, Stale};
use gantry_proto::{Get, ObjectInfo, Pin, StoreName};

#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Stale(Stale),
    Kept(Box<Kept>),
}

/// Bytes that can be reused. They have been read and hashed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) point: ResumePoint,
    sidecar: Sidecar,
    tally: Tally,
    /// The marks that match the bytes, in ascending order of length. The last one covers all bytes.
    marks: Vec<Mark>,
}

/// The contents of a part file when its transfer starts.
#[derive(Debug)]
pub(super) struct Base {
    pub sidecar: Sidecar,
    pub tally: Tally,
    /// As in [`Kept`].
    pub marks: Vec<Mark>,
}

impl Base {
    pub(super) fn empty(store: StoreName, object: &ObjectInfo, range: &Range<u64>) -> Self {
        Self {
            sidecar: Sidecar::new(store, object.clone(), range, None),
            tally: Tally::new(object, range),
            marks: Vec::new(),
        }
    }
}

impl Kept {
    /// Returns whether a transfer from `from` continues these bytes.
    pub(super) fn goes_on(&self, object: &ObjectInfo, range: &Range<u64>, from: u64) -> bool {
        self.point.proved == from && self.point.range == *range && self.sidecar.is_same_version(object)
    }

    /// Reuses the bytes for `object` with its current description.
    ///
    /// If `object` has a checksum for which the bytes have not been hashed, they are read again.
    ///
    /// # Errors
    /// [`Error::Stopped`], or [`Error::Altered`] if the file has changed meanwhile. Otherwise an error of the file
    /// system.
    pub(super) fn take_up(self, object: &ObjectInfo, claim: &Claim, stop: &AtomicBool) -> Result<Base, Error> {
        let Self { point, mut sidecar, tally, marks } = self;
        let recorded = std::mem::replace(&mut sidecar.object, object.clone());

        let mut afresh = Tally::new(object, &point.range);
        if !afresh.is_checked() {
            // What an earlier relay stated for the same version still holds.
            sidecar.object.checksum = recorded.checksum.or_else(|| object.checksum.clone());
            sidecar.object.other_checksum = recorded.other_checksum.or_else(|| object.other_checksum.clone());
            return Ok(Base { sidecar, tally, marks });
        }
        if object.stated_checksum() == recorded.stated_checksum() {
            return Ok(Base { sidecar, tally, marks });
        }

        let part = &claim.names.part;
        match afresh.read(&claim.file, &[tally.mark()], stop).map_err(|source| Error::io(part, source))? {
            tally::Outcome::Read => Ok(Base { sidecar, tally: afresh, marks }),
            tally::Outcome::Stopped => Err(Error::Stopped(part.clone())),
            tally::Outcome::Differs => Err(Error::Altered(part.clone())),
        }
    }
}

/// Reads the kept bytes, as far as they were recorded.
pub(super) fn examine(
    claim: &Claim,
    recorded: Option<sidecar::Found>,
    get: &Get,
    policy: &Policy,
    stop: &AtomicBool,
) -> Result<Found, Error> {
    let Some(sidecar::Found { sidecar, marks }) = recorded else {
        return Ok(Found::Stale(Stale::NoRecord));
    };
    if !sidecar.is_of(get) {
        return Ok(Found::Stale(Stale::Other));
    }

    let same_boot = sidecar.boot.is_some() && sidecar.boot == policy.boot;
    // Bytes past the checkpoint must be durable before a new checkpoint covers them. An unnoticed write-back failure is
    // reported here.
    let is_synced = same_boot && tolerate_unsynced(claim.file.sync_data()).is_ok();
    let marks = if is_synced { marks.all() } else { marks.durable() };
    if marks.is_empty() {
        return Ok(Found::Stale(Stale::Unrecorded));
    }

    let range = sidecar.range();
    let mut tally = Tally::new(&sidecar.object, &range);
    match tally.read(&claim.file, marks, stop) {
        Ok(tally::Outcome::Read) => {}
        Ok(tally::Outcome::Stopped) => return Err(Error::Stopped(claim.names.part.clone())),
        Ok(tally::Outcome::Differs) => return Ok(Found::Stale(Stale::Damaged)),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the part file can't be read");
            return Ok(Found::Stale(Stale::Damaged));
        }
    }

    let marks = marks.iter().copied().filter(|mark| mark.len <= tally.len()).collect();
    let pin = Pin { if_match: Some(sidecar.object.etag.clone()), version_id: get.pin.version_id.clone() };
    let point = ResumePoint { object: sidecar.object.clone(), proved: range.start + tally.len(), range, pin };
    Ok(Found::Kept(Box::new(Kept { point, sidecar, tally, marks })))
}
