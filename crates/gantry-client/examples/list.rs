//! Lists the keys of a store: `cargo run -p gantry-client --example list -- nats://127.0.0.1:4222 files videos/`.
#![allow(clippy::print_stdout, reason = "an example prints what it does")]

use anyhow::bail;
use gantry_client::Client;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(store)) = (args.next(), args.next()) else {
        bail!("usage: list URL STORE [PREFIX]");
    };

    let client = Client::connect(url).await?;
    let mut names = client.list(&store.parse()?, args.next().unwrap_or_default());
    while let Some(name) = names.try_next().await? {
        println!("{}", name.name());
    }

    if names.omitted() > 0 {
        println!("{} names are not valid as a key", names.omitted());
    }
    Ok(())
}
