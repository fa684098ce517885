//! What a part file's bytes are, kept beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::path::Names;
use super::{Error, Wanted};
use gantry_proto::{ObjectInfo, StoreName};

/// The format that this build writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// More than the largest sidecar: an object's description with a composite checksum of 10,000 runs takes less than
/// 1 MiB.
const SIDECAR_MAX_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sidecar {
    format: u32,
    pub store: StoreName,
    pub object: ObjectInfo,
    start: u64,
    end: u64,
    /// The run of the kernel in which the bytes past `durable` were written.
    pub boot: Option<String>,
    /// How many bytes of the part file were on the disk when this was written.
    pub durable: u64,
    /// CRC-64/NVME of these.
    pub durable_crc: u64,
}

impl Sidecar {
    pub(super) const fn new(store: StoreName, object: ObjectInfo, range: &Range<u64>, boot: Option<String>) -> Self {
        // The CRC of no bytes is 0.
        Self { format: FORMAT, store, object, start: range.start, end: range.end, boot, durable: 0, durable_crc: 0 }
    }

    pub(super) const fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Reads the sidecar; `None` when there is none or it is not one that this build understands.
    pub(super) fn read(names: &Names) -> Option<Self> {
        let mut text = Vec::new();
        File::open(&names.sidecar).ok()?.take(SIDECAR_MAX_BYTES).read_to_end(&mut text).ok()?;
        let sidecar: Self = serde_json::from_slice(&text).ok()?;
        let sound = sidecar.format == FORMAT
            && sidecar.start <= sidecar.end
            && sidecar.end <= sidecar.object.size
            && sidecar.durable <= sidecar.end - sidecar.start;
        sound.then_some(sidecar)
    }

    /// Replaces the sidecar: after a crash it is the one before or this one, never a torn one.
    pub(super) fn write(&self, names: &Names) -> Result<(), Error> {
        self.replace(names).map_err(|source| Error::io(&names.sidecar, source))
    }

    fn replace(&self, names: &Names) -> io::Result<()> {
        remove(&names.scratch)?;
        // Created anew, so that a link which somebody put there is not followed.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&names.scratch)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        // One that vouches for nothing may get lost.
        if self.durable > 0 {
            file.sync_data()?;
        }
        fs::rename(&names.scratch, &names.sidecar)
    }

    /// Returns whether these are bytes of what is wanted.
    pub(super) fn is_of(&self, wanted: &Wanted) -> bool {
        let pin = &wanted.pin;
        self.store == wanted.store
            && self.object.key == wanted.key
            && wanted.span.resolve(self.object.size) == Some(self.range())
            && pin.if_match.as_ref().is_none_or(|etag| *etag == self.object.etag)
            && (pin.version_id.is_none() || pin.version_id == self.object.version_id)
    }

    /// Returns whether `object` has the same bytes: an equal `ETag` says so, and nothing else may speak against it.
    ///
    /// A checksum's parts are not held against each other: a relay names them when it can learn them in time.
    pub(super) fn is_same_version(&self, object: &ObjectInfo) -> bool {
        let checksums_agree = match (&self.object.checksum, &object.checksum) {
            (Some(ours), Some(theirs)) => {
                (ours.algorithm, ours.kind, &ours.value) == (theirs.algorithm, theirs.kind, &theirs.value)
            }
            _ => true,
        };
        self.object.key == object.key
            && self.object.size == object.size
            && self.object.etag == object.etag
            && checksums_agree
    }
}

/// Removes a file that may be missing.
pub(super) fn remove(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Identifies this run of the kernel; `None` where it has no identity.
///
/// Source: `random(4)`, `boot_id`.
pub(super) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}
