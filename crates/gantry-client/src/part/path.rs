//! Where a target is, and how its part file is named.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Error;
use super::descriptor;
use super::destination::{Destination, folder};

/// The longest file name of the common file systems, in bytes (`NAME_MAX` in Linux's `limits.h`).
const NAME_MAX_BYTES: usize = 255;

/// The maximum number of symbolic links to follow, as in Linux (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

const PART: &str = ".gantry-part";
const SIDECAR: &str = ".gantry-part.json";
const SCRATCH: &str = ".gantry-part.json.new";

/// The files beside a target while it is being downloaded.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The folder that they and the target are in.
    pub folder: PathBuf,
    /// The part file.
    pub part: PathBuf,
    /// The description of the bytes.
    pub sidecar: PathBuf,
    /// The next sidecar, until it replaces the previous one. Also the name of an empty file that is used as a probe.
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

/// Returns the name, or its beginning and a hash if the longest suffix would not fit.
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

/// Follows the symbolic links at the end of `target` to the place of its bytes.
///
/// A link is followed if Linux would follow it with `fs.protected_symlinks`, even where that setting is off: in a
/// folder such as `/tmp`, it must belong to this user or to the folder's owner. The rule also applies to a link with a
/// slash after it, which names the folder that the link leads to.
///
/// # Errors
/// [`Error::NotAFile`], [`Error::NoFolder`], [`Error::ForeignLink`], [`Error::NoDescriptor`] or
/// [`Error::OpenElsewhere`]. Otherwise an error of the file system.
pub fn destination(target: &Path) -> Result<Destination, Error> {
    let mut path = target.to_owned();
    let mut is_folder = false;
    for _ in 0..LINKS_MAX {
        // With the slash, the kernel would follow the link.
        is_folder |= strip_final_slashes(&mut path);
        if let Some(destination) = descriptor::named(&path)? {
            return if is_folder { Err(Error::NoFolder(target.to_owned())) } else { Ok(destination) };
        }

        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                admit_link(&path, &metadata)?;
                let to = fs::read_link(&path).map_err(|source| Error::io(&path, source))?;
                path = folder(&path).join(to);
            }
            Ok(metadata) if metadata.is_dir() => return Err(Error::NotAFile(path)),
            Ok(_) if is_folder => return Err(Error::NoFolder(target.to_owned())),
            Ok(metadata) if metadata.is_file() => return Ok(Destination::File(path)),
            Ok(_) => return Ok(Destination::Special(path)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return if is_folder { Err(Error::NoFolder(target.to_owned())) } else { missing(path) };
            }
            Err(source) => return Err(Error::io(&path, source)),
        }
    }
    Err(Error::io(target, io::Error::other("too many symbolic links")))
}

/// Removes the slashes at the end, except the one of the root folder. Returns whether there were any.
fn strip_final_slashes(path: &mut PathBuf) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let name_len = bytes.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    if name_len >= bytes.len() {
        return false;
    }
    *path = PathBuf::from(OsStr::from_bytes(&bytes[..name_len]));
    true
}

/// Returns the path of a file that replaces `target`.
pub(super) fn resolve(target: &Path) -> Result<PathBuf, Error> {
    match destination(target)? {
        Destination::File(path) => Ok(path),
        Destination::Special(_) | Destination::Descriptor(_) => Err(Error::NotAFile(target.to_owned())),
    }
}

/// Refuses a link that another user may have put into a folder where everybody may create files.
fn admit_link(path: &Path, link: &fs::Metadata) -> Result<(), Error> {
    let folder = folder(path);
    let there = fs::metadata(&folder).map_err(|source| Error::io(&folder, source))?;
    let us = rustix::process::geteuid().as_raw();
    if may_follow(link.uid(), there.uid(), there.mode(), us) {
        return Ok(());
    }
    Err(Error::ForeignLink { path: path.to_owned(), uid: link.uid() })
}

/// Source: `proc_sys_fs(5)`, `protected_symlinks`.
const fn may_follow(link_uid: u32, folder_uid: u32, folder_mode: u32, us: u32) -> bool {
    const STICKY_AND_WRITABLE: u32 = 0o1002;
    link_uid == us || link_uid == folder_uid || folder_mode & STICKY_AND_WRITABLE != STICKY_AND_WRITABLE
}

/// Returns the destination for a path without a file, if its folder exists.
fn missing(path: PathBuf) -> Result<Destination, Error> {
    let folder = folder(&path);
    match fs::metadata(&folder) {
        Ok(metadata) if metadata.is_dir() => Ok(Destination::File(path)),
        Ok(_) => Err(Error::NoFolder(folder)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(Error::NoFolder(folder))
        }
        Err(source) => Err(Error::io(&folder, source)),
    }
}

/// Returns whether `path` itself, without following a link, is the regular file that is open as `file`.
pub(super) fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(there.is_file() && is_same(&file.metadata()?, &there))
}

fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_the_kernel_would_with_protected_symlinks() {
        const TMP: u32 = 0o41777;
        for (link, folder, mode, us, followed) in [
            (1000, 0, TMP, 1000, true),
            (1001, 0, TMP, 1000, false),
            (1001, 0, TMP, 0, false),
            (0, 0, TMP, 1000, true),
            (1001, 1001, TMP, 0, true),
            (1001, 0, 0o40777, 0, true),
            (1001, 0, 0o41775, 0, true),
            (1001, 1000, 0o40755, 1000, true),
        ] {
            assert_eq!(may_follow(link, folder, mode, us), followed, "{link} {folder} {mode:o} {us}");
        }
    }
}
