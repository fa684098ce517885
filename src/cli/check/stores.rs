//! The stores: whether they answer, and what the relay may do there.

use std::time::Duration;

use tokio::time::timeout;

use super::super::stores::{self, OpenError};
use super::{find, named};
use crate::config::{Config, Effective, Place, without_credentials};
use gantry_proto::{Key, ListRequest, ObjectInfo, Pin, StoreName};
use gantry_relay::metrics::S3Metrics;
use gantry_store::budget::Budget;
use gantry_store::{Error, Store};

/// How long a store may take to answer: longer than the retries of S3's client, so that their reason is heard.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where S3's client finds its server when the configuration names none, in the order in which it looks.
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

pub(super) async fn check(config: &Config, name: &StoreName, effective: &[Effective]) -> Result<String, String> {
    let Some(store) = config.stores.get(name) else { return Ok("not served".to_owned()) };
    let budget = Budget::new(config.relay.memory_budget_bytes);
    let is_s3 = matches!(store.place, Place::S3 { .. });
    let tried = async {
        let opened = stores::open_one(name, store, &budget, &S3Metrics::default()).await?;
        let probed = timeout(PROBE_TIMEOUT, opened.probe()).await;
        probed.unwrap_or_else(|_| Err(Error::unavailable("no answer"))).map_err(OpenError::Store)?;
        if is_s3 { rights(&*opened).await.map_err(OpenError::Store) } else { Ok("answers".to_owned()) }
    };
    tried.await.map_err(|error| match error {
        OpenError::Key(failure) => failure.message,
        OpenError::Store(error) if is_s3 => blamed_in_s3(&error, name, effective),
        OpenError::Store(error) => {
            let cure = "create the directory, let the relay's user read it, or correct the path";
            format!("{}: {error}: {cure}", named(effective, &format!("stores.{name}.url")))
        }
    })
}

/// Says what the credentials may do, as far as it shows without knowing a key.
async fn rights(store: &dyn Store) -> Result<String, Error> {
    let first = ListRequest { recursive: true, limit: Some(1), ..ListRequest::default() };
    match store.list(&first).await {
        Ok(page) => match page.entries.first() {
            Some(entry) => match stat(store, &entry.key).await {
                Ok(_) => Ok("answers; the relay may list and read".to_owned()),
                Err(Error::Denied(text)) => Err(Error::Denied(format!("may list, but not read: {text}"))),
                // It was deleted meanwhile, say.
                Err(_) => Ok("answers; the relay may list; reading is not proved".to_owned()),
            },
            None => Ok("answers; the relay may list; reading is not proved, there is no object".to_owned()),
        },
        Err(Error::Denied(_)) => {
            Ok("answers, but the relay may not list: missing keys will read as denied; reading is not proved"
                .to_owned())
        }
        Err(error) => Err(error),
    }
}

async fn stat(store: &dyn Store, key: &str) -> Result<ObjectInfo, Error> {
    let key = Key::try_from(key.to_owned()).map_err(|error| Error::Invalid(error.to_string()))?;
    store.stat(&key, &Pin::default()).await
}

/// Says which key is to blame for S3's answer, or for its absence, and what to do.
fn blamed_in_s3(error: &Error, name: &StoreName, effective: &[Effective]) -> String {
    let url = || named(effective, &format!("stores.{name}.url"));
    let profile = format!("stores.{name}.profile");
    let (key, cure) = match error {
        // What the SDK says here is about the last place where it looked.
        Error::Unavailable { message, .. }
            if message.contains("no credentials") && find(effective, &profile).is_some() =>
        {
            let key = named(effective, &profile);
            return format!(
                "{key}: there is no such profile, or no credentials in it: correct the name or the profile"
            );
        }
        // What a TLS client makes of an answer in plain text.
        Error::Unavailable { message, .. } if message.contains("InvalidContentType") => {
            (endpoint(name, effective), "use http://, the server speaks no TLS there")
        }
        Error::Unavailable { message, .. } if message.contains("credentials") => {
            (credentials(name, effective), "give the relay credentials that are valid")
        }
        Error::Unavailable { .. } | Error::Protocol(_) => {
            (endpoint(name, effective), "start the S3 server, or correct the address")
        }
        Error::Denied(_) => {
            (credentials(name, effective), "check these credentials and what they may do (deploy/iam/policy.json)")
        }
        Error::NotFound(_) => (url(), "create the bucket, or correct its name or the server's address"),
        Error::Invalid(_) | Error::Changed(_) | Error::Range { .. } => {
            (url(), "correct the address, the region or the endpoint")
        }
    };
    format!("{key}: {error}: {cure}")
}

fn endpoint(name: &StoreName, effective: &[Effective]) -> String {
    let key = format!("stores.{name}.endpoint_url");
    let variable = ENDPOINT_VARIABLES
        .iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    match (find(effective, &key), variable) {
        (None, Some((variable, value))) => {
            format!("`{key}` = {:?} in {variable}", without_credentials(&value))
        }
        (_, _) => named(effective, &key),
    }
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
