//! Consumers that asked and then hang: what do they cost the relay?

use std::time::Duration;

use clap::Args;
use gantry_client::{Download, Get};
use gantry_proto::{Key, StoreName};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::consume::clients;

/// How long a relay may take to accept all of them.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(crate) struct Frozen {
    #[arg(long)]
    store: StoreName,
    #[arg(long)]
    key: Key,
    /// How many downloads to begin.
    #[arg(long)]
    count: usize,
    /// How many connections share them.
    #[arg(long)]
    connections: usize,
    /// How long to leave them as they are once all are accepted or refused, in seconds.
    #[arg(long)]
    hold_s: u64,
    #[arg(long, env = "NATS_URL")]
    nats: String,
}

impl Frozen {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let clients = clients(&self.nats, self.connections).await?;
        let mut asking = JoinSet::new();
        for number in 0..self.count {
            let client = clients[number % clients.len()].clone();
            let get = Get::new(self.store.clone(), self.key.clone());
            asking.spawn(async move { timeout(ACCEPTED_WITHIN, client.get(get)).await.ok()?.ok() });
        }
        let accepted: Vec<Download> = asking.join_all().await.into_iter().flatten().collect();
        sleep(Duration::from_secs(self.hold_s)).await;
        gantry_bench::sample::print(&accepted.len())
    }
}
