//! What an earlier download left, and whether it is of use.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use super::claim::Claim;
use super::policy::Policy;
use super::sidecar::{self, Sidecar};
use super::tally::{self, Tally};
use super::{Error, ResumePoint, Stale, Wanted};
use gantry_proto::{ObjectInfo, Pin};

#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Stale(Stale),
    Kept(Box<Kept>),
}

/// Bytes that can be reused, read and hashed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) point: ResumePoint,
    sidecar: Sidecar,
    tally: Tally,
}

impl Kept {
    /// Returns whether a transfer that begins at `from` goes on with them.
    pub(super) fn goes_on(&self, object: &ObjectInfo, range: &Range<u64>, from: u64) -> bool {
        self.point.proved == from && self.point.range == *range && self.sidecar.is_same_version(object)
    }

    /// Takes over the bytes for `object` as it is described now.
    pub(super) fn take_up(
        self,
        object: &ObjectInfo,
        claim: &Claim,
        stop: &AtomicBool,
    ) -> Result<(Sidecar, Tally), Error> {
        let Self { point, mut sidecar, tally } = self;
        let recorded = std::mem::replace(&mut sidecar.object, object.clone()).checksum;

        let mut afresh = Tally::new(object, &point.range);
        if !afresh.is_checked() {
            // What an earlier relay stated of the same version still holds.
            sidecar.object.checksum = recorded.or_else(|| object.checksum.clone());
            return Ok((sidecar, tally));
        }
        if object.checksum == recorded {
            return Ok((sidecar, tally));
        }

        let part = &claim.names.part;
        match afresh.read(&claim.file, &[tally.mark()], stop).map_err(|source| Error::io(part, source))? {
            tally::Outcome::Read => Ok((sidecar, afresh)),
            tally::Outcome::Stopped => Err(Error::Stopped(part.clone())),
            tally::Outcome::Differs => Err(Error::Unresumable { path: part.clone(), from: point.proved }),
        }
    }
}

/// Reads what is there, as far as it was recorded.
pub(super) fn examine(
    claim: &Claim,
    recorded: Option<sidecar::Found>,
    wanted: &Wanted,
    policy: &Policy,
    stop: &AtomicBool,
) -> Result<Found, Error> {
    let Some(sidecar::Found { sidecar, durable: mut marks, noted }) = recorded else {
        return Ok(Found::Stale(Stale::NoRecord));
    };
    if !sidecar.is_of(wanted) {
        return Ok(Found::Stale(Stale::Other));
    }

    let same_boot = sidecar.boot.is_some() && sidecar.boot == policy.boot;
    // Bytes past the checkpoint are to be durable before a new one claims them, and a failure to write them back that
    // nobody saw shows here.
    if same_boot && claim.file.sync_data().is_ok() {
        marks.extend(noted);
    }
    marks.retain(|mark| mark.len > 0);
    marks.sort_by_key(|mark| mark.len);
    if marks.is_empty() {
        return Ok(Found::Stale(Stale::Unrecorded));
    }

    let range = sidecar.range();
    let mut tally = Tally::new(&sidecar.object, &range);
    match tally.read(&claim.file, &marks, stop) {
        Ok(tally::Outcome::Read) => {}
        Ok(tally::Outcome::Stopped) => return Err(Error::Stopped(claim.names.part.clone())),
        Ok(tally::Outcome::Differs) => return Ok(Found::Stale(Stale::Damaged)),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the part file can't be read");
            return Ok(Found::Stale(Stale::Damaged));
        }
    }

    let pin = Pin { if_match: Some(sidecar.object.etag.clone()), version_id: wanted.pin.version_id.clone() };
    let point = ResumePoint { object: sidecar.object.clone(), proved: range.start + tally.len(), range, pin };
    Ok(Found::Kept(Box::new(Kept { point, sidecar, tally })))
}
