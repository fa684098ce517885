//! The description of a part file's bytes, and its record as a file beside the part file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;

use serde::{Deserialize, Serialize};

use super::Error;
use super::path::Names;
use super::record::{self, Mark, Marks, Record};
use super::trail::Trail;
use super::trust::{Ours, remove};
use gantry_proto::{Get, ObjectInfo, StoreName};

/// Larger than any sidecar: two copies of an object's description, which has less than 1 MiB with a composite checksum
/// of 10,000 runs, and the marks.
const SIDECAR_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The description of a part file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sidecar {
    pub store: StoreName,
    pub object: ObjectInfo,
    start: u64,
    end: u64,
    /// The boot of the machine during which the bytes past the last checkpoint were written.
    pub boot: Option<String>,
}

/// The contents of a sidecar.
#[derive(Debug)]
pub(super) struct Found {
    pub sidecar: Sidecar,
    pub marks: Marks,
}

impl Sidecar {
    pub(super) const fn new(store: StoreName, object: ObjectInfo, range: &Range<u64>, boot: Option<String>) -> Self {
        Self { store, object, start: range.start, end: range.end, boot }
    }

    pub(super) const fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Returns whether the part file is for the object that `get` requests.
    pub(super) fn is_of(&self, get: &Get) -> bool {
        let pin = &get.pin;
        self.store == get.store
            && self.object.key == get.key
            && get.span.resolve(self.object.size) == Some(self.range())
            && pin.if_match.as_ref().is_none_or(|etag| *etag == self.object.etag)
            && (pin.version_id.is_none() || pin.version_id == self.object.version_id)
    }

    /// Returns whether `object` has the same bytes: its `ETag` and size are equal, and its checksum does not
    /// contradict.
    ///
    /// Checksums of another algorithm or kind can't be compared; the bytes are verified against the current one. A
    /// checksum's parts are not compared, because a relay states them only if it learns them in time.
    pub(super) fn is_same_version(&self, object: &ObjectInfo) -> bool {
        self.object.key == object.key
            && self.object.size == object.size
            && self.object.etag == object.etag
            && !self.object.contradicts(object)
    }

    /// Reads the sidecar. Returns `None` if it is missing, can be written by others, or has another format.
    ///
    /// # Errors
    /// [`Error::Untrusted`] or [`Error::NotAFile`] if it does not belong to this user. It is then neither read nor
    /// replaced.
    pub(super) fn read(names: &Names, ours: &Ours) -> Result<Option<Found>, Error> {
        let Some(file) = ours.open(&names.sidecar, OpenOptions::new().read(true))? else { return Ok(None) };

        let mut text = Vec::new();
        let read = file.take(SIDECAR_MAX_BYTES).read_to_end(&mut text);

        Ok(read.ok().and_then(|_| parse(&text)))
    }

    /// Puts a sidecar in place. After a crash there is either the previous one or this one.
    ///
    /// `marks` are those of the kept bytes, which are all on the disk. As many as fit go into the trail, and the last
    /// one becomes the checkpoint's.
    pub(super) fn place(&self, names: &Names, marks: &[Mark], trail: &mut Trail) -> Result<Record, Error> {
        self.replace(names, marks, trail).map_err(|source| Error::io(&names.sidecar, source))
    }

    fn replace(&self, names: &Names, marks: &[Mark], trail: &mut Trail) -> io::Result<Record> {
        let description = serde_json::to_vec(self)?;

        remove(&names.scratch)?;
        // Created as a new file, so that an existing link is not followed.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&names.scratch)?;
        let record = Record::write(file, description, &trail.thin_out(marks), marks.last().copied())?;

        fs::rename(&names.scratch, &names.sidecar)?;
        Ok(record)
    }
}

fn parse(text: &[u8]) -> Option<Found> {
    let (description, marks) = record::decode(text)?;
    let sidecar: Sidecar = serde_json::from_slice(description).ok()?;
    let len = sidecar.end.checked_sub(sidecar.start)?;
    if sidecar.end > sidecar.object.size {
        return None;
    }
    Some(Found { sidecar, marks: marks.within(len) })
}

/// Identifies the current boot of the machine. Returns `None` if the system has no such id.
///
/// Source: `random(4)`, `boot_id`.
pub(crate) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}
