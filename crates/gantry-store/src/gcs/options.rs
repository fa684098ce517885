//! Options of a [`GcsStore`](super::GcsStore).

use std::path::PathBuf;
use std::sync::Arc;

pub use crate::ranged::Limits;
use crate::{Observer, Unobserved};

/// A bucket, a prefix in it, and how to reach it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bucket's name.
    pub bucket: String,
    /// Prepended to every key, verbatim. With a prefix `a`, the key `b` means the object `ab`.
    pub prefix: String,
    /// The address of the server, an `http://` or `https://` URL. `None` is Google's.
    pub endpoint_url: Option<String>,
    /// A PEM file of the certificate authorities to trust instead of the system's. Services that issue tokens are not
    /// affected.
    pub tls_ca_file: Option<PathBuf>,
    /// The credentials of requests.
    pub credentials: Credentials,
    /// The project that pays for requests, which buckets with "requester pays" demand.
    pub billing_project: Option<String>,
    /// Limits on time and concurrency.
    pub limits: Limits,
    /// Receives reports about the requests.
    pub observer: Observer,
}

impl Options {
    /// Creates the options for a bucket of Google's, with application default credentials and the default limits.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint_url: None,
            tls_ca_file: None,
            credentials: Credentials::Default,
            billing_project: None,
            limits: Limits::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

/// The source of the credentials.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Google's application default credentials: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, the file of the
    /// `gcloud` command, or the metadata server, which also serves the workload identities of GKE.
    #[default]
    Default,
    /// A file with the key of a service account, or with the credentials of a user. It is read again if Google rejects
    /// them.
    File(PathBuf),
    /// Requests have no credentials.
    Anonymous,
}
