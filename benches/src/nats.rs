//! NATS alone, with Gantry's chunk size and window: the other half of the bound.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, ConnectOptions, StatusCode, Subscriber};
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt as _;
use gantry_bench::load::Load;
use gantry_bench::sample::{Clock, Got, Sink, print};
use tokio::time::{sleep, timeout};

/// The subjects on which `publish` receives the request and the reports of how much has arrived.
const START: &str = "bench.start";
const ARRIVED: &str = "bench.arrived";

/// The subject on which `answer` receives requests.
const ASK: &str = "bench.ask";

/// The size of an answer's first chunk, as in Gantry.
const FIRST_BYTES: usize = 32 << 10;

/// Gantry's default window and chunk size on a server with the default `max_payload`.
const WINDOW_BYTES: usize = 24 << 20;
const CHUNK_BYTES: usize = (512 << 10) - (4 << 10);

/// How often to report how much has arrived.
const TELL_BYTES: u64 = 2 << 20;

/// How long either side waits for the other, for example after a lost message.
const PATIENCE: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Args, Debug)]
pub(crate) struct Publish {
    file: PathBuf,
    #[arg(long, env = "NATS_URL")]
    nats: String,
}

#[derive(Args, Debug)]
pub(crate) struct Subscribe {
    /// Number of bytes to expect.
    #[arg(long)]
    bytes: u64,
    #[arg(long, env = "NATS_URL")]
    nats: String,
}

#[derive(Args, Debug)]
pub(crate) struct Answer {
    /// A folder with the files that requests name.
    folder: PathBuf,
    #[arg(long, env = "NATS_URL")]
    nats: String,
}

#[derive(Args, Debug)]
pub(crate) struct Ask {
    #[command(flatten)]
    load: Load,
    /// The size of every object.
    #[arg(long)]
    object_bytes: u64,
    /// Number of connections that share the downloads.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, env = "NATS_URL")]
    nats: String,
}

/// Connects with Gantry's settings.
async fn connect(nats: &str) -> anyhow::Result<Client> {
    Ok(ConnectOptions::new().client_capacity(16).subscription_capacity(65_536).connect(nats).await?)
}

impl Publish {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // From memory, because the cost of a disk is measured elsewhere.
        let mut rest = Bytes::from(tokio::fs::read(&self.file).await?);
        let client = connect(&self.nats).await?;
        let mut arrived = client.subscribe(ARRIVED).await?;
        let mut starts = client.subscribe(START).await?;
        let subject = next(&mut starts).await?.reply.context("a request without a reply subject")?;

        let clock = Clock::start()?;
        let total = rest.len();
        let mut sent = 0;
        let mut taken = 0;
        while taken < total {
            let chunk = CHUNK_BYTES.min(rest.len());
            if chunk > 0 && sent + chunk <= taken + WINDOW_BYTES {
                sent += chunk;
                client.publish(subject.clone(), rest.split_to(chunk)).await?;
            } else {
                taken = serde_json::from_slice(&next(&mut arrived).await?.payload)?;
            }
        }
        print(&clock.stop(Vec::new())?)
    }
}

impl Subscribe {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let client = connect(&self.nats).await?;
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await?;
        let (first, mut clock) = loop {
            let clock = Clock::start()?;
            client.publish_with_reply(START, inbox.clone(), Bytes::new()).await?;
            let message = next(&mut messages).await?;
            if message.status != Some(StatusCode::NO_RESPONDERS) {
                break (message, Some(clock));
            }
            // The publisher is still starting.
            sleep(ASK_AGAIN).await;
        };
        let mut sink = Sink::default();
        let mut told = 0;
        let mut message = first;

        loop {
            sink.take(&message.payload);
            if sink.bytes() >= told + TELL_BYTES || sink.bytes() == self.bytes {
                told = sink.bytes();
                client.publish(ARRIVED, serde_json::to_vec(&told)?.into()).await?;
            }
            if sink.bytes() == self.bytes {
                break;
            }
            message = next(&mut messages).await?;
        }

        let sample = clock.take().context("the clock stands")?.stop(vec![Got::from(sink)])?;
        client.flush().await?;
        print(&sample)
    }
}

impl Answer {
    /// Answers every request from memory with the file that it names.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            files.insert(entry.file_name().into_encoded_bytes(), Bytes::from(std::fs::read(entry.path())?));
        }

        let client = connect(&self.nats).await?;
        let mut requests = client.subscribe(ASK).await?;
        client.flush().await?;
        print(&"ready")?;

        while let Some(request) = requests.next().await {
            let reply = request.reply.context("a request without a reply subject")?;
            let mut rest = files.get(&*request.payload).context("no such file")?.clone();
            let client = client.clone();
            tokio::spawn(async move {
                let mut chunk_bytes = FIRST_BYTES;
                while !rest.is_empty() {
                    client.publish(reply.clone(), rest.split_to(chunk_bytes.min(rest.len()))).await?;
                    chunk_bytes = CHUNK_BYTES;
                }
                anyhow::Ok(())
            });
        }

        Ok(())
    }
}

impl Ask {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(connect(&self.nats).await?);
        }
        let object_bytes = self.object_bytes;
        let get = move |worker: usize, key: String| {
            let client = clients[worker % clients.len()].clone();
            async move {
                let mut sink = Sink::default();
                let inbox = client.new_inbox();
                let mut messages = client.subscribe(inbox.clone()).await?;
                let (_, name) = key.rsplit_once('/').context("a key without a folder")?;
                client.publish_with_reply(ASK, inbox, name.to_owned().into()).await?;
                while sink.bytes() < object_bytes {
                    sink.take(&next(&mut messages).await?.payload);
                }
                Ok(Got::from(sink))
            }
        };

        print(&self.load.measure(get).await?)
    }
}

async fn next(messages: &mut Subscriber) -> anyhow::Result<async_nats::Message> {
    timeout(PATIENCE, messages.next()).await.context("the other side is silent")?.context("the connection is closed")
}
