//! The lock on a part file, and the operations that need it.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::process::{Resource, getrlimit};

use super::error::{Distrust, Error};
use super::path::{Names, is_at};
use super::trust::{self, Ours, knows_no_permissions, open_regular};

/// No file system has a lower limit on the size of a file, in bytes. FAT has 4 GiB, and some have 2 GiB.
const MAX_FILE_MIN: u64 = (1 << 31) - 1;

/// The number of attempts to lock the part file if it is renamed or removed between opening and locking.
const LOCK_ATTEMPTS: usize = 16;

/// The lock on a target's part file. When dropped, it removes the files beside the target, unless `keep` is set.
#[derive(Debug)]
pub(super) struct Claim {
    /// The file that will be replaced, with links resolved.
    pub target: PathBuf,
    pub names: Names,
    pub file: File,
    pub keep: bool,
    /// Whether the records beside it belong to this user, so that they may be removed with it.
    pub records_are_ours: bool,
}

/// A lock on a part file of this user, and the owner and permissions that the file system gives to this user's files.
#[derive(Debug)]
pub(super) struct Held {
    pub claim: Claim,
    pub ours: Ours,
}

impl Claim {
    /// Locks the part file. It must belong to this user. A part file that others may write to is replaced by an empty
    /// one.
    ///
    /// # Errors
    /// [`Error::NotAFile`] or [`Error::Untrusted`] if the part file does not belong to this user, [`Error::InUse`] if
    /// it is locked.
    pub(super) fn acquire(target: &Path) -> Result<Held, Error> {
        if is_mount_point(target) {
            return Err(Error::MountPoint(target.to_owned()));
        }

        for _ in 0..LOCK_ATTEMPTS {
            let mut claim = Self::lock(target.to_owned())?;
            claim.keep = claim.len()? > 0;
            let ours = Ours::probe(&claim.names.scratch)?;
            let metadata = claim.file.metadata().map_err(|source| Error::io(&claim.names.part, source))?;
            match ours.distrust(&metadata) {
                None => return Ok(Held { claim, ours }),
                // A process that has it open may continue to write to it, so the next attempt creates another file.
                Some(Distrust::Writable) => claim.keep = false,
                Some(why) => {
                    claim.keep = true;
                    return Err(Error::Untrusted { path: claim.names.part.clone(), why });
                }
            }
        }
        Err(Error::InUse(target.to_owned()))
    }

    fn lock(target: PathBuf) -> Result<Self, Error> {
        let names = Names::beside(&target)?;
        for _ in 0..LOCK_ATTEMPTS {
            let Some(file) = open_part(&names.part)? else { continue };
            match hold(&file, &names.part).map_err(|source| Error::io(&names.part, source))? {
                Hold::Ours => return Ok(Self { target, names, file, keep: true, records_are_ours: false }),
                Hold::Theirs => return Err(Error::InUse(target)),
                Hold::Moved => {}
            }
        }
        Err(Error::InUse(target))
    }

    pub(super) fn len(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata().map_err(|source| Error::io(&self.names.part, source))?;
        Ok(metadata.len())
    }

    /// Checks before the first byte that the file may have `len` bytes, and warns if the disk has less space.
    pub(super) fn admit_len(&self, len: u64) -> Result<(), Error> {
        let part = &self.names.part;
        let written = self.len()?;
        // Past a limit of the process, the kernel would end it.
        let is_limited = getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < len);
        if len >= MAX_FILE_MIN && !is_limited {
            let grown = self.file.set_len(len);
            self.file.set_len(written).map_err(|source| Error::io(part, source))?;
            if grown.is_err_and(|error| error.kind() == ErrorKind::FileTooLarge) {
                return Err(Error::TooLarge { path: self.target.clone(), len });
            }
        }

        // A quota, compression or thin provisioning may make the figure wrong.
        if let Ok(disk) = rustix::fs::fstatvfs(&self.file) {
            let (free, needed) = (disk.f_bavail.saturating_mul(disk.f_frsize), len.saturating_sub(written));
            // The files of a folder are opened by number. Their sum decides, and nobody knows it yet.
            let has_name = !self.target.starts_with("/proc/self/fd");
            if has_name && free < needed && disk.f_blocks > 0 {
                tracing::warn!(free, needed, target = %self.target.display(), "the disk probably has too little space");
            }
        }
        Ok(())
    }

    pub(super) fn cut(&self, len: u64) -> Result<(), Error> {
        self.file.set_len(len).map_err(|source| Error::io(&self.names.part, source))
    }

    /// Gives the part file its final permission bits. Before that, only its owner may read or write it.
    pub(super) fn admit(&self, mode: u32) -> Result<(), Error> {
        let set = self.file.metadata().and_then(|metadata| {
            if metadata.permissions().mode() & 0o7777 == mode {
                return Ok(());
            }
            self.file.set_permissions(Permissions::from_mode(mode))
        });
        match set {
            Err(error) if knows_no_permissions(&error) => Ok(()),
            set => set.map_err(|source| Error::io(&self.names.part, source)),
        }
    }

    /// Renames the part file over the target, with the target's permission bits. After a crash there is either the old
    /// target and the part file, or the new target.
    ///
    /// The records are removed last. A record without a part file is harmless, but a part file without a record is
    /// fetched again.
    ///
    /// # Errors
    /// [`Error::Removed`] if the part file no longer has its name. Otherwise an error of the file system. If publishing
    /// fails before the rename, the part file is private again.
    pub(super) fn publish(&mut self, ours: &Ours) -> Result<(), Error> {
        self.admit(ours.mode_to_replace(&self.target))?;
        if let Err(error) = self.rename() {
            // A part file that its owner may not write to could not be resumed.
            if let Err(error) = self.admit(ours.private_mode) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, part = %self.names.part.display(), "the part file can't be made private again");
            }
            return Err(error);
        }

        self.clear();
        sync_folder(&self.names.folder).map_err(|source| Error::io(&self.names.folder, source))
    }

    fn rename(&mut self) -> Result<(), Error> {
        let part = &self.names.part;
        if !is_at(&self.file, part).map_err(|source| Error::io(part, source))? {
            self.keep = false;
            return Err(Error::Removed { target: self.target.clone(), part: part.clone() });
        }
        fs::rename(part, &self.target).map_err(|source| Error::io(&self.target, source))?;
        self.keep = true;
        Ok(())
    }

    /// Removes the records of a part file that no longer has its name, unless they belong to the next download to this
    /// target. The held lock protects the records only while the part file has its name, so this takes a new lock.
    fn clear(&self) {
        match Self::lock(self.target.clone()) {
            Ok(mut next) => {
                next.keep = !matches!(next.len(), Ok(0));
                next.records_are_ours = true;
            }
            // The download that holds the lock replaces them.
            Err(Error::InUse(_)) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, sidecar = %self.names.sidecar.display(), "the part file's record can't be removed");
            }
        }
    }

    /// Removes the part file and its records. If another file has the part file's name, removes only unused records.
    fn remove(&self) -> io::Result<()> {
        if !is_at(&self.file, &self.names.part)? {
            if self.records_are_ours {
                self.clear();
            }
            return Ok(());
        }
        // The sidecar is removed first, under the lock, so that the next download finds a part file without a record, or
        // no part file.
        self.remove_records()?;
        trust::remove(&self.names.part)
    }

    fn remove_records(&self) -> io::Result<()> {
        if !self.records_are_ours {
            return Ok(());
        }
        trust::remove(&self.names.sidecar)?;
        trust::remove(&self.names.scratch)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.remove()
        {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, part = %self.names.part.display(), "the part file can't be removed");
        }
        // The lock belongs to the open file. A process that was forked meanwhile shares the open file until its `exec`,
        // so closing our descriptor alone would not release the lock.
        if let Err(error) = self.file.unlock() {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, part = %self.names.part.display(), "the part file can't be unlocked");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The lock is held until it is released or the file is closed.
    Ours,
    /// Another process holds the lock.
    Theirs,
    /// The lock is held, but the previous owner renamed or removed the file after we opened it. The lock protects
    /// nothing.
    Moved,
}

/// Tries to lock the part file, which is open as `file`.
pub(super) fn hold(file: &File, part: &Path) -> io::Result<Hold> {
    match file.try_lock() {
        Ok(()) if is_at(file, part)? => Ok(Hold::Ours),
        Ok(()) => Ok(Hold::Moved),
        Err(TryLockError::WouldBlock) => Ok(Hold::Theirs),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens or creates the part file. Returns `None` if it appeared or disappeared meanwhile. Does not follow a link.
fn open_part(part: &Path) -> Result<Option<File>, Error> {
    if let Some(file) = open_regular(part, OpenOptions::new().read(true).write(true))? {
        return Ok(Some(file));
    }
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(part) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(source) => Err(Error::io(part, source)),
    }
}

/// Makes a rename in the folder durable, if folders can be synced.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => tolerate_unsynced(folder.sync_all()),
        // A folder that can be written but not read can't be opened. The file has its name already.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns whether something is mounted at a path, such as a single file in a container. Older kernels do not report it.
fn is_mount_point(path: &Path) -> bool {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Ignores the error of a file system that can't sync files on demand, such as some network file systems.
pub(super) fn tolerate_unsynced(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            tracing::debug!(%error, "the file system can't sync files on demand");
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// A pipe can't be synced, either.
    #[test]
    fn a_file_system_that_can_not_sync_is_tolerated_and_a_faulty_disk_is_not() {
        let (reader, _writer) = io::pipe().unwrap();
        let refused = File::from(OwnedFd::from(reader)).sync_all();
        assert_eq!(refused.as_ref().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        tolerate_unsynced(refused).unwrap();

        let faulty = tolerate_unsynced(Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(faulty.unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    /// FAT, for example, takes no file of 4 GiB. No file system takes one of 2^63 - 1 bytes.
    #[test]
    fn a_file_that_can_not_become_so_large_is_refused_and_keeps_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let Held { claim, .. } = Claim::acquire(&folder.path().join("target")).unwrap();

        let refused = claim.admit_len(i64::MAX.unsigned_abs());
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
        assert_eq!(claim.len().unwrap(), 0);
        claim.admit_len(MAX_FILE_MIN).unwrap();
        assert_eq!(claim.len().unwrap(), 0);
    }
}
