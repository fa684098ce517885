//! The served directory. It may be replaced while it is served.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use crate::Error;

/// The served directory. It is kept open, and is opened again once its path leads to another directory.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    opened: Mutex<Opened>,
}

#[derive(Clone, Debug)]
struct Opened {
    dir: Arc<Dir>,
    identity: Identity,
}

/// Identifies a directory. While a directory is open, no other one can have its inode number.
type Identity = (u64, u64);

impl Root {
    /// Opens the directory.
    ///
    /// # Errors
    /// If it can't be opened or is not a directory.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let opened = Mutex::new(Opened::at(&path)?);
        Ok(Self { path, opened })
    }

    /// Returns the directory that the path leads to now. This may block.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the directory is missing. An operator may be about to replace it.
    pub(super) fn current(&self) -> Result<Arc<Dir>, Error> {
        self.find().map_err(|error| Error::unavailable(format!("the served directory can't be opened: {error}")))
    }

    fn find(&self) -> io::Result<Arc<Dir>> {
        let found = std::fs::metadata(&self.path)?;
        let known = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if (found.dev(), found.ino()) == known.identity {
            return Ok(known.dir);
        }

        // Opening may block, so the lock is not held. If several threads open the directory, the last one counts.
        let opened = Opened::at(&self.path)?;
        let dir = Arc::clone(&opened.dir);
        tracing::info!("the served directory was replaced: serving the new one");
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(dir)
    }
}

impl Opened {
    fn at(path: &PathBuf) -> io::Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        let metadata = dir.dir_metadata()?;
        let identity = (cap_std::fs::MetadataExt::dev(&metadata), cap_std::fs::MetadataExt::ino(&metadata));
        Ok(Self { dir: Arc::new(dir), identity })
    }
}
