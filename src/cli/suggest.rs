//! Suggests what to do if the requested store or object does not exist.

use std::collections::BTreeSet;
use std::time::Duration;

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

/// Adds that the address is that of a folder to a failure that may be due to that.
pub(super) async fn folder(mut failure: Failure, address: &ObjectAddress, client: &Client) -> Failure {
    if !failure.is_missing_object {
        return failure;
    }

    let ObjectAddress { store, key } = address;
    let mut listing = client.list(store, format!("{}/", key.as_str().trim_end_matches('/')));
    // A user who may download need not be permitted to list.
    if let Ok(Ok(Some(_))) = timeout(PATIENCE, listing.try_next()).await {
        failure.message += ": it is a folder: add -r to download what it contains";
    }
    failure
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
    fn a_misspelled_store_has_a_suggestion() {
        let known = ["files", "models"].map(str::to_owned).into();
        assert_eq!(hint("modles", &known), Some(": did you mean models?".to_owned()));
        assert_eq!(hint("backup", &known), None);
        assert_eq!(hint("files", &known), None);
        assert_eq!(hint("files", &BTreeSet::new()), None);
    }
}
