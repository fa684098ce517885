//! Makes files durable in batches, and moves them to their places.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gantry_proto::{Key, StoreName};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::folder::{Blocked, Failed, Folder, Present, look_at};
use super::name::RelativePath;
use super::report::{Event, LeftOut, Reporter};
use super::stage::Stage;
use crate::error::Error;
use crate::part;
use crate::verify::Proof;

/// A batch is made durable once it has this many files, or once [`BATCH_INTERVAL`] has passed since its first file.
pub(super) const BATCH_FILES_MAX: usize = 1000;
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// A complete and verified file that is not in its place yet.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) store: StoreName,
    pub(super) key: Key,
    /// The name in the stage.
    pub(super) name: String,
    pub(super) path: RelativePath,
    pub(super) bytes: u64,
    pub(super) proof: Option<Proof>,
    pub(super) replaced: bool,
}

/// Moves files to their places.
#[derive(Clone, Debug)]
pub(super) struct Committer {
    pub(super) folder: Arc<Folder>,
    pub(super) stage: Arc<Stage>,
    pub(super) reporter: Reporter,
}

impl Committer {
    /// Commits files until the channel is closed. On return everything is durable.
    pub(super) async fn run(self, mut staged: mpsc::Receiver<Staged>) -> Result<(), Error> {
        loop {
            let batch = next_batch(&mut staged).await;
            if batch.is_empty() {
                break;
            }
            let committer = self.clone();
            blocking(move || committer.commit(batch)).await?;
        }

        blocking(move || self.stage.sync_names().map_err(|error| self.failed(error))).await
    }

    fn commit(&self, batch: Vec<Staged>) -> Result<(), Error> {
        if let Err(error) = self.stage.sync_files(batch.iter().map(|file| file.name.as_str())) {
            // The files' bytes may be lost, so the next download must not use them.
            for file in &batch {
                drop(self.stage.remove(&file.name));
            }
            return Err(self.failed(error));
        }

        let mut folders = HashMap::new();
        for file in batch {
            let outcome = self.publish(&file, &mut folders);
            let Staged { store, key, name, path, bytes, proof, replaced } = file;
            let event = match outcome {
                Ok(()) => Event::Fetched { store, key, path: path.as_str().to_owned(), bytes, proof, replaced },
                Err(Failed::Blocked(why)) => Event::LeftOut { store, key, why: LeftOut::Blocked(why) },
                Err(Failed::Missing) => {
                    let error = part::Error::NoFolder(self.folder.path().join(path.as_path()));
                    Event::Failed { store, key, error: error.into() }
                }
                Err(Failed::Io(error)) => Event::Failed { store, key, error: self.folder.failed(&path, error) },
            };
            if !matches!(event, Event::Fetched { .. }) {
                drop(self.stage.remove(&name));
            }
            self.reporter.report(event);
        }

        self.stage.sync_folders(folders.values().map(|folder| &**folder)).map_err(|error| self.failed(error))
    }

    /// Moves a file to its place, unless something is in the way there.
    fn publish(&self, file: &Staged, folders: &mut HashMap<String, Arc<OwnedFd>>) -> Result<(), Failed> {
        let (parent, name) = file.path.split();
        let folder = self.folder.folder(parent, true)?;
        match look_at(&*folder, name, &file.path).map_err(Failed::Io)? {
            Present::Nothing | Present::File(_) => {}
            Present::Folder => return Err(Failed::Blocked(Blocked::Folder(file.path.as_str().to_owned()))),
            Present::Blocked(blocked) => return Err(Failed::Blocked(blocked)),
        }

        self.stage.publish(&file.name, &folder, name).map_err(Failed::Io)?;
        folders.insert(parent.to_owned(), folder);
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        part::Error::io(self.folder.path(), error).into()
    }
}

/// Collects files until the batch is full or its time has passed. Returns an empty batch once the channel is closed.
async fn next_batch(staged: &mut mpsc::Receiver<Staged>) -> Vec<Staged> {
    let mut batch = Vec::new();
    if staged.recv_many(&mut batch, BATCH_FILES_MAX).await == 0 {
        return batch;
    }

    let until = Instant::now() + BATCH_INTERVAL;
    while batch.len() < BATCH_FILES_MAX {
        let room = BATCH_FILES_MAX - batch.len();
        match timeout_at(until, staged.recv_many(&mut batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    batch
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.unwrap_or(Err(Error::Cancelled))
}
