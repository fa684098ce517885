//! Decides which files beside a target belong to this user. In a shared folder, anyone may create part files and
//! records.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::error::{Distrust, Error};

/// The permission bits that allow users other than the owner to write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// The owner and permissions that the file system gives to files that this process creates in a folder.
///
/// They are read from a new file, not derived from the user id and umask: network file systems map users, some file
/// systems have no permissions, and a folder may have default access lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    uid: u32,
    /// The default permission bits of a new file.
    pub new_mode: u32,
    /// The permission bits of a private file: 0600, except on file systems without permissions.
    pub private_mode: u32,
}

/// The properties that decide whether a regular file belongs to this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    uid: u32,
    links: u64,
    mode: u32,
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid(), links: metadata.nlink(), mode: metadata.mode() & 0o7777 }
    }
}

impl Ours {
    /// Creates a file as `scratch`, reads its owner and permissions, and removes it.
    pub(super) fn probe(scratch: &Path) -> Result<Self, Error> {
        if let Ok(there) = fs::symlink_metadata(scratch)
            && there.is_dir()
        {
            return Err(Error::NotAFile(scratch.to_owned()));
        }
        let probed = remove(scratch).and_then(|()| {
            let file = OpenOptions::new().write(true).create_new(true).open(scratch)?;
            let new = file.metadata()?;
            // A file system that refuses has no permissions, or only those of its mount.
            let private = match file.set_permissions(Permissions::from_mode(0o600)) {
                Ok(()) => file.metadata()?.mode(),
                Err(_) => new.mode(),
            };
            fs::remove_file(scratch)?;
            Ok(Self { uid: new.uid(), new_mode: new.mode() & 0o777, private_mode: private & 0o777 })
        });
        probed.map_err(|source| Error::io(scratch, source))
    }

    /// Returns why a regular file must not be used, if there is a reason.
    pub(super) fn distrust(&self, metadata: &Metadata) -> Option<Distrust> {
        self.judge(Facts::of(metadata))
    }

    fn judge(&self, Facts { uid, links, mode }: Facts) -> Option<Distrust> {
        if uid != self.uid {
            return Some(Distrust::Foreign { uid });
        }
        if links > 1 {
            return Some(Distrust::Linked);
        }
        (mode & OTHERS_MAY_WRITE & !self.private_mode != 0).then_some(Distrust::Writable)
    }

    /// Opens a file of this user. Returns `None` if it is missing, or if others may write to it, so that it must be
    /// replaced.
    ///
    /// # Errors
    /// [`Error::NotAFile`] or [`Error::Untrusted`] if it is anything else.
    pub(super) fn open(&self, path: &Path, options: &mut OpenOptions) -> Result<Option<File>, Error> {
        let Some(file) = open_regular(path, options)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        match self.distrust(&metadata) {
            None => Ok(Some(file)),
            Some(Distrust::Writable) => Ok(None),
            Some(why) => Err(Error::Untrusted { path: path.to_owned(), why }),
        }
    }

    /// Returns the permission bits of a file that replaces `target`.
    ///
    /// A file of this user keeps its bits. Another user chose the bits of their file, so those may make the new file
    /// more private, but never less.
    pub(super) fn mode_to_replace(&self, target: &Path) -> u32 {
        let Ok(metadata) = fs::symlink_metadata(target) else { return self.new_mode };
        if !metadata.is_file() {
            return self.new_mode;
        }
        let bits = metadata.mode() & 0o777;
        if metadata.uid() == self.uid {
            return bits;
        }
        let may_execute = (self.new_mode & 0o444) >> 2;
        bits & (self.new_mode | may_execute)
    }
}

/// Opens the regular file at `path`, without following a link and without blocking. Returns `None` if it is missing.
///
/// # Errors
/// [`Error::NotAFile`] if it is not a regular file, [`Error::Untrusted`] if it is a private file of another user.
pub(super) fn open_regular(path: &Path, options: &mut OpenOptions) -> Result<Option<File>, Error> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io(path, source)),
    };
    // Opening a device may have side effects.
    if !there.is_file() {
        return Err(Error::NotAFile(path.to_owned()));
    }

    let opened = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    match opened {
        Ok(file) if is_regular(&file) => Ok(Some(file)),
        Ok(_) => Err(Error::NotAFile(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Err(Error::NotAFile(path.to_owned())),
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied && there.uid() != rustix::process::geteuid().as_raw() =>
        {
            Err(Error::Untrusted { path: path.to_owned(), why: Distrust::Foreign { uid: there.uid() } })
        }
        Err(source) => Err(Error::io(path, source)),
    }
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Removes a file that may be missing.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether a refusal means that the file system has no permissions, so that ignoring it is safe.
pub(super) fn knows_no_permissions(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ours = Ours { uid: 1000, new_mode: 0o644, private_mode: 0o600 };

    #[test]
    fn owner_links_and_mode_decide_whether_a_file_is_ours() {
        let facts = Facts { uid: 1000, links: 1, mode: 0o600 };
        for (facts, distrust) in [
            (facts, None),
            (Facts { mode: 0o644, ..facts }, None),
            (Facts { mode: 0o755, ..facts }, None),
            (Facts { mode: 0o620, ..facts }, Some(Distrust::Writable)),
            (Facts { mode: 0o602, ..facts }, Some(Distrust::Writable)),
            (Facts { mode: 0o666, ..facts }, Some(Distrust::Writable)),
            (Facts { links: 2, ..facts }, Some(Distrust::Linked)),
            (Facts { uid: 0, ..facts }, Some(Distrust::Foreign { uid: 0 })),
            (Facts { uid: 1001, mode: 0o666, ..facts }, Some(Distrust::Foreign { uid: 1001 })),
        ] {
            assert_eq!(OURS.judge(facts), distrust, "{facts:?}");
        }
    }

    /// FAT shows the permission bits of its mount on every file.
    #[test]
    fn files_are_trusted_on_a_file_system_without_permissions() {
        let ours = Ours { private_mode: 0o777, new_mode: 0o777, ..OURS };
        assert_eq!(ours.judge(Facts { uid: 1000, links: 1, mode: 0o777 }), None);
    }
}
