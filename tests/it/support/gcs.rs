//! A real server that is like Google Cloud Storage: fake-gcs-server. It ignores `If-Match`, and needs no credentials.

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::cloud_writers::GcsWriter;
use super::process::{self, Process, supervised};
use super::{data, until};

/// A server with one bucket. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Gcs {
    port: u16,
    process: Process,
    /// Where objects are kept, so that they survive a restart. Without it, they are in memory.
    folder: Option<TempDir>,
}

/// The bucket of every server.
pub(crate) const BUCKET: &str = "bucket";

impl Gcs {
    /// Starts a server that keeps its objects in memory, where keys may be as long as Google allows.
    pub(crate) async fn start() -> Self {
        Self::start_in(None).await
    }

    /// Starts a server whose objects survive a restart.
    pub(crate) async fn start_on_disk() -> Self {
        Self::start_in(Some(data::folder())).await
    }

    async fn start_in(folder: Option<TempDir>) -> Self {
        let port = data::free_port();
        let process = spawn(port, folder.as_ref());
        let server = Self { port, process, folder };
        server.ready().await;
        server.writer().create_bucket().await;
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns what writes to the bucket.
    pub(crate) fn writer(&self) -> GcsWriter {
        GcsWriter { endpoint: self.endpoint(), bucket: BUCKET.to_owned(), token: None }
    }

    /// Sends a signal by its name: `STOP` and `CONT` freeze and resume the server.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Restarts the killed server on the same port with the same data.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(self.port, self.folder.as_ref());
        self.ready().await;
    }

    /// Puts one object.
    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.put_encoded(key, bytes, "").await;
    }

    /// Puts one object with a `Content-Encoding`, unless it is empty.
    pub(crate) async fn put_encoded(&self, key: &str, bytes: impl Into<Bytes>, coding: &str) {
        self.writer().put(key, bytes.into(), coding).await;
    }

    /// Deletes one object.
    pub(crate) async fn delete(&self, key: &str) {
        self.writer().delete(key).await;
    }

    async fn ready(&self) {
        until("fake-gcs-server", async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()).await;
    }
}

fn spawn(port: u16, folder: Option<&TempDir>) -> Process {
    let mut command = supervised(process::server("bin/fake-gcs-server"), Duration::from_secs(1));
    command.args(["-scheme", "http", "-host", "127.0.0.1", "-log-level", "error"]).args([
        "-port",
        &port.to_string(),
        "-public-host",
        "127.0.0.1",
    ]);
    match folder {
        Some(folder) => command.args(["-backend", "filesystem", "-filesystem-root"]).arg(folder.path()),
        None => command.args(["-backend", "memory"]),
    };
    Process::start("fake-gcs-server", &mut command)
}
