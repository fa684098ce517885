//! Downloads a file, and resumes it after an error that a retry may cure:
//! `cargo run -p gantry-client --example resume -- nats://127.0.0.1:4222 files/key out`.
#![allow(clippy::print_stdout, reason = "an example prints what it does")]

use std::time::Duration;

use anyhow::bail;
use gantry_client::{Client, FileOptions, Get};

const TRIES: u32 = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(address), Some(target)) = (args.next(), args.next(), args.next()) else {
        bail!("usage: resume URL STORE/KEY FILE");
    };
    let client = Client::connect(url).await?;
    let get = Get::at(&address)?;

    for attempt in 1.. {
        match client.download(get.clone(), target.as_ref(), FileOptions::default()).await {
            Ok(report) => {
                println!("{} bytes, of which {} were fetched now", report.bytes, report.fetched_bytes);
                break;
            }
            Err(error) if error.is_retryable() && attempt < TRIES => {
                println!("attempt {attempt} failed: {error}");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
