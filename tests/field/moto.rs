//! moto 5, in Python: keeps checksums of single uploads, knows versions, and reports a bad version by HEAD and GET
//! differently. Its answer about a part has the part's own `ETag`, so a composite checksum proves nothing here.

use std::time::Duration;

use gantry_proto::Key;

use crate::server::{Proofs, Server};
use crate::support::data;
use crate::support::process::{python, server, supervised};

impl Server {
    /// Starts moto, which is in memory and accepts any key.
    pub(crate) async fn moto() -> Self {
        let port = data::free_port();
        let mut command = supervised(python(), Duration::ZERO);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("PYTHONPATH", server("moto"));
        Self::start("gantry-field", "moto", port, command, data::folder()).await
    }
}

#[tokio::test]
async fn moto_conforms() {
    Server::moto().await.conforms(&["/leading", "a//b"], Key::MAX_BYTES).await;
}

#[tokio::test]
async fn moto_reports_what_is_wrong() {
    Server::moto().await.reports_what_is_wrong().await;
}

#[tokio::test]
async fn moto_serves_the_command_line() {
    Server::moto().await.serves_the_command_line(Proofs { single: "full_object", multipart: Some("transport") }).await;
}
