//! Counts the bytes of an object as they arrive: `cargo run -p gantry-client --example stream -- nats://127.0.0.1:4222 files/key`.
#![allow(clippy::print_stdout, reason = "an example prints what it does")]

use anyhow::bail;
use gantry_client::{Client, Get};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(address)) = (args.next(), args.next()) else {
        bail!("usage: stream URL STORE/KEY");
    };

    let client = Client::connect(url).await?;
    let mut download = client.get(Get::at(&address)?).await?;

    let mut bytes = 0;
    while let Some(piece) = download.try_next().await? {
        bytes += piece.len();
    }

    // The bytes are verified only now, at the end of the stream.
    println!("{bytes} bytes, etag {}", download.object().etag);
    Ok(())
}
