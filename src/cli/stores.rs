//! From configuration to stores.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::exit::{Exit, Failure};
use crate::config::{Config, Place, S3, S3Keys};
use crate::metrics::S3Metrics;
use crate::proto::StoreName;
use crate::relay::Stores;
use crate::store::budget::Budget;
use crate::store::file::{self, FileStore};
use crate::store::s3::{self, S3Store};
use crate::store::{self, Store};

/// Opens every store of the configuration; their read-ahead shares `budget`, their requests are counted in `metrics`. No request is sent to S3.
pub(super) async fn open(config: &Config, budget: &Budget, metrics: &S3Metrics) -> Result<Stores, Failure> {
    let mut stores = Stores::new();
    for (name, store) in &config.stores {
        let opened: Arc<dyn Store> = match &store.place {
            Place::File { dir } => {
                let options = file::Options::new(dir);
                Arc::new(FileStore::new(&options, budget.clone()).map_err(|error| failure(name, &error))?)
            }
            Place::S3 { bucket, prefix } => {
                let options = s3_options(name, bucket, prefix, &store.s3)?;
                let options = s3::Options { observer: metrics.of_store(name.as_str()), ..options };
                Arc::new(S3Store::connect(options, budget.clone()).await.map_err(|error| failure(name, &error))?)
            }
        };
        stores.insert(name.clone(), opened);
    }
    Ok(stores)
}

fn failure(name: &StoreName, error: &store::Error) -> Failure {
    let exit = match error {
        store::Error::Unavailable { .. } | store::Error::Protocol(_) => Exit::GaveUp,
        store::Error::NotFound(_) => Exit::NotFound,
        store::Error::Denied(_) => Exit::Denied,
        store::Error::Changed(_) | store::Error::Range { .. } | store::Error::Invalid(_) => Exit::Usage,
    };
    Failure::new(exit, format!("`stores.{name}`: {error}"))
}

fn s3_options(name: &StoreName, bucket: &str, prefix: &str, s3: &S3) -> Result<s3::Options, Failure> {
    let own_endpoint = s3.endpoint_url.is_some()
        || ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let credentials = match &s3.keys {
        Some(keys) => s3::Credentials::Static(static_credentials(name, keys)?),
        None => s3::Credentials::Chain,
    };
    Ok(s3::Options {
        prefix: prefix.to_owned(),
        endpoint_url: s3.endpoint_url.clone(),
        region: s3.region.clone(),
        // Few servers but AWS's own have a DNS name for every bucket.
        path_style: s3.path_style.unwrap_or(own_endpoint),
        profile: s3.profile.clone(),
        credentials,
        limits: s3::Limits {
            range_bytes: s3.range_bytes,
            concurrency_max: s3.concurrency_max,
            ..s3::Limits::default()
        },
        ..s3::Options::new(bucket)
    })
}

fn static_credentials(name: &StoreName, keys: &S3Keys) -> Result<s3::StaticCredentials, Failure> {
    let read = |key: &str, path: &Path| {
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("`stores.{name}.{key}` = {path:?}: can't be read: {error}")))?;
        match text.trim() {
            "" => Err(Failure::usage(format!("`stores.{name}.{key}` = {path:?}: the file is empty"))),
            text => Ok(text.to_owned()),
        }
    };
    Ok(s3::StaticCredentials {
        access_key_id: read("access_key_id_file", &keys.access_key_id)?,
        secret_access_key: read("secret_access_key_file", &keys.secret_access_key)?,
        session_token: keys.session_token.as_deref().map(|path| read("session_token_file", path)).transpose()?,
    })
}
