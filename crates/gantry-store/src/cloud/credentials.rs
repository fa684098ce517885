//! Credentials that are loaded again when a file changes, or when the cloud rejects them.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use object_store::CredentialProvider;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::failure::Failure;
use super::without_credentials;
use crate::Error;
use crate::connections::innermost;
use crate::ranged::{About, Retry};

/// Minimum time between two loads of credentials that are not in a file.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Provides the credentials for a request.
pub(crate) type Source<T> = Arc<dyn CredentialProvider<Credential = T>>;

/// Credentials, and what distinguishes them from others.
pub(crate) struct Loaded<T> {
    pub(crate) source: Source<T>,
    /// The digest of the file from which they were read. Other credentials have none.
    pub(crate) digest: Option<[u8; 32]>,
}

impl<T: fmt::Debug + Send + Sync + 'static> Loaded<T> {
    /// Credentials that are not in a file.
    pub(crate) fn new(source: Source<T>) -> Self {
        Self { source, digest: None }
    }

    /// Credentials from a file with this text.
    pub(crate) fn of_text(source: Source<T>, text: &str) -> Self {
        Self { source, digest: Some(Sha256::digest(text).into()) }
    }
}

type Load<T> = Box<dyn Fn() -> Result<Loaded<T>, Error> + Send + Sync>;

/// The credentials in use. `Debug` does not show them.
pub(crate) struct Credentials<T> {
    load: Load<T>,
    current: RwLock<Current<T>>,
    /// Locked while the credentials are loaded again.
    reloaded: Mutex<Instant>,
}

struct Current<T> {
    loaded: Loaded<T>,
    number: u64,
}

impl<T> fmt::Debug for Credentials<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Credentials<T> {
    /// Loads the credentials for the first time.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) fn new(load: impl Fn() -> Result<Loaded<T>, Error> + Send + Sync + 'static) -> Result<Self, Error> {
        let current = RwLock::new(Current { loaded: load()?, number: 0 });
        Ok(Self { load: Box::new(load), current, reloaded: Mutex::new(Instant::now()) })
    }

    /// Returns the number of the current credentials.
    pub(crate) fn number(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).number
    }

    /// Returns the credentials for a request. A token may have to be requested first.
    ///
    /// # Errors
    /// A failure with [`UnavailableKind::Credentials`](crate::UnavailableKind).
    pub(crate) async fn get(&self, cloud: &str, about: &About) -> Result<Arc<T>, Failure> {
        let source = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).loaded.source);

        source.get_credential().await.map_err(|error| {
            let text = format!("the relay can't obtain credentials for {cloud}");
            let text = about.with_cause(&text, &innermost(&error));
            // The service that issues tokens may be restarting.
            Failure { error: without_credentials(text), retry: Retry::Later }
        })
    }

    /// Loads the credentials again, as [`Cloud::reload`](super::Cloud::reload) describes.
    pub(crate) fn reload(&self, used: u64, only_other: bool) -> Result<bool, Error> {
        let mut reloaded = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        if self.number() != used {
            return Ok(true);
        }

        let fresh = (self.load)()?;
        let digest = self.current.read().unwrap_or_else(PoisonError::into_inner).loaded.digest;
        if digest.is_some() && fresh.digest == digest {
            return Ok(false);
        }
        if digest.is_none() {
            if only_other {
                return Ok(false);
            }
            if used > 0 && reloaded.elapsed() < RELOAD_INTERVAL {
                return Ok(true);
            }
        }

        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { loaded: fresh, number: used + 1 };
        *reloaded = Instant::now();
        Ok(true)
    }
}

/// Reads a file with a secret. Leading and trailing white space is ignored.
///
/// # Errors
/// [`Error::Invalid`] if it can't be read or is empty. The message contains the path.
pub(crate) fn secret_file(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Invalid(format!("{}: can't be read: {error}", path.display())))?;
    match text.trim() {
        "" => Err(Error::Invalid(format!("{}: the file is empty", path.display()))),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;

    use super::*;

    fn of_file(path: std::path::PathBuf) -> impl Fn() -> Result<Loaded<String>, Error> {
        move || {
            let text = secret_file(&path)?;
            Ok(Loaded::of_text(Arc::new(StaticCredentialProvider::new(text.clone())), &text))
        }
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_again_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let about = About::Operator("bucket".to_owned());
        std::fs::write(&path, "old\n").unwrap();
        let credentials = Credentials::new(of_file(path.clone())).unwrap();
        assert_eq!(*credentials.get("a cloud", &about).await.unwrap(), "old");

        assert!(!credentials.reload(0, true).unwrap(), "the file is the same");
        std::fs::write(&path, "new").unwrap();
        assert!(credentials.reload(0, true).unwrap());
        assert_eq!(*credentials.get("a cloud", &about).await.unwrap(), "new");
        assert!(credentials.reload(0, true).unwrap(), "another request has reloaded it");
        assert_eq!(credentials.number(), 1);

        std::fs::write(&path, " ").unwrap();
        assert!(matches!(credentials.reload(1, true), Err(Error::Invalid(_))));
        assert_eq!(*credentials.get("a cloud", &about).await.unwrap(), "new");
    }
}
