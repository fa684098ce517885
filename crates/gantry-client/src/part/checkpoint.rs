//! Makes a part file's bytes durable while more bytes are written.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::Error;
use super::claim::{Claim, tolerate_unsynced};
use super::record::{Mark, Record};

/// A running checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint {
    thread: JoinHandle<Result<(Record, Mark), Lapse>>,
    part: PathBuf,
}

/// Why a checkpoint failed.
#[derive(Debug)]
pub(super) enum Lapse {
    /// The bytes may not be on the disk.
    Unsynced(Error),
    /// The bytes are on the disk, but the record does not state it.
    Unrecorded(Error),
}

impl Checkpoint {
    /// Makes the bytes that `mark` counts durable, and then records the mark, on a separate thread.
    pub(super) fn start(claim: &Claim, record: &Record, mark: Mark) -> Result<Self, Error> {
        let (part, sidecar) = (claim.names.part.clone(), claim.names.sidecar.clone());
        let cloned = claim.file.try_clone().and_then(|file| Ok((file, record.try_clone()?)));
        let (file, record) = cloned.map_err(|source| Error::io(&part, source))?;
        let path = part.clone();

        let work = move || make(&file, record, mark, &path, &sidecar);
        let thread = std::thread::Builder::new().name("gantry-part".to_owned()).spawn(work);
        let thread = thread.map_err(|source| Error::io(&part, source))?;
        Ok(Self { thread, part })
    }

    pub(super) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the checkpoint is done.
    pub(super) fn finish(self) -> Result<(Record, Mark), Lapse> {
        self.thread.join().unwrap_or_else(|_| {
            let source = io::Error::other("the checkpoint's thread panicked");
            Err(Lapse::Unsynced(Error::io(&self.part, source)))
        })
    }
}

fn make(file: &File, mut record: Record, mark: Mark, part: &Path, sidecar: &Path) -> Result<(Record, Mark), Lapse> {
    tolerate_unsynced(file.sync_data()).map_err(|source| Lapse::Unsynced(Error::io(part, source)))?;
    record.checkpoint(mark).map_err(|source| Lapse::Unrecorded(Error::io(sidecar, source)))?;
    Ok((record, mark))
}
