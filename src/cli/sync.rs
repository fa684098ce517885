//! `gantry sync`: makes a folder equal to a part of a store.

use std::path::PathBuf;

use clap::Args;

use super::address::{Correlation, Rate};
use super::exit::Failure;
use super::output::Form;
use super::select::{Address, Selection};
use super::show::Show;
use super::tree::{Download, TreeArgs};
use gantry_bus::rate::RateLimit;
use gantry_client::Client;
use gantry_proto::StoreName;
use gantry_relay::shutdown::Shutdown;

const ABOUT: &str = "Make a folder equal to a part of a store

Like gantry get -r with -o, and with --delete also removes the files that have no object. That happens after all objects \
are listed and downloaded, and not at all if a download failed or no key begins with the address. Links, devices and other \
file systems that are mounted in the folder are kept.";

/// Make a folder equal to a part of a store
#[derive(Args, Clone, Debug)]
#[command(about = "Make a folder equal to a part of a store", long_about = ABOUT)]
pub(super) struct Sync {
    #[arg(
        value_name = "STORE[/PREFIX]",
        help = "The beginning of the keys; the part after its last slash becomes the path"
    )]
    address: Address,
    #[arg(value_name = "DIR", help = "The folder; created if it is missing")]
    folder: PathBuf,
    #[arg(long, help = "Delete files that have no object")]
    delete: bool,
    #[command(flatten)]
    tree: TreeArgs,
    #[arg(long, value_name = "RATE", help = "Maximum bytes per second, such as 500K, 10M or 1.5MiB")]
    limit_rate: Option<Rate>,
    #[arg(
        long,
        value_name = "TEXT",
        help = "Id of the download in the logs and traces of both sides, instead of a random one; at most 256 bytes"
    )]
    correlation: Option<Correlation>,
    #[command(flatten)]
    show: Show,
}

impl Sync {
    pub(super) const fn form(&self) -> Form {
        if self.show.json { Form::Json } else { Form::Text }
    }

    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.limit_rate.map(|Rate(bytes_per_s)| RateLimit::new(bytes_per_s))
    }

    pub(super) fn store(&self) -> StoreName {
        self.address.store().clone()
    }

    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let selections = vec![Selection::of(&self.address, true, true)?];
        let Self { folder, delete, tree: args, correlation, show, .. } = self;
        Download { selections, folder, delete, args, correlation, show }.run(client, shutdown).await
    }
}
