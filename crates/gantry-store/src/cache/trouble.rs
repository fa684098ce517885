//! Why a cache folder can't be used, and what to do about it.

use std::io;

/// Why a cache folder can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The folder can't be created or opened.
    #[error("it can't be opened: {0}: create it, let this process write to it, or set another `cache_dir`")]
    Unopened(String),
    /// The path leads to something else.
    #[error("it is not a directory: set another `cache_dir`")]
    NoDirectory,
    /// The folder belongs to another user.
    #[error("it belongs to user {owner}, and this process runs as user {user}: chown it, or set another `cache_dir`")]
    Owner {
        /// The folder's owner.
        owner: u32,
        /// The user of the process.
        user: u32,
    },
    /// Other users may write to the folder, and could add files.
    #[error("other users may write to it (mode {0:03o}): chmod 700 it, or set another `cache_dir`")]
    Exposed(u32),
    /// Another process uses the folder.
    #[error("another process uses it: give each relay a `cache_dir` of its own")]
    Locked,
    /// A newer version of Gantry has written the folder.
    #[error("it was written by another version of Gantry ({0}): empty it, or set another `cache_dir`")]
    Format(String),
    /// The folder has no files of a cache.
    #[error("it is no cache folder: name one that a relay has used")]
    NoCache,
    /// The folder is read-only.
    #[error("it is read-only: remount it writable, let this process write to it, or set another `cache_dir`")]
    ReadOnly,
    /// The file system is full.
    #[error("its file system is full: free space, or lower `cache_bytes`")]
    Full,
    /// The folder was removed while it was in use.
    #[error("it was removed: it is created again")]
    Removed,
    /// The disk does not answer.
    #[error("its disk does not answer: check the disk, or set another `cache_dir`")]
    Hangs,
    /// Another failure of the disk.
    #[error("its disk fails: {0}: check the disk, or set another `cache_dir`")]
    Fails(String),
}

impl Trouble {
    /// Classifies a failure of an operation on the folder or a file in it.
    pub(super) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;

        #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds are not exhaustive")]
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full,
            Kind::ReadOnlyFilesystem | Kind::PermissionDenied => Self::ReadOnly,
            Kind::NotFound => Self::Removed,
            _ => Self::Fails(error.to_string()),
        }
    }

    /// Returns whether the folder must be opened again before it can be used.
    pub(super) const fn needs_opening(&self) -> bool {
        match self {
            Self::Full | Self::Hangs | Self::Fails(_) => false,
            Self::Unopened(_)
            | Self::NoDirectory
            | Self::Owner { .. }
            | Self::Exposed(_)
            | Self::Locked
            | Self::NoCache
            | Self::Format(_)
            | Self::ReadOnly
            | Self::Removed => true,
        }
    }
}
