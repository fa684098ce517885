//! Options of an [`S3Store`](super::S3Store).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::ranged::Limits;
use crate::{Error, Observer, Unobserved, secret_text};

/// A bucket, a prefix in it, and how to reach it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bucket's name.
    pub bucket: String,
    /// Prepended to every key, verbatim. With a prefix `a`, the key `b` means the object `ab`.
    pub prefix: String,
    /// The address of S3, an `http://` or `https://` URL. `None` is the one of the environment or the profile, or AWS.
    pub endpoint_url: Option<String>,
    /// The region. `None` is the one of the environment or the profile, or `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket's name is part of the path instead of the host name. `None` means only with an endpoint: apart
    /// from AWS's own, few servers have a DNS name for every bucket.
    pub path_style: Option<bool>,
    /// A PEM file of the certificate authorities to trust instead of the system's. `None` is the one that `AWS_CA_BUNDLE`
    /// names, or the system's. Services that issue credentials are not affected.
    pub tls_ca_file: Option<PathBuf>,
    /// The profile of the shared configuration files. `None` is the one of the environment.
    pub profile: Option<String>,
    /// The credentials that sign requests.
    pub credentials: Credentials,
    /// Whether requests accept to be billed for, which buckets with "requester pays" demand.
    pub requester_pays: bool,
    /// Limits on time and concurrency.
    pub limits: Limits,
    /// Receives reports about the requests.
    pub observer: Observer,
}

impl Options {
    /// Creates the options for a bucket of AWS, with the default credential chain and limits.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint_url: None,
            region: None,
            path_style: None,
            tls_ca_file: None,
            profile: None,
            credentials: Credentials::Chain,
            requester_pays: false,
            limits: Limits::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

/// The source of the credentials.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// The SDK's default chain: environment, profile, web identity, container, instance metadata.
    #[default]
    Chain,
    /// These keys.
    Static(StaticCredentials),
    /// The keys in these files, which are read again if S3 rejects the previous ones.
    Files(KeyFiles),
    /// Requests are not signed.
    Anonymous,
}

/// Files that contain an access key. White space, a byte order mark and quotes around the text are ignored.
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
    /// Reads the key that the files contain now.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a file can't be read or is empty. Retryable only after the file was corrected.
    pub fn read(&self) -> Result<StaticCredentials, Error> {
        let read = |path: &Path| {
            let text = secret_text::read(path).map_err(|error| {
                Error::Invalid(format!("{}: {}", path.display(), secret_text::unreadable(path, &error)))
            })?;
            match secret_text::trimmed(&text) {
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

/// An access key. `Debug` does not show its secrets.
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
