//! `gantry relays` and `gantry stores`: list the relays and their stores.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{self, Form};
use super::survey::{self, Failed, Found};
use gantry_bus::Bus;
use gantry_proto::printable;
use gantry_proto::subject::Prefix;

/// List the relays that answer
///
/// Prints host, version, transfers in progress, requests answered and refused, the time until the answer, and the stores. Without permission for
/// the NATS services API ($SRV.>) it fails, although downloads may work.
#[derive(Args, Clone, Debug)]
pub(super) struct Relays {
    #[arg(long, help = "Print one JSON object per line")]
    json: bool,
}

/// List the stores that relays serve
///
/// Prints each store with the number and the hosts of its relays. Without permission for the NATS services API ($SRV.>)
/// it fails, although downloads may work.
#[derive(Args, Clone, Debug)]
pub(super) struct Stores {
    #[arg(long, help = "Print one JSON object per line, with `store` and `relays`")]
    json: bool,
}

impl Relays {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) async fn run(self, bus: &dyn Bus, prefix: &Prefix) -> Result<(), Failure> {
        let relays = found(bus, prefix).await?;
        if self.json {
            return relays.iter().try_for_each(output::json);
        }

        let head =
            ["HOST", "VERSION", "ACTIVE", "REQUESTS", "REFUSED", "ANSWERED IN", "ID", "STORES"].map(str::to_owned);
        let rows = relays.into_iter().map(|relay| {
            let stores = relay.stores.into_iter().collect::<Vec<_>>().join(" ");
            let time = format!("{} ms", relay.round_trip_ms);
            let active = relay.active.map_or_else(|| "-".to_owned(), |active| active.to_string());
            [
                relay.host,
                relay.version,
                active,
                relay.requests.to_string(),
                relay.errors.to_string(),
                time,
                relay.id,
                stores,
            ]
        });
        print(std::iter::once(head).chain(rows).collect())
    }
}

#[derive(Serialize)]
struct StoreLine {
    store: String,
    relays: usize,
    hosts: BTreeSet<String>,
}

impl Stores {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) async fn run(self, bus: &dyn Bus, prefix: &Prefix) -> Result<(), Failure> {
        let stores = by_store(found(bus, prefix).await?);
        if self.json {
            return stores.iter().try_for_each(output::json);
        }

        let head = ["STORE", "RELAYS", "HOSTS"].map(str::to_owned);
        let rows = stores.into_iter().map(|StoreLine { store, relays, hosts }| {
            [store, relays.to_string(), hosts.into_iter().collect::<Vec<_>>().join(" ")]
        });
        print(std::iter::once(head).chain(rows).collect())
    }
}

async fn found(bus: &dyn Bus, prefix: &Prefix) -> Result<Vec<Found>, Failure> {
    let relays = survey::relays(bus, prefix).await.map_err(Failure::from)?;
    if relays.is_empty() {
        let message = format!(
            "no relay with the prefix {prefix} answers: start one with gantry serve, or correct --server or --prefix"
        );
        return Err(Failure::new(Exit::GaveUp, message));
    }
    Ok(relays)
}

fn by_store(relays: Vec<Found>) -> Vec<StoreLine> {
    let mut stores: BTreeMap<String, StoreLine> = BTreeMap::new();
    for relay in relays {
        for store in relay.stores {
            let line = stores.entry(store.clone());
            let line = line.or_insert_with(|| StoreLine { store, relays: 0, hosts: BTreeSet::new() });
            line.relays += 1;
            line.hosts.insert(relay.host.clone());
        }
    }
    stores.into_values().collect()
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Bus(error) => error.into(),
            Failed::Denied(what) => {
                let message = format!("nats-server denies {what}: grant that permission to the user");
                Self::new(Exit::Denied, message)
            }
        }
    }
}

/// Prints a table whose columns are as wide as their contents.
fn print<const N: usize>(rows: Vec<[String; N]>) -> Result<(), Failure> {
    let rows: Vec<[String; N]> =
        rows.into_iter().map(|row| row.map(|cell| printable::text(&cell).into_owned())).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        output::line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_listed_once_with_all_their_relays() {
        let relay = |host: &str, stores: &[&str]| Found {
            id: host.to_owned(),
            host: host.to_owned(),
            version: String::new(),
            stores: stores.iter().map(|store| (*store).to_owned()).collect(),
            requests: 0,
            errors: 0,
            active: None,
            transfers_max: None,
            round_trip_ms: 0,
        };
        let lines = by_store(vec![relay("b", &["files", "models"]), relay("a", &["files"])]);
        let found: Vec<_> = lines.iter().map(|line| (line.store.as_str(), line.relays, line.hosts.len())).collect();
        assert_eq!(found, [("files", 2, 2), ("models", 1, 1)]);
    }
}
