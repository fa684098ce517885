//! Runs one measurement in its own process and prints the result as a line of JSON. `run.py` calls it.

mod consume;
mod delay;
mod frozen;
mod gcs;
mod nats;
mod s3;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use gantry_bench::sample;

#[derive(Debug, Parser)]
#[command(about = "Measures one thing; run.py puts the things together")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Download directly from S3, with the relay's ranges and concurrency
    S3(s3::Get),
    /// Download directly from Google Cloud Storage with `object_store`, with the relay's ranges and concurrency
    Gcs(gcs::Get),
    /// Download through a relay, with Gantry's own consumer
    Consume(consume::Consume),
    /// Start downloads through a relay and read no bytes
    Frozen(frozen::Frozen),
    /// Publish a file to the first requester, with Gantry's chunks and window but without Gantry
    Publish(nats::Publish),
    /// Receive what `publish` publishes
    Subscribe(nats::Subscribe),
    /// Answer requests with files, without Gantry
    Answer(nats::Answer),
    /// Send requests to `answer`
    Ask(nats::Ask),
    /// Forward connections and delay every byte
    Delay(delay::Delay),
    /// Print the CRC-64/NVME of files
    Crc { files: Vec<PathBuf> },
}

/// The same runtime as in Gantry's main.
fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Box::pin(run(Cli::parse().command)))
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::S3(get) => get.run().await,
        Command::Gcs(get) => get.run().await,
        Command::Consume(consume) => consume.run().await,
        Command::Frozen(frozen) => frozen.run().await,
        Command::Publish(publish) => publish.run().await,
        Command::Subscribe(subscribe) => subscribe.run().await,
        Command::Answer(answer) => answer.run().await,
        Command::Ask(ask) => ask.run().await,
        Command::Delay(delay) => delay.run().await,
        Command::Crc { files } => crc(&files),
    }
}

fn crc(files: &[PathBuf]) -> anyhow::Result<()> {
    let sums = files
        .iter()
        .map(|file| {
            let path = file.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", file.display()))?;
            let crc = crc_fast::checksum_file(crc_fast::CrcAlgorithm::Crc64Nvme, path, None)?;
            Ok((std::fs::metadata(file)?.len(), sample::hexadecimal(crc)))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    sample::print(&sums)
}
