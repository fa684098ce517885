//! A small installation: one nats-server, a bucket, a directory, and a relay that serves both.

use std::path::Path;

use tempfile::TempDir;

use super::gantry::Command;
use super::{Nats, NatsOptions, Relay, S3, data, gantry};

/// The store of the bucket.
pub(crate) const OBJECTS: &str = "objects";

/// The store of the directory.
pub(crate) const FILES: &str = "files";

/// Everything that a download needs. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) nats: Nats,
    pub(crate) s3: &'static S3,
    pub(crate) bucket: String,
    pub(crate) relay: Relay,
    files: TempDir,
    downloads: TempDir,
}

impl Site {
    /// Starts a site on a plain nats-server.
    pub(crate) async fn start() -> Self {
        Self::with_nats(NatsOptions::default()).await
    }

    /// Starts a site. The options apply to nats-server only; relay and consumer do not know them.
    pub(crate) async fn with_nats(options: NatsOptions) -> Self {
        let s3 = S3::shared().await;
        let (nats, bucket) = tokio::join!(Nats::start(options), s3.bucket());
        let files = data::folder();
        let relay = Relay::on(&nats)
            .s3(s3)
            .store(OBJECTS, format!("s3://{bucket}"))
            .store(FILES, format!("file://{}", files.path().display()))
            .start()
            .await;
        Self { nats, s3, bucket, relay, files, downloads: data::folder() }
    }

    /// Returns the directory of the store [`FILES`].
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    /// Returns the folder for downloads, which is empty at first.
    pub(crate) fn downloads(&self) -> &Path {
        self.downloads.path()
    }

    /// Prepares a command that uses this nats-server.
    pub(crate) fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        gantry(args).nats(&self.nats)
    }

    /// Prepares `gantry get STORE/KEY -o FILE` with a file in [`Self::downloads`].
    pub(crate) fn get(&self, store: &str, key: &str, file: &str) -> Command {
        self.command(["get", &format!("{store}/{key}"), "-o"]).arg(self.downloads().join(file))
    }

    /// Returns the contents of a downloaded file.
    #[track_caller]
    pub(crate) fn downloaded(&self, file: &str) -> Vec<u8> {
        let path = self.downloads().join(file);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns the names of all files in [`Self::downloads`], including hidden ones.
    pub(crate) fn downloads_listed(&self) -> Vec<String> {
        listed(self.downloads())
    }
}

/// Returns the names of all files in a folder in sorted order, including hidden ones.
pub(crate) fn listed(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
