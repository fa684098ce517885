//! Detects changes of a file.

use cap_std::fs::MetadataExt;
use rustix::fs::Statx;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Distinguishes versions of a file, as far as the file system does.
///
/// The modification time can be set back, as `rsync --inplace --times` does. The change time can't. Both are therefore
/// compared while the open file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    pub(super) size: u64,
}

impl Identity {
    pub(super) fn of(metadata: &cap_std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        }
    }

    pub(super) fn of_found(found: &Statx) -> Self {
        let (mtime, ctime) = (found.stx_mtime, found.stx_ctime);
        Self {
            inode: found.stx_ino,
            mtime_ns: nanoseconds(mtime.tv_sec, mtime.tv_nsec.into()),
            ctime_ns: nanoseconds(ctime.tv_sec, ctime.tv_nsec.into()),
            size: found.stx_size,
        }
    }

    /// Returns whether the open file still contains the bytes of this version.
    pub(super) fn matches(&self, now: &std::fs::Metadata) -> bool {
        use std::os::unix::fs::MetadataExt as _;

        // Losing its last name, because another file took the name, changes the file's times but not its bytes.
        let unchanged = nanoseconds(now.ctime(), now.ctime_nsec()) == self.ctime_ns || now.nlink() == 0;

        unchanged
            && (now.ino(), now.len()) == (self.inode, self.size)
            && nanoseconds(now.mtime(), now.mtime_nsec()) == self.mtime_ns
    }

    /// Returns the `ETag`: the size and the modification time, which copies made by `cp -a` or `rsync -t` keep. If it
    /// contained the inode and the change time, a relay over a copy could not take over from another.
    pub(super) fn etag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.mtime_ns, self.size)
    }

    pub(super) fn last_modified(&self) -> Option<String> {
        OffsetDateTime::from_unix_timestamp_nanos(self.mtime_ns).ok()?.format(&Rfc3339).ok()
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}
