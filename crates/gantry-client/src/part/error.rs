use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::verify::Mismatch;

/// Why a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Its owner is another user.
    Foreign {
        /// The owner.
        uid: u32,
    },
    /// It has other names, under which it would be changed too.
    Linked,
    /// Others than its owner may change it.
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

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder that the target would be in is missing, or is no folder.
    #[error("folder {} does not exist", .0.display())]
    NoFolder(PathBuf),
    /// The target, or what stands at the part file's name, is a folder, a device or the like.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// What stands at the name of a part file or its record is not ours, or may be changed by others.
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
    /// The target names a descriptor that this process was not given.
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
    /// Another download has the part file.
    #[error("another download to {} is running", .0.display())]
    InUse(PathBuf),
    /// The file system, or the rights in it, do not let the file be written.
    #[error("{} can't be written", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The disk is full, or a quota is used up. What was written before stays, and can be resumed.
    #[error("no space left for {}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("can't read or write {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The part file does not hold that version's bytes up to the offset at which the transfer begins.
    #[error("part file {} can't be resumed at offset {from}", path.display())]
    Unresumable {
        /// The part file.
        path: PathBuf,
        /// Where the transfer begins, absolute.
        from: u64,
    },
    /// An earlier failure made the part file unfit to be written on; it may be opened anew.
    #[error("part file {} failed before", .0.display())]
    Broken(PathBuf),
    /// The part file no longer has its name when it is to take the target's place.
    #[error(
        "can't put {} in place: part file {} was removed or replaced during the download; download again",
        target.display(), part.display()
    )]
    Removed {
        /// The target, which is as it was.
        target: PathBuf,
        /// The part file.
        part: PathBuf,
    },
    /// The part file does not hold what was written to it. What it still holds can be resumed.
    #[error(
        "part file {} was changed by another program during the download, or its disk is faulty; download again",
        .0.display()
    )]
    Altered(PathBuf),
    /// We were asked to stop while what is there was read. It stays as it is.
    #[error("stopped reading part file {}", .0.display())]
    Stopped(PathBuf),
    /// The bytes are not the store's. They were thrown away, and the target was left as it was.
    #[error("{} was not written", target.display())]
    Mismatch {
        /// The target.
        target: PathBuf,
        /// What differs.
        source: Mismatch,
    },
}

impl Error {
    /// Returns whether the same download may succeed later although the caller changes nothing.
    ///
    /// So it is where another program or download was in the way, and where the part file failed but what it holds can
    /// be opened again. A full disk, missing rights and the like need somebody who changes that.
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

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are many and not exhaustive")]
        match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, source },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Io { path, source },
        }
    }
}
