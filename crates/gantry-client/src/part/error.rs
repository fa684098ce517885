use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::verify::Mismatch;

/// Why a file is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Its owner is another user.
    Foreign {
        /// The owner.
        uid: u32,
    },
    /// It has several hard links, so a change would show under other names.
    Linked,
    /// Other users may change it.
    Writable,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { uid } => write!(f, "belongs to another user (uid {uid})"),
            Self::Linked => f.write_str("has more than one hard link"),
            Self::Writable => f.write_str("can be written by other users"),
        }
    }
}

/// Why a file could not be downloaded or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target's folder is missing, or is not a folder.
    #[error("folder {} does not exist", .0.display())]
    NoFolder(PathBuf),
    /// The target, or the entry at the part file's name, is a folder, a device or another special file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The entry at the name of a part file or its record belongs to another user, or others may change it.
    #[error("{} {why}: remove it, or choose another target", path.display())]
    Untrusted {
        /// The part file or its record.
        path: PathBuf,
        /// Why it is not used.
        why: Distrust,
    },
    /// A symbolic link of another user, in a folder where everybody may create files.
    #[error("symbolic link {} belongs to another user (uid {uid}), in a folder open to all: it is not followed", path.display())]
    ForeignLink {
        /// The link.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The target names a descriptor that is not open in this process.
    #[error("{}: no such descriptor is open", .0.display())]
    NoDescriptor(PathBuf),
    /// The target names a file that another process has open.
    #[error("{} is a file that another process has open: give the file's own path", .0.display())]
    OpenElsewhere(PathBuf),
    /// Something is mounted at the target, so no file can take its place.
    #[error("{} is a mount point, which can't be replaced", .0.display())]
    MountPoint(PathBuf),
    /// The file system permits no file of this size. Nothing was downloaded.
    #[error("{} can't have {len} bytes: its file system permits no file of this size", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The size that it would have, in bytes.
        len: u64,
    },
    /// Another download holds the part file's lock.
    #[error("another download to {} is running", .0.display())]
    InUse(PathBuf),
    /// The file system or its permissions do not allow writing the file.
    #[error("{} can't be written", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk or a quota is full. Bytes that were written before remain and can be resumed.
    #[error("no space left for {}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("can't read or write {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The part file does not contain that version's bytes up to the offset at which the transfer starts.
    #[error("part file {} can't be resumed at offset {from}", path.display())]
    Unresumable {
        /// The part file.
        path: PathBuf,
        /// The absolute offset at which the transfer starts.
        from: u64,
    },
    /// An earlier failure made this writer unusable. The part file can be opened again.
    #[error("part file {} failed before", .0.display())]
    Broken(PathBuf),
    /// The part file no longer has its name at the time when it should replace the target.
    #[error(
        "can't put {} in place: part file {} was removed or replaced during the download; download again",
        target.display(), part.display()
    )]
    Removed {
        /// The target, which is unchanged.
        target: PathBuf,
        /// The part file.
        part: PathBuf,
    },
    /// The part file no longer contains the bytes that were written to it. The undamaged part can be resumed.
    #[error(
        "part file {} was changed by another program during the download, or its disk is faulty; download again",
        .0.display()
    )]
    Altered(PathBuf),
    /// The caller stopped the download while the kept bytes were read. They remain unchanged.
    #[error("stopped reading part file {}", .0.display())]
    Stopped(PathBuf),
    /// The bytes do not match the store's checksum. They were deleted, and the target is unchanged.
    #[error("{} was not written", target.display())]
    Mismatch {
        /// The target.
        target: PathBuf,
        /// The difference.
        source: Mismatch,
    },
}

impl Error {
    /// Returns whether the same download may succeed later without any change by the caller.
    ///
    /// This holds if another program or download interfered, or if the part file failed but can be opened again. A full
    /// disk or missing permissions require an action first.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::InUse(_) | Self::Broken(_) | Self::Removed { .. } | Self::Altered(_) => true,
            Self::NoFolder(_)
            | Self::NotAFile(_)
            | Self::Untrusted { .. }
            | Self::ForeignLink { .. }
            | Self::NoDescriptor(_)
            | Self::OpenElsewhere(_)
            | Self::MountPoint(_)
            | Self::TooLarge { .. }
            | Self::NotWritable { .. }
            | Self::Full { .. }
            | Self::Io { .. }
            | Self::Unresumable { .. }
            | Self::Stopped(_)
            | Self::Mismatch { .. } => false,
        }
    }

    /// Returns the paths that the message contains.
    pub(crate) fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::NoFolder(path)
            | Self::NotAFile(path)
            | Self::Untrusted { path, .. }
            | Self::ForeignLink { path, .. }
            | Self::NoDescriptor(path)
            | Self::OpenElsewhere(path)
            | Self::MountPoint(path)
            | Self::TooLarge { path, .. }
            | Self::InUse(path)
            | Self::NotWritable { path, .. }
            | Self::Full { path, .. }
            | Self::Io { path, .. }
            | Self::Unresumable { path, .. }
            | Self::Broken(path)
            | Self::Altered(path)
            | Self::Stopped(path)
            | Self::Mismatch { target: path, .. } => vec![path],
            Self::Removed { target, part } => vec![target, part],
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        #[expect(clippy::wildcard_enum_match_arm, reason = "`io::ErrorKind` is non-exhaustive")]
        match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, source },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Io { path, source },
        }
    }
}
