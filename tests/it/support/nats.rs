//! A real nats-server.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::process::{Process, server, supervised};
use super::{data, until};

/// Which nats-server binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NatsVersion {
    /// A current version: the pinned one, or a newer one on PATH.
    #[default]
    Current,
    /// Debian's own package, 2.9 in Debian 12.
    Debian,
}

/// How to start a [`Nats`]. The default is a plain server without authentication.
#[derive(Clone, Debug, Default)]
pub(crate) struct NatsOptions {
    pub(crate) version: NatsVersion,
    pub(crate) max_payload: Option<u64>,
    /// Text for the configuration file, such as accounts, TLS or a leaf node.
    pub(crate) config: String,
    /// Files that the configuration names, each by its path relative to the server's working folder.
    pub(crate) files: Vec<(&'static str, String)>,
    /// Variables that the configuration uses.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl NatsOptions {
    fn write(&self, folder: &TempDir) {
        let max_payload = self.max_payload.map(|bytes| format!("max_payload: {bytes}\n")).unwrap_or_default();
        // nats-server warns above 8 MiB, and refuses a payload limit above the limit on pending bytes, 64 MiB.
        std::fs::write(folder.path().join("nats.conf"), max_payload + &self.config).unwrap();
        for (path, text) in &self.files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file is in a folder")).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
}

/// A nats-server on a loopback port that it keeps across restarts. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Nats {
    options: NatsOptions,
    folder: TempDir,
    process: Process,
    port: u16,
}

#[derive(Deserialize)]
struct PortsFile {
    nats: Vec<String>,
}

impl Nats {
    /// Starts a server on a port of its choice, and waits until it sends its greeting.
    pub(crate) async fn start(options: NatsOptions) -> Self {
        let folder = data::folder();
        options.write(&folder);
        let process = Self::spawn(&options, &folder, -1);
        let mut nats = Self { options, folder, process, port: 0 };
        let ports_file = nats.folder.path().join(format!("nats-server_{}.ports", nats.process.pid()));
        nats.port = until("nats-server's ports file", async || {
            nats.assert_running();
            let text = std::fs::read(&ports_file).ok()?;
            let ports: PortsFile = serde_json::from_slice(&text).ok()?;
            ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
        })
        .await;
        nats.greeted().await;
        nats
    }

    /// Starts a plain server without authentication.
    pub(crate) async fn plain() -> Self {
        Self::start(NatsOptions::default()).await
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Connects without credentials.
    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    /// Ends the server with SIGTERM; [`Self::restart`] brings it back.
    pub(crate) async fn stop(&mut self) {
        self.process.stop().await;
    }

    /// Ends the server with SIGKILL; [`Self::restart`] brings it back.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Restarts the stopped server on its port, and waits until it sends its greeting.
    pub(crate) async fn restart(&mut self) {
        self.process.kill().await;
        self.process = Self::spawn(&self.options, &self.folder, self.port.into());
        self.greeted().await;
    }

    /// Replaces the configuration, for the next start.
    pub(crate) fn set_config(&mut self, config: String) {
        self.options.config = config;
        self.options.write(&self.folder);
    }

    /// Sends a signal by its name: `STOP` and `CONT` freeze and resume the server, `USR2` starts lame duck mode.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Returns the server's log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("nats.log")).unwrap_or_default()
    }

    fn spawn(options: &NatsOptions, folder: &TempDir, port: i32) -> Process {
        let binary = server(match options.version {
            NatsVersion::Current => "bin/nats-server",
            NatsVersion::Debian => "debian/nats-server",
        });
        let log = std::fs::File::options().create(true).append(true).open(folder.path().join("nats.log")).unwrap();
        let mut command = supervised(binary, Duration::from_secs(3));
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c", "nats.conf", "--ports_file_dir"]);
        command.arg(folder.path()).current_dir(folder.path());
        command.envs(options.env.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::null()).stderr(log);
        Process::start("nats-server", &mut command)
    }

    /// Waits until a connection receives the server's INFO (with `handshake_first`, only after TLS).
    async fn greeted(&mut self) {
        let speaks_first = !self.options.config.contains("handshake_first");
        let port = self.port;
        until("nats-server's greeting", async || {
            self.assert_running();
            let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.ok()?);
            let mut line = String::new();
            if speaks_first {
                stream.read_line(&mut line).await.ok()?;
            }
            (!speaks_first || line.starts_with("INFO ")).then_some(())
        })
        .await;
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.process.ended() {
            panic!("nats-server ended with {status}: {}", self.log());
        }
    }
}
