//! Targets that are written directly: stdout, other descriptors, devices and FIFOs.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use gantry_client::part::Destination;

/// Standard output.
pub(super) const STDOUT: Destination = Destination::Descriptor(1);

const STDERR: Destination = Destination::Descriptor(2);

/// Returns the target of `-o PATH` if it can't be replaced by a file. Returns `None` for a file, or if it is unknown.
pub(super) fn of(path: &Path) -> Option<Destination> {
    if path == Path::new("-") {
        return Some(STDOUT);
    }
    match gantry_client::part::destination(path) {
        Ok(stream @ (Destination::Special(_) | Destination::Descriptor(_))) => Some(stream),
        Ok(Destination::File(_)) | Err(_) => None,
    }
}

/// Returns whether the bytes go to stdout, so that nothing else may be printed there.
pub(super) fn is_stdout(stream: &Destination) -> bool {
    match stream {
        Destination::Descriptor(number) => is_same_file(*number, 1),
        Destination::File(_) | Destination::Special(_) => false,
    }
}

/// Returns whether the bytes go to stderr.
pub(super) fn is_stderr(stream: &Destination) -> bool {
    *stream == STDERR
}

fn is_same_file(one: i32, other: i32) -> bool {
    let file = |number: i32| fs::metadata(format!("/proc/self/fd/{number}"));
    one == other
        || matches!((file(one), file(other)), (Ok(one), Ok(other)) if (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Opens a target that is written directly. Opening a FIFO waits for its reader.
pub(super) fn open(stream: &Destination) -> io::Result<File> {
    match stream {
        Destination::File(_) => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        Destination::Descriptor(number) => writable(descriptor(*number)?),
        Destination::Special(path) => {
            let file = File::options().write(true).custom_flags(libc::O_NOCTTY).open(path)?;
            // The path may have been replaced in the meantime.
            if file.metadata()?.is_file() {
                return Err(io::Error::other("was replaced by a regular file"));
            }
            Ok(file)
        }
    }
}

/// Returns a copy of one of this process's descriptors, which shares its file position.
fn descriptor(number: i32) -> io::Result<OwnedFd> {
    match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        2 => io::stderr().as_fd().try_clone_to_owned(),
        number => inherited(number),
    }
}

#[cfg(target_os = "linux")]
fn inherited(number: i32) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    // This process's own files are closed on exec; inherited ones are not.
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    if flags.is_none_or(|flags| flags & libc::O_CLOEXEC != 0) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }

    // A file that is opened again by its path would have a separate file position.
    let us = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(us, number, PidfdGetfdFlags::empty())?)
}

#[cfg(not(target_os = "linux"))]
fn inherited(_: i32) -> io::Result<OwnedFd> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Rejects a read-only descriptor before anything is downloaded.
fn writable(descriptor: OwnedFd) -> io::Result<File> {
    let mode = rustix::fs::fcntl_getfl(&descriptor)? & rustix::fs::OFlags::ACCMODE;
    if mode == rustix::fs::OFlags::RDONLY {
        return Err(io::Error::other("the descriptor is not open for writing"));
    }
    Ok(descriptor.into())
}
