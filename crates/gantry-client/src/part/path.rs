//! Where a target really is, and what its part file is called.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{fs, path};

use sha2::{Digest as _, Sha256};

use super::Error;

/// The longest file name of the common file systems, in bytes (`NAME_MAX` in Linux's `limits.h`).
const NAME_MAX_BYTES: usize = 255;

/// How many symbolic links are followed, as Linux does (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

const PART: &str = ".gantry-part";
const SIDECAR: &str = ".gantry-part.json";
const SCRATCH: &str = ".gantry-part.json.new";

/// The files beside a target while it is being downloaded.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The folder that they and the target are in.
    pub folder: PathBuf,
    /// The bytes.
    pub part: PathBuf,
    /// What the bytes are.
    pub sidecar: PathBuf,
    /// The next sidecar, until it replaces the one before.
    pub scratch: PathBuf,
}

impl Names {
    /// Names the files beside `target`, which [`resolve`] returned.
    pub(super) fn beside(target: &Path) -> Result<Self, Error> {
        let Some(name) = target.file_name() else { return Err(Error::NotAFile(target.to_owned())) };
        let folder = folder(target);
        let stem = stem(name);
        let named = |suffix: &str| {
            let mut name = OsString::from(".");
            name.push(&stem);
            name.push(suffix);
            folder.join(name)
        };
        Ok(Self { part: named(PART), sidecar: named(SIDECAR), scratch: named(SCRATCH), folder })
    }
}

/// Returns the name, or its beginning and a hash of it where the longest suffix would not fit.
fn stem(name: &OsStr) -> OsString {
    let room = NAME_MAX_BYTES - ".".len() - SCRATCH.len();
    if name.len() <= room {
        return name.to_owned();
    }
    let mut hash = String::from("~");
    for byte in &Sha256::digest(name.as_encoded_bytes())[..8] {
        // Writing to a string never fails.
        write!(hash, "{byte:02x}").unwrap_or_default();
    }
    let text = name.to_string_lossy();
    let mut stem = OsString::from(&text[..text.floor_char_boundary(room - hash.len())]);
    stem.push(hash);
    stem
}

/// Follows the symbolic links at the end of `target` to where its bytes are, or would be, and checks that a file can
/// be there.
pub(super) fn resolve(target: &Path) -> Result<PathBuf, Error> {
    let mut path = target.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let to = fs::read_link(&path).map_err(|source| Error::io(&path, source))?;
                path = folder(&path).join(to);
            }
            Ok(metadata) if metadata.is_file() => return Ok(path),
            Ok(_) => return Err(Error::NotAFile(path)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return missing(path);
            }
            Err(source) => return Err(Error::io(&path, source)),
        }
    }
    Err(Error::io(target, io::Error::other("too many symbolic links")))
}

/// Takes a path where nothing is yet, when the folder is there.
fn missing(path: PathBuf) -> Result<PathBuf, Error> {
    if path.as_os_str().to_string_lossy().ends_with(path::is_separator) {
        return Err(Error::NoFolder(path));
    }
    let folder = folder(&path);
    match fs::metadata(&folder) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err(Error::NoFolder(folder)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(Error::NoFolder(folder))
        }
        Err(source) => Err(Error::io(&folder, source)),
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns whether `path` leads to something that takes bytes but is no regular file: a device, a FIFO, a socket.
///
/// There is no part file for such a target: bytes go straight into it.
#[must_use]
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Returns whether `path` is, itself and not through a link, the regular file that is open as `file`.
pub(super) fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(there.is_file() && is_same(&file.metadata()?, &there))
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere an open file can be neither removed nor renamed by another process.
#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}
