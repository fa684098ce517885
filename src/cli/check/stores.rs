//! Checks whether the stores answer, and what the relay is permitted to do there.

use std::time::Duration;

use tokio::time::timeout;

use super::super::stores;
use super::{clouds, find, named};
use crate::config::{Config, Effective, Store as StoreConfig, Uplink};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, StoreName};
use gantry_relay::metrics::S3Metrics;
use gantry_store::{Error, Store, UnavailableKind};

/// The time limit for a store to answer. It is longer than the retries of the S3 client, whose error has the reason.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn check(config: &Config, name: &StoreName, effective: &[Effective]) -> Result<String, String> {
    let Some(store) = config.stores.get(name) else { return Ok("not served".to_owned()) };
    let tested = async {
        let opened = stores::open_one(name, store, &config.relay.budget, &S3Metrics::default()).await?;
        let probed = timeout(PROBE_TIMEOUT, opened.probe()).await;
        probed.unwrap_or_else(|_| Err(Error::unavailable("no answer")))?;

        match store {
            StoreConfig::S3(_) | StoreConfig::Gcs(_) | StoreConfig::Azure(_) => rights(&*opened).await,
            StoreConfig::Nats(uplink) => relays(&*opened, uplink).await,
            StoreConfig::File(_) => Ok("answers".to_owned()),
        }
    };

    tested.await.map_err(|error| match store {
        StoreConfig::S3(_) => blamed_in_s3(&error, name, effective),
        StoreConfig::Gcs(_) => clouds::blamed(&clouds::GCS, &error, name, effective),
        StoreConfig::Azure(_) => clouds::blamed(&clouds::AZURE, &error, name, effective),
        StoreConfig::Nats(uplink) => blamed_on_uplink(&error, uplink, name, effective),
        StoreConfig::File(_) => {
            let cure = stores::DIRECTORY_CURE;
            format!("{}: {error}: {cure}", named(effective, &format!("stores.{name}.url")))
        }
    })
}

/// Checks whether an upstream relay serves the store, which need not permit listing.
async fn relays(store: &dyn Store, uplink: &Uplink) -> Result<String, Error> {
    let first = ListRequest { limit: Some(1), ..ListRequest::default() };
    match store.list(&first).await {
        Ok(_) | Err(Error::Denied(_)) => Ok(format!("an upstream relay serves {}", uplink.store)),
        Err(error) => Err(error),
    }
}

/// Names the address of the upstream server, and what to do.
fn blamed_on_uplink(error: &Error, uplink: &Uplink, name: &StoreName, effective: &[Effective]) -> String {
    let server = named(effective, &format!("stores.{name}.nats.url"));
    let cure = if matches!(error, Error::Protocol(_)) {
        "let the upstream relays read their stores, and not those of this relay".to_owned()
    } else {
        format!(
            "start the upstream nats-server and a relay that serves {} there, or correct the address, the credentials or \
             `stores.{name}.nats.prefix`",
            uplink.store
        )
    };
    format!("{server}: {error}: {cure}")
}

/// Number of objects whose descriptions are requested, until one shows whether the relay may read.
const SAMPLE: u32 = 5;

/// Reports what the credentials permit, as far as this can be tested without knowing a key.
async fn rights(store: &dyn Store) -> Result<String, Error> {
    let first = ListRequest { recursive: true, limit: Some(SAMPLE), ..ListRequest::default() };
    match store.list(&first).await {
        Ok(page) => may_read(store, &page).await,
        Err(Error::Denied(_)) => {
            Ok("answers, but the relay may not list: missing keys will be reported as denied; reading was not tested"
                .to_owned())
        }
        Err(error) => Err(error),
    }
}

/// Reports whether the relay may read the objects of a page, as far as the first ones show.
async fn may_read(store: &dyn Store, page: &ListPage) -> Result<String, Error> {
    let untested = |reason: &str| Ok(format!("answers; the relay may list; reading was not tested{reason}"));
    if page.entries.is_empty() {
        let is_all = page.next.is_none();
        return untested(if is_all { ", there is no object" } else { ", the first page has no object" });
    }

    let mut has_archived = false;
    for entry in &page.entries {
        match stat(store, &entry.key).await {
            Ok(_) => return Ok("answers; the relay may list and read".to_owned()),
            Err(Error::Denied(text)) => return Err(Error::Denied(format!("may list, but not read: {text}"))),
            Err(Error::Archived(_)) => has_archived = true,
            // It was deleted in the meantime.
            Err(Error::NotFound(_)) => {}
            Err(_) => return untested(""),
        }
    }
    untested(if has_archived { ", the first objects are archived" } else { "" })
}

async fn stat(store: &dyn Store, key: &str) -> Result<ObjectInfo, Error> {
    let key = Key::try_from(key.to_owned()).map_err(|error| Error::Invalid(error.to_string()))?;
    store.stat(&key, &Pin::default()).await
}

/// Names the key that explains an error of S3, and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors have the same cure")]
fn blamed_in_s3(error: &Error, name: &StoreName, effective: &[Effective]) -> String {
    let url = || named(effective, &format!("stores.{name}.url"));
    let endpoint = || named(effective, &format!("stores.{name}.endpoint_url"));

    let (key, cure) = match error {
        Error::Unavailable { kind: UnavailableKind::Credentials, .. } => {
            return without_credentials(error, name, effective);
        }
        Error::Unavailable { kind: UnavailableKind::UnsupportedProfile, .. } => (
            credentials(name, effective),
            "let the profile use `credential_process = aws configure export-credentials --profile OTHER --format process`",
        ),
        Error::Unavailable { kind: UnavailableKind::TlsNotOffered, .. } => {
            (endpoint(), "use http://, the server does not use TLS")
        }
        Error::Unavailable { kind: UnavailableKind::UnknownAuthority, .. } => (
            named(effective, &format!("stores.{name}.tls_ca_file")),
            "name a PEM file of the authority that issued the server's certificate",
        ),
        Error::Unavailable { kind: UnavailableKind::Clock, .. } => (url(), "correct the clock"),
        Error::Unavailable { kind: UnavailableKind::UnusableAuthorities, .. } => {
            (named(effective, &format!("stores.{name}.tls_ca_file")), "correct the file, or name another")
        }
        Error::Unavailable { kind: UnavailableKind::InvalidCertificate, .. } => {
            (endpoint(), "use the host name of the server's certificate, or renew the certificate")
        }
        Error::Unavailable { kind: UnavailableKind::Other, .. } | Error::Protocol(_) => {
            (endpoint(), "start the S3 server, or correct the address")
        }
        Error::Denied(_) if is_anonymous(name, effective) => {
            (named(effective, &anonymous(name)), "give the relay credentials, the bucket is not public")
        }
        Error::Denied(_) => (
            credentials(name, effective),
            "check these credentials and their permissions (deploy/iam/policy.json), and set `requester_pays` if the \
             bucket demands it",
        ),
        Error::NotFound(_) | Error::NoBucket(_) => {
            (url(), "create the bucket, or correct its name or the server's address")
        }
        _ => (url(), "correct the address, the region or the endpoint"),
    };
    format!("{key}: {error}: {cure}")
}

/// Names the key for the missing credentials, and what to do.
fn without_credentials(error: &Error, name: &StoreName, effective: &[Effective]) -> String {
    let profile = format!("stores.{name}.profile");
    if find(effective, &profile).is_some() {
        // The SDK's message describes the last place that it tried, which is not the profile.
        let key = named(effective, &profile);
        return format!("{key}: the profile does not exist, or has no credentials: correct the name or the profile");
    }
    let cure = "give the relay valid credentials, or set `anonymous` if the bucket is public";
    format!("{}: {error}: {cure}", credentials(name, effective))
}

fn anonymous(name: &StoreName) -> String {
    format!("stores.{name}.anonymous")
}

fn is_anonymous(name: &StoreName, effective: &[Effective]) -> bool {
    find(effective, &anonymous(name)).is_some_and(|line| line.value == "true")
}

fn credentials(name: &StoreName, effective: &[Effective]) -> String {
    let own = ["access_key_id_file", "profile"].map(|key| format!("stores.{name}.{key}"));
    if let Some(key) = own.iter().find(|key| find(effective, key).is_some()) {
        return named(effective, key);
    }
    let variable = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let source = variable.unwrap_or("AWS's default credential chain");
    format!("`{}` is not set, the credentials come from {source}", own[0])
}
