//! What a target's name can lead to.

use std::path::{Path, PathBuf};

/// What a target's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A regular file, or nothing yet, in a folder that exists; links followed.
    File(PathBuf),
    /// Something that takes bytes but can't be replaced: a device, a FIFO, a socket.
    Special(PathBuf),
    /// A descriptor of this process, as `/dev/stdout` and `/proc/self/fd/3` name one.
    Descriptor(i32),
}

/// Returns the folder that a path is in.
pub(super) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
