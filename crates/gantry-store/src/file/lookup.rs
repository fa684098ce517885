//! Finds the file of a key.

use std::fs::File;
use std::io;

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use super::failure::failed;
use super::identity::Identity;
use crate::Error;
use gantry_proto::{Key, ObjectInfo, Pin};

/// Opens the file of a key, and describes it.
pub(super) fn find(dir: &Dir, key: Key, pin: &Pin) -> Result<(ObjectInfo, (File, Identity)), Error> {
    if !is_plain(key.as_str()) {
        return Err(Error::Invalid(format!(
            "key {key:?} is not a plain path: in a directory, no part of it is empty, `.` or `..`",
            key = key.as_str()
        )));
    }
    if let Some(version) = &pin.version_id {
        return Err(Error::NotFound(format!("key {:?}: no version {version:?}, a directory keeps none", key.as_str())));
    }

    let mut options = OpenOptions::new();
    // Opening a FIFO must not wait for a writer. Regular files ignore the flag.
    options.read(true).custom_flags(libc::O_NONBLOCK);

    let failed = |error: io::Error| failed(&format!("key {:?}", key.as_str()), &error);
    let file = dir.open_with(key.as_str(), &options).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::NotFound(format!("key {:?}: not a regular file", key.as_str())));
    }

    let identity = Identity::of(&metadata);
    let etag = identity.etag();
    if let Some(expected) = &pin.if_match
        && *expected != etag
    {
        return Err(Error::Changed(format!("key {:?} has ETag {etag}, not {expected}", key.as_str())));
    }

    let mut object = ObjectInfo::new(key, identity.size, etag);
    object.last_modified = identity.last_modified();
    Ok((object, (file.into_std(), identity)))
}

/// Returns whether a key is a plain path, which means the same file to every program. It has no empty parts, `.` or
/// `..`.
pub(super) fn is_plain(key: &str) -> bool {
    key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
