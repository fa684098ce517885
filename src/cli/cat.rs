//! `gantry cat`: writes objects to stdout.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;

use clap::Args;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::address::ObjectAddress;
use super::exit::Failure;
use super::output;
use super::suggest;
use gantry_client::{Client, Get};
use gantry_proto::StoreName;
use gantry_relay::shutdown::Shutdown;

/// Write objects to stdout, one after the other
///
/// The bytes are checked as they arrive, and each object against its checksum after its last byte. If that fails, so does
/// the command, but the bytes are already written.
#[derive(Args, Clone, Debug)]
pub(super) struct Cat {
    #[arg(value_name = "STORE/KEY", required = true, help = "Objects to write")]
    addresses: Vec<ObjectAddress>,
}

impl Cat {
    pub(super) fn stores(&self) -> Vec<StoreName> {
        self.addresses.iter().map(|address| address.store.clone()).collect()
    }

    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        for address in self.addresses {
            let written = tokio::select! {
                written = write(client, address.clone()) => written,
                () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
            };
            match written {
                Ok(()) => {}
                Err(failure) if failure.message.is_empty() => return Err(failure),
                Err(failure) => {
                    return Err(suggest::objects(failure.about(address.to_string()), &address, client).await);
                }
            }
        }
        Ok(())
    }
}

async fn write(client: &Client, ObjectAddress { store, key }: ObjectAddress) -> Result<(), Failure> {
    let is_terminal = std::io::stdout().is_terminal();
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| output::stdout_failure(&error))?;
    let mut stdout = File::from_std(stdout.into());
    let mut download = client.get(Get::new(store, key)).await?;
    while let Some(bytes) = download.try_next().await? {
        if is_terminal && output::is_binary(&bytes) {
            download.stop().await;
            return Err(output::binary_failure());
        }
        stdout.write_all(&bytes).await.map_err(|error| output::stdout_failure(&error))?;
    }
    stdout.flush().await.map_err(|error| output::stdout_failure(&error))
}
