//! Options of an [`AzureStore`](super::AzureStore).

use std::path::PathBuf;
use std::sync::Arc;

pub use crate::ranged::Limits;
use crate::{Observer, Unobserved};

/// A container, a prefix in it, and how to reach it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the storage account.
    pub account: String,
    /// The container's name.
    pub container: String,
    /// Prepended to every key, verbatim. With a prefix `a`, the key `b` means the blob `ab`.
    pub prefix: String,
    /// The address of the account, an `http://` or `https://` URL. `None` is its address in Azure's public cloud.
    pub endpoint_url: Option<String>,
    /// A PEM file of the certificate authorities to trust instead of the system's. Services that issue tokens are not
    /// affected.
    pub tls_ca_file: Option<PathBuf>,
    /// The credentials of requests.
    pub credentials: Credentials,
    /// Limits on time and concurrency.
    pub limits: Limits,
    /// Receives reports about the requests.
    pub observer: Observer,
}

impl Options {
    /// Creates the options for a container of Azure's public cloud, with the credentials of the environment and the
    /// default limits.
    #[must_use]
    pub fn new(account: impl Into<String>, container: impl Into<String>) -> Self {
        Self {
            account: account.into(),
            container: container.into(),
            prefix: String::new(),
            endpoint_url: None,
            tls_ca_file: None,
            credentials: Credentials::Environment,
            limits: Limits::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

/// The source of the credentials. Files are read again if Azure rejects the credentials from them.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// The first of these that the environment has: an account key (`AZURE_STORAGE_KEY`), a SAS
    /// (`AZURE_STORAGE_SAS_TOKEN`), a workload identity (`AZURE_FEDERATED_TOKEN_FILE`), a client secret
    /// (`AZURE_CLIENT_SECRET`), or a managed identity.
    #[default]
    Environment,
    /// A file with a key of the account.
    AccountKey(PathBuf),
    /// A file with a shared access signature.
    Sas(PathBuf),
    /// An application with a secret. The tenant and the client are those of the environment if they are `None`.
    ClientSecret {
        /// The id of the tenant.
        tenant: Option<String>,
        /// The id of the application.
        client: Option<String>,
        /// A file with the secret.
        secret: PathBuf,
    },
    /// A federated token, as in Kubernetes. The tenant and the client are those of the environment if they are `None`.
    WorkloadIdentity {
        /// The id of the tenant.
        tenant: Option<String>,
        /// The id of the application.
        client: Option<String>,
        /// A file with the token, which is read for each request of an access token.
        token: PathBuf,
    },
    /// The managed identity of the machine.
    ManagedIdentity {
        /// The id of the identity, if the machine has several.
        client: Option<String>,
    },
    /// The account of the command `az`.
    Cli,
    /// Requests have no credentials.
    Anonymous,
}
