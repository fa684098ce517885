//! Suggests what to do if the requested store or object does not exist.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use super::address::ObjectAddress;
use super::exit::{Exit, Failure};
use super::survey;
use crate::config::nearest_of;
use gantry_bus::Bus;
use gantry_client::Client;
use gantry_proto::subject::Prefix;
use gantry_proto::{StoreName, printable};

/// The longest time to look for a suggestion.
const PATIENCE: Duration = Duration::from_secs(2);

/// The number of names beside a missing object that are compared with it.
const NAMES_MAX: usize = 1000;

/// Adds what the user may have meant to a failure that is due to a missing object.
pub(super) async fn objects(mut failure: Failure, address: &ObjectAddress, client: &Client) -> Failure {
    let ends_like_folder = address.key.as_str().ends_with('/') && failure.exit == Exit::Usage;
    if !failure.is_missing_object && !ends_like_folder {
        return failure;
    }
    // A user who may download need not be permitted to list.
    if let Ok(Ok(hint)) = timeout(PATIENCE, hint_for_object(address, client)).await {
        failure.message += &hint;
    }
    failure
}

async fn hint_for_object(address: &ObjectAddress, client: &Client) -> Result<String, gantry_client::Error> {
    let ObjectAddress { store, key } = address;
    let key = key.as_str().trim_end_matches('/');
    if client.list(store, format!("{key}/")).try_next().await?.is_some() {
        return Ok(": it is a folder: add -r to download what it contains".to_owned());
    }

    let beside = client.list(store, folder_of(key)).take(NAMES_MAX);
    let names: Vec<_> = beside.map_ok(|listed| listed.name().to_owned()).try_collect().await?;
    Ok(hint_beside(address, key, names))
}

/// Returns the hint for an object that is not among the names beside it. `key` is its key without a final slash.
fn hint_beside(address: &ObjectAddress, key: &str, names: Vec<String>) -> String {
    let ObjectAddress { store, key: wanted } = address;
    // The name is right: a version is missing, or the object was put in the meantime.
    if names.iter().any(|name| name == wanted.as_str()) {
        return String::new();
    }

    match nearest_of(key, names.into_iter()) {
        Some(nearest) => format!(": did you mean {}?", printable::name(&format!("{store}/{nearest}"))),
        None => format!(": gantry ls {} lists what is there", printable::name(&format!("{store}/{}", folder_of(key)))),
    }
}

/// Returns the folder of a key, with its final slash.
fn folder_of(key: &str) -> &str {
    key.rfind('/').map_or("", |at| &key[..=at])
}

/// Adds the most similar store to a failure that may be due to a misspelled one.
pub(super) async fn stores(mut failure: Failure, wanted: &[StoreName], bus: &dyn Bus, prefix: &Prefix) -> Failure {
    if failure.exit != Exit::NotFound || wanted.is_empty() {
        return failure;
    }
    for store in wanted {
        // A user who may download need not be permitted to query the relays.
        let Ok(known) = survey::stores(bus, prefix, store.as_str()).await else { return failure };
        if let Some(hint) = hint(store.as_str(), &known) {
            failure.message += &hint;
            break;
        }
    }
    failure
}

/// Returns the hint for a store that does not exist.
fn hint(wanted: &str, known: &BTreeSet<String>) -> Option<String> {
    if known.contains(wanted) {
        return None;
    }
    // The failure itself lists the stores.
    let nearest = nearest_of(wanted, known.iter().cloned())?;
    Some(format!(": did you mean {}?", printable::text(&nearest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requested_key_itself_is_not_suggested() {
        let hint = |address: &str, names: &[&str]| {
            let address: ObjectAddress = address.parse().unwrap();
            let key = address.key.as_str().trim_end_matches('/').to_owned();
            hint_beside(&address, &key, names.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(hint("m/a/model.bin", &["a/model.bin", "a/model.bin2"]), "");
        assert_eq!(hint("m/a/model.bim", &["a/model.bin"]), ": did you mean m/a/model.bin?");
        assert_eq!(hint("m/a/model/", &["a/model"]), ": did you mean m/a/model?");
        assert_eq!(hint("m/a/x", &["a/model"]), ": gantry ls m/a/ lists what is there");
    }

    #[test]
    fn a_misspelled_store_has_a_suggestion() {
        let known = ["files", "models"].map(str::to_owned).into();
        assert_eq!(hint("modles", &known), Some(": did you mean models?".to_owned()));
        assert_eq!(hint("backup", &known), None);
        assert_eq!(hint("files", &known), None);
        assert_eq!(hint("files", &BTreeSet::new()), None);
    }
}
