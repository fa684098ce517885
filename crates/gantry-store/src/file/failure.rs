//! Classifies errors of the file system.

use std::io;

use crate::Error;

/// Classifies an error of the file system about `what`, such as a key.
pub(super) fn failed(what: &str, error: &io::Error) -> Error {
    // A loop of links and a socket exist, but neither is a file.
    if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) || is_absent(error) {
        return Error::NotFound(format!("{what}: no such file"));
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::Denied(format!("{what}: {error}"));
    }
    Error::unavailable(format!("{what}: {error}"))
}

/// Returns whether there is no file of that name. A name that is too long for the file system can't exist in it.
pub(super) fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidFilename)
}
