//! Downloads through a relay with Gantry's own consumer.

use std::sync::Arc;

use clap::Args;
use gantry_bench::load::Load;
use gantry_bench::sample::{Got, Sink, print};
use gantry_bus::nats;
use gantry_client::{Client, Get, Options};
use gantry_proto::StoreName;

#[derive(Args, Debug)]
pub(crate) struct Consume {
    #[command(flatten)]
    load: Load,
    #[arg(long)]
    store: StoreName,
    /// Number of connections that share the downloads.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, env = "NATS_URL")]
    nats: String,
}

/// Creates clients with Gantry's defaults, each on its own connection.
pub(crate) async fn clients(nats: &str, count: usize) -> anyhow::Result<Arc<[Client]>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let bus = nats::connect(nats::Options { servers: vec![nats.to_owned()], ..nats::Options::default() }).await?;
        clients.push(Client::new(bus, Options::default()));
    }
    Ok(clients.into())
}

impl Consume {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let clients = clients(&self.nats, self.connections).await?;
        let store = self.store.clone();
        let get = move |worker: usize, key: String| {
            let client = clients[worker % clients.len()].clone();
            let store = store.clone();
            async move {
                let mut sink = Sink::default();
                let mut download = client.get(Get::new(store, key.parse()?)).await?;
                while let Some(bytes) = download.try_next().await? {
                    sink.take(&bytes);
                }
                Ok(Got::from(sink))
            }
        };
        print(&self.load.measure(get).await?)
    }
}
