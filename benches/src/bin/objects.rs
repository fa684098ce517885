//! `JetStream`'s Object Store, with the client library that Gantry uses.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use async_nats::ConnectOptions;
use async_nats::jetstream::object_store::{Config, ObjectStore};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures_util::stream::{self, Stream};
use gantry_bench::sample::{Clock, Got, Sink, print};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

const BUCKET: &str = "bench";

/// The client's default chunk size. Its `put` turns each read into one chunk, so reads return this much.
const CHUNK_BYTES: usize = 128 << 10;

/// Maximum number of chunks waiting to be put.
const CHUNKS: usize = 16;

/// Number of bytes per read of an incoming object.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug, Parser)]
#[command(about = "Measures JetStream's Object Store; run.py puts the things together")]
struct Cli {
    #[arg(long, env = "NATS_URL")]
    nats: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the content of a file or a pipe, replacing an existing object
    Put { name: String, from: PathBuf },
    /// Get an object
    Get { name: String },
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Box::pin(run(Cli::parse())))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let context = jetstream::new(ConnectOptions::new().connect(&cli.nats).await?);
    match cli.command {
        Command::Put { name, from } => put(&context, &name, &from).await,
        Command::Get { name } => get(&context.get_object_store(BUCKET).await?, &name).await,
    }
}

async fn put(context: &Context, name: &str, from: &Path) -> anyhow::Result<()> {
    let config = Config { bucket: BUCKET.to_owned(), ..Config::default() };
    let store = match context.get_object_store(BUCKET).await {
        Ok(store) => store,
        Err(_) => context.create_object_store(config).await?,
    };
    if store.info(name).await.is_ok() {
        store.delete(name).await?;
    }
    let mut input = StreamReader::new(Box::pin(read_ahead(File::open(from)?)));
    let clock = Clock::start()?;
    store.put(name, &mut input).await?;
    print(&clock.stop(Vec::new())?)
}

/// Reads ahead, in full chunks.
fn read_ahead(mut input: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
            let is_last = read.as_ref().map_or(true, |read| *read < CHUNK_BYTES);
            if sender.blocking_send(read.map(|_| Bytes::from(chunk))).is_err() || is_last {
                return;
            }
        }
    });
    stream::unfold(chunks, async |mut chunks| chunks.recv().await.map(|chunk| (chunk, chunks)))
}

async fn get(store: &ObjectStore, name: &str) -> anyhow::Result<()> {
    let clock = Clock::start()?;
    let mut sink = Sink::default();
    let mut object = store.get(name).await?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = object.read(&mut buffer).await.context("the object ends early")?;
        if read == 0 {
            break;
        }
        sink.take(&buffer[..read]);
    }
    print(&clock.stop(vec![Got::from(sink)])?)
}
