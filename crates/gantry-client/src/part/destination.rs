//! The kinds of places that a target's name can lead to.

use std::path::{Path, PathBuf};

/// The place that a target's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A regular file, or no file yet, in an existing folder. Links are resolved.
    File(PathBuf),
    /// A device, a FIFO or a socket. It receives bytes but can't be replaced.
    Special(PathBuf),
    /// A descriptor of this process, named by a path such as `/dev/stdout` or `/proc/self/fd/3`.
    Descriptor(i32),
}

/// Returns the folder that contains a path.
pub(super) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
