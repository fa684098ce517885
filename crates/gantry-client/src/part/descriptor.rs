//! Paths that name an open file instead of a place: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/1`.
//!
//! No file can replace such a path. These entries look like symbolic links, but they are not: following one by hand
//! leads to the path of the open file, and a download would then replace that file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use super::destination::{Destination, folder};

/// Returns the destination that `path` names, if it is an entry of a process's folder of open files.
pub(super) fn named(path: &Path) -> Result<Option<Destination>, Error> {
    let Some(process) = process_of(path) else { return Ok(None) };
    let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
    let Some(number) = number.filter(|number| *number >= 0) else { return Err(Error::NotAFile(path.to_owned())) };

    // Opening the entry may fail too: a process of another user hides its descriptors.
    let Ok(open) = fs::metadata(path) else { return Err(Error::NoDescriptor(path.to_owned())) };
    if is_us(&process) {
        return Ok(Some(Destination::Descriptor(number)));
    }
    if let Some(ours) = (0..=2).find(|ours| is_open_as(&open, *ours)) {
        return Ok(Some(Destination::Descriptor(ours)));
    }
    if open.is_file() || open.is_dir() {
        return Err(Error::OpenElsewhere(path.to_owned()));
    }
    Ok(Some(Destination::Special(path.to_owned())))
}

/// Returns the process whose folder of open files contains `path`, as a path in procfs.
fn process_of(path: &Path) -> Option<PathBuf> {
    let files = fs::canonicalize(folder(path)).ok()?;
    if !files.ends_with("fd") || !is_procfs(&files) {
        return None;
    }
    let owner = files.parent()?;
    // A thread shares its process's descriptors.
    match owner.parent()? {
        threads if threads.ends_with("task") => threads.parent().map(Path::to_owned),
        _ => Some(owner.to_owned()),
    }
}

fn is_us(process: &Path) -> bool {
    fs::canonicalize("/proc/self").is_ok_and(|us| us == process)
}

fn is_open_as(open: &fs::Metadata, number: i32) -> bool {
    let ours = fs::metadata(format!("/proc/self/fd/{number}"));
    ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (open.dev(), open.ino()))
}

#[cfg(target_os = "linux")]
fn is_procfs(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Other systems have devices for descriptors.
#[cfg(not(target_os = "linux"))]
fn is_procfs(_: &Path) -> bool {
    false
}
