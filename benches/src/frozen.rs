//! Consumers that send a request and then hang, to measure the relay's memory.

use std::time::Duration;

use clap::Args;
use gantry_client::{Download, Get};
use gantry_proto::{Key, StoreName};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::consume::clients;

/// Time limit for a relay to accept all of them.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(crate) struct Frozen {
    #[arg(long)]
    store: StoreName,
    #[arg(long)]
    key: Key,
    /// Number of downloads to start.
    #[arg(long)]
    count: usize,
    /// Number of connections that share them.
    #[arg(long)]
    connections: usize,
    /// Time to wait once all are accepted or refused, in seconds.
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
