//! Checks whether the stores answer, and what the relay is permitted to do there.

use std::time::Duration;

use tokio::time::timeout;

use super::super::stores;
#[cfg(any(feature = "azure", feature = "gcs"))]
use super::clouds;
use super::{named, s3};
use crate::config::{Config, Effective, Store as StoreConfig, Uplink};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, StoreName};
use gantry_relay::metrics::S3Metrics;
use gantry_store::{Error, Store};

/// The time limit for a store to answer. It is longer than the retries of the S3 client, whose error has the reason.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn check(config: &Config, name: &StoreName, effective: &[Effective]) -> Result<String, String> {
    let Some(store) = config.stores.get(name) else { return Ok("not served".to_owned()) };
    let tested = async {
        let opened = stores::open_one(name, store, &config.relay.budget, &S3Metrics::default()).await?;
        let probed = timeout(PROBE_TIMEOUT, opened.probe()).await;
        probed.unwrap_or_else(|_| Err(Error::unavailable("no answer")))?;

        match store {
            StoreConfig::Nats(uplink) => relays(&*opened, uplink).await,
            StoreConfig::File(_) => Ok("answers".to_owned()),
            StoreConfig::S3(_) => rights(&*opened, &s3::to_list(name, effective), |_| false).await,
            #[cfg(feature = "gcs")]
            StoreConfig::Gcs(_) => {
                let forbids_reading = |refusal: &str| clouds::forbids_reading(refusal, name, effective);
                rights(&*opened, &clouds::GCS.to_list(name, effective), forbids_reading).await
            }
            #[cfg(feature = "azure")]
            StoreConfig::Azure(_) => rights(&*opened, &clouds::AZURE.to_list(name, effective), |_| true).await,
        }
    };

    tested.await.map_err(|error| explained(store, &error, name, effective))
}

/// Names the key that explains an error of a store, and what to do.
pub(in super::super) fn explained(
    store: &StoreConfig,
    error: &Error,
    name: &StoreName,
    effective: &[Effective],
) -> String {
    match store {
        StoreConfig::S3(_) => s3::blamed(error, name, effective),
        #[cfg(feature = "gcs")]
        StoreConfig::Gcs(_) => clouds::blamed(&clouds::GCS, error, name, effective),
        #[cfg(feature = "azure")]
        StoreConfig::Azure(_) => clouds::blamed(&clouds::AZURE, error, name, effective),
        StoreConfig::Nats(uplink) => blamed_on_uplink(error, uplink, name, effective),
        StoreConfig::File(_) => {
            let cure = stores::DIRECTORY_CURE;
            format!("{}: {error}: {cure}", named(effective, &format!("stores.{name}.url")))
        }
    }
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

/// A key that is requested if no key is known. Hardly any store has it.
const ABSENT: &str = "gantry-check/absent";

/// Reports what the credentials permit, as far as this can be tested without knowing a key. `to_list` describes how to
/// permit listing. `forbids_reading` returns whether the refusal of a request for a missing object means that the relay may
/// not read. Some stores also refuse it to those who may read, but not list.
///
/// # Errors
/// That of a request that is refused, or not answered.
async fn rights(store: &dyn Store, to_list: &str, forbids_reading: impl Fn(&str) -> bool) -> Result<String, Error> {
    let denied = match store.list(&first_page()).await {
        Ok(page) => return may_read(store, &page).await,
        Err(Error::Denied(text)) => text,
        Err(error) => return Err(error),
    };

    // The message of a listing is for consumers, and lacks what the operator needs.
    let reason = match timeout(PROBE_TIMEOUT, store.probe_listing()).await {
        Ok(Err(Error::Denied(reason))) => reason,
        _ => denied,
    };
    let effect = match stat(store, ABSENT).await {
        Ok(_) | Err(Error::NotFound(_)) => "the relay may read",
        Err(Error::Denied(text)) if forbids_reading(&text) => {
            return Err(Error::Denied(format!("may neither list ({reason}) nor read: {text}")));
        }
        Err(Error::Denied(_)) => "missing keys will be reported as denied; reading was not tested",
        Err(error) => return Err(reading_fails(error)),
    };
    Ok(format!("answers, but the relay may not list: {effect}: {reason}: {to_list}"))
}

/// Reports whether the relay may read the objects of a page, as far as the first ones show.
///
/// # Errors
/// That of a request that is refused, or not answered.
async fn may_read(store: &dyn Store, page: &ListPage) -> Result<String, Error> {
    let untested = |reason: &str| Ok(format!("answers; the relay may list; reading was not tested{reason}"));
    if page.entries.is_empty() {
        let is_all = page.next.is_none();
        return untested(if is_all { ", there is no object" } else { ", the first page has no object" });
    }

    let mut reason = String::new();
    let mut missing = None;
    for entry in &page.entries {
        match stat(store, &entry.key).await {
            Ok(_) => return Ok("answers; the relay may list and read".to_owned()),
            Err(Error::Denied(text)) => return Err(Error::Denied(format!("may list, but not read: {text}"))),
            Err(Error::Archived(_)) => ", the first objects are archived".clone_into(&mut reason),
            Err(Error::NotFound(text)) => missing = Some(text),
            // It is encrypted with a key of the customer, or no URL can name it.
            Err(Error::Invalid(text)) => reason = format!(", the first objects can't be requested: {text}"),
            Err(error) => return Err(reading_fails(error)),
        }
    }
    match missing.filter(|_| reason.is_empty()) {
        Some(text) if still_lists(store, page).await? => {
            let what = "the store lists objects, but none of the first ones can be read, they are missing";
            Err(Error::Protocol(format!("{what}: {text}")))
        }
        Some(_) => untested(", the first objects were deleted meanwhile"),
        None => untested(&reason),
    }
}

/// Returns whether the first page of the listing still has an object of an earlier one.
///
/// # Errors
/// That of a request that is refused, or not answered.
async fn still_lists(store: &dyn Store, page: &ListPage) -> Result<bool, Error> {
    let again = store.list(&first_page()).await?;
    let is_listed = |key: &str| again.entries.iter().any(|entry| entry.key == key);
    Ok(page.entries.iter().any(|entry| is_listed(&entry.key)))
}

/// Requests the first objects, in all folders.
fn first_page() -> ListRequest {
    ListRequest { recursive: true, limit: Some(SAMPLE), ..ListRequest::default() }
}

/// Adds to an error that only reading fails.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors are complete")]
fn reading_fails(error: Error) -> Error {
    match error {
        Error::Unavailable { kind, message, retry_after } => Error::Unavailable {
            kind,
            message: format!("the store answers, but reading fails: {message}"),
            retry_after,
        },
        Error::Protocol(message) => Error::Protocol(format!("the store answers, but reading fails: {message}")),
        other => other,
    }
}

async fn stat(store: &dyn Store, key: &str) -> Result<ObjectInfo, Error> {
    let key = Key::try_from(key.to_owned()).map_err(|error| Error::Invalid(error.to_string()))?;
    store.stat(&key, &Pin::default()).await
}
