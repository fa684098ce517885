//! Making a part file's bytes durable beside the writing of more.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::Error;
use super::claim::{Claim, tolerate_unsynced};
use super::record::{Mark, Record};

/// A checkpoint that runs.
#[derive(Debug)]
pub(super) struct Checkpoint {
    thread: JoinHandle<Result<(Record, Mark), Lapse>>,
    part: PathBuf,
}

/// Why a checkpoint was not made.
#[derive(Debug)]
pub(super) enum Lapse {
    /// The bytes may not be on the disk.
    Unsynced(Error),
    /// They are, but the record does not say so.
    Unrecorded(Error),
}

impl Checkpoint {
    /// Makes the bytes that `mark` counts durable, then records it, on a thread of its own.
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

    /// Waits for its end.
    pub(super) fn finish(self) -> Result<(Record, Mark), Lapse> {
        self.thread.join().unwrap_or_else(|_| {
            let source = io::Error::other("the thread that makes it durable panicked");
            Err(Lapse::Unsynced(Error::io(&self.part, source)))
        })
    }
}

fn make(file: &File, mut record: Record, mark: Mark, part: &Path, sidecar: &Path) -> Result<(Record, Mark), Lapse> {
    tolerate_unsynced(file.sync_data()).map_err(|source| Lapse::Unsynced(Error::io(part, source)))?;
    record.checkpoint(mark).map_err(|source| Lapse::Unrecorded(Error::io(sidecar, source)))?;
    Ok((record, mark))
}
