//! Downloads an object to a file: `cargo run -p gantry-client --example download -- nats://127.0.0.1:4222 files/key out`.
#![allow(clippy::print_stdout, reason = "an example prints what it does")]

use anyhow::bail;
use gantry_client::{Client, FileOptions, Get};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(address), Some(target)) = (args.next(), args.next(), args.next()) else {
        bail!("usage: download URL STORE/KEY FILE");
    };

    let client = Client::connect(url).await?;
    let report = client.download(Get::at(&address)?, target.as_ref(), FileOptions::default()).await?;
    println!("{} bytes in {:?}, verified: {}", report.bytes, report.elapsed, report.proof);
    Ok(())
}
