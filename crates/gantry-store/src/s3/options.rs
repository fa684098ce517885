//! What an [`S3Store`](super::S3Store) reads, and how.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

pub use crate::ranged::Limits;
use crate::{Error, Observer, Unobserved};

/// A bucket, a prefix in it, and how to reach it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bucket's name.
    pub bucket: String,
    /// What is put in front of every key, verbatim: with a prefix `a` the key `b` means the object `ab`.
    pub prefix: String,
    /// Where S3 is, as `http://` or `https://` URL; `None` for AWS, or what the environment or profile says.
    pub endpoint_url: Option<String>,
    /// The region; `None` for what the environment or profile says, and `us-east-1` when they say nothing.
    pub region: Option<String>,
    /// Puts the bucket's name into the path rather than into the host's name.
    pub path_style: bool,
    /// The profile of the shared configuration files; `None` for the environment's choice.
    pub profile: Option<String>,
    /// How requests are signed.
    pub credentials: Credentials,
    /// Bounds on time and concurrency.
    pub limits: Limits,
    /// Counts the requests.
    pub observer: Observer,
}

impl Options {
    /// Reads a bucket of AWS with the default credential chain and limits.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint_url: None,
            region: None,
            path_style: false,
            profile: None,
            credentials: Credentials::Chain,
            limits: Limits::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

/// Where the credentials come from.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// The SDK's default chain: environment, profile, web identity, container, instance metadata.
    #[default]
    Chain,
    /// These keys.
    Static(StaticCredentials),
    /// The keys in these files, read again when S3 refuses the ones that were in them.
    Files(KeyFiles),
    /// Requests are not signed.
    Anonymous,
}

/// The files that hold an access key. White space around it does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// The key's id.
    pub access_key_id: PathBuf,
    /// The key's secret.
    pub secret_access_key: PathBuf,
    /// The token of a temporary key.
    pub session_token: Option<PathBuf>,
}

impl KeyFiles {
    /// Reads the key that they hold now.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a file can't be read or is empty.
    pub fn read(&self) -> Result<StaticCredentials, Error> {
        let read = |path: &Path| {
            let text = fs::read_to_string(path)
                .map_err(|error| Error::Invalid(format!("{}: can't be read: {error}", path.display())))?;
            match text.trim() {
                "" => Err(Error::Invalid(format!("{}: the file is empty", path.display()))),
                text => Ok(text.to_owned()),
            }
        };
        Ok(StaticCredentials {
            access_key_id: read(&self.access_key_id)?,
            secret_access_key: read(&self.secret_access_key)?,
            session_token: self.session_token.as_deref().map(read).transpose()?,
        })
    }
}

/// An access key. Its secrets are not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticCredentials {
    /// The key's id.
    pub access_key_id: String,
    /// The key's secret.
    pub secret_access_key: String,
    /// The token of a temporary key.
    pub session_token: Option<String>,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCredentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}
