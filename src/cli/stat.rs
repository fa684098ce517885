//! `gantry stat`: describes an object.

use clap::Args;

use super::address::ObjectAddress;
use super::exit::Failure;
use super::output::{self, Form};
use super::suggest;
use gantry_client::Client;
use gantry_proto::{Checksum, ChecksumKind, ObjectInfo, Pin, StoreName, printable};
use gantry_relay::shutdown::Shutdown;

/// Describe an object
#[derive(Args, Clone, Debug)]
pub(super) struct Stat {
    #[arg(value_name = "STORE/KEY", help = "Object to describe; everything after the first slash is the key")]
    address: ObjectAddress,
    #[arg(long, value_name = "ID", help = "Version to describe, if the store keeps versions")]
    version_id: Option<String>,
    #[arg(long, help = "Print one JSON object")]
    json: bool,
}

impl Stat {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) fn store(&self) -> StoreName {
        self.address.store.clone()
    }

    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let pin = Pin { if_match: None, version_id: self.version_id };
        let object = tokio::select! {
            object = client.stat(&self.address.store, &self.address.key, &pin) => object,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        let object = match object {
            Ok(object) => object,
            Err(error) => {
                let failure = Failure::from(error).about(self.address.to_string());
                return Err(suggest::objects(failure, &self.address, client).await);
            }
        };

        if self.json {
            return output::json(&object);
        }
        for line in lines(&object) {
            output::line(&line)?;
        }
        Ok(())
    }
}

fn lines(object: &ObjectInfo) -> Vec<String> {
    let stated = object.stated_checksum().filter(|stated| stated.kind != ChecksumKind::Etag);
    let mut lines = vec![
        format!("key:       {}", printable::name(object.key.as_str())),
        format!("size:      {}", object.size),
        format!("etag:      {}", printable::text(&object.etag)),
    ];
    for (name, value) in [
        ("version: ", &object.version_id),
        ("modified:", &object.last_modified),
        ("type:    ", &object.content_type),
        ("checksum:", &Some(stated.map_or_else(|| "none".to_owned(), checksum))),
    ] {
        if let Some(value) = value {
            lines.push(format!("{name}  {}", printable::text(value)));
        }
    }

    if let Some(stale_s) = object.stale_s {
        lines.push(format!("stale:     known to be current {stale_s} s ago, the store can't be asked now"));
    }
    for (name, value) in &object.headers {
        lines.push(format!("header:    {}: {}", printable::text(name), printable::text(value)));
    }
    let metadata = object.metadata.iter();
    lines.extend(
        metadata.map(|(name, value)| format!("metadata:  {}: {}", printable::text(name), printable::text(value))),
    );
    lines
}

fn checksum(checksum: &Checksum) -> String {
    let kind = match checksum.kind {
        ChecksumKind::FullObject => "full object",
        ChecksumKind::Composite => "composite",
        ChecksumKind::Etag => "ETag",
    };
    format!("{} {} ({kind})", checksum.algorithm.name(), checksum.value)
}
