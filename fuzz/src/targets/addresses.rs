//! Addresses of stores, of servers and on the command line: parsed or rejected, without repeating a password.

use clap::Parser as _;

use crate::gantry::{Cli, StoreAddress, config};

/// A password that no generated address contains by chance.
const PASSWORD: &str = "9d1c7f30e4";

const NO_VARIABLES: [(&str, &str); 0] = [];

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(StoreAddress::S3 { bucket, prefix }) = StoreAddress::parse(&text) {
        assert!(!bucket.is_empty() && (prefix.is_empty() || prefix.ends_with('/')));
    }
    if let Ok(StoreAddress::File { dir }) = StoreAddress::parse(&text) {
        assert!(dir.is_absolute());
    }
    drop(Cli::try_parse_from(["gantry", "get", &text]));
    drop(Cli::try_parse_from(["gantry", "get", "s/k", "--range", &text]));
    drop(Cli::try_parse_from(["gantry", "get", "s/k", "--limit-rate", &text]));
    drop(Cli::try_parse_from(["gantry", "ls", &text]));

    for url in [format!("nats://u:{PASSWORD}@{text}"), format!("{text}://u:{PASSWORD}@h")] {
        let mut sources = config::Sources::of_environment(NO_VARIABLES);
        sources.flags.set("nats.url", &url, "--server");
        let (config, effective) = sources.read();
        if let Err(error) = config {
            assert!(!error.to_string().contains(PASSWORD), "{error}");
        }
        for line in effective {
            assert!(!line.to_string().contains(PASSWORD), "{line}");
        }
    }
}
