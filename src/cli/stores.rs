//! From configuration to stores.

use std::fs;
use std::sync::Arc;

use super::exit::{Exit, Failure};
use crate::config::{self, Config, Place, S3, S3Keys};
use gantry_proto::StoreName;
use gantry_relay::Stores;
use gantry_relay::metrics::S3Metrics;
use gantry_store::budget::Budget;
use gantry_store::file::{self, FileStore};
use gantry_store::s3::{self, S3Store};
use gantry_store::{self as store, Store};

/// Why a store could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// A key's file is unusable; the failure names the key.
    Key(Failure),
    /// The store itself says so.
    Store(store::Error),
}

/// Opens every store of the configuration; their read-ahead shares `budget`, their requests are counted in `metrics`. No request is sent to S3.
pub(super) async fn open(config: &Config, budget: &Budget, metrics: &S3Metrics) -> Result<Stores, Failure> {
    let mut stores = Stores::new();
    for (name, store) in &config.stores {
        let opened = open_one(name, store, budget, metrics).await.map_err(|error| match error {
            OpenError::Key(failure) => failure,
            OpenError::Store(error) => failure(name, &error),
        })?;
        stores.insert(name.clone(), opened);
    }
    Ok(stores)
}

/// Opens one store.
pub(super) async fn open_one(
    name: &StoreName,
    config: &config::Store,
    budget: &Budget,
    metrics: &S3Metrics,
) -> Result<Arc<dyn Store>, OpenError> {
    match &config.place {
        Place::File { dir } => {
            let options = file::Options::new(dir);
            Ok(Arc::new(FileStore::new(&options, budget.clone()).map_err(OpenError::Store)?))
        }
        Place::S3 { bucket, prefix } => {
            let options = s3_options(name, bucket, prefix, &config.s3).map_err(OpenError::Key)?;
            let options = s3::Options { observer: Arc::new(metrics.of_store(name.as_str())), ..options };
            Ok(Arc::new(S3Store::connect(options, budget.clone()).await.map_err(OpenError::Store)?))
        }
    }
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
        Some(keys) => s3::Credentials::Files(key_files(name, keys)?),
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

/// Looks into the files, so that what is wrong with them is told by the names of their keys.
fn key_files(name: &StoreName, keys: &S3Keys) -> Result<s3::KeyFiles, Failure> {
    let named = [
        ("access_key_id_file", Some(&keys.access_key_id)),
        ("secret_access_key_file", Some(&keys.secret_access_key)),
        ("session_token_file", keys.session_token.as_ref()),
    ];
    for (key, path) in named {
        let Some(path) = path else { continue };
        let problem = match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => "the file is empty".to_owned(),
            Ok(_) => continue,
            Err(error) => format!("can't be read: {error}"),
        };
        return Err(Failure::usage(format!("`stores.{name}.{key}` = {path:?}: {problem}")));
    }
    Ok(s3::KeyFiles {
        access_key_id: keys.access_key_id.clone(),
        secret_access_key: keys.secret_access_key.clone(),
        session_token: keys.session_token.clone(),
    })
}
