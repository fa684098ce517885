//! `rclone serve s3`: ignores `If-Match`, answers ranges with 200, knows no versions, takes no key that can't be a path, and
//! states a stored checksum only to a HEAD, which a download does not send. The SDK rejects its answer to the start of
//! an upload in parts.

use std::time::Duration;

use gantry_proto::Key;

use crate::server::{Proofs, SECRET, Server};
use crate::support::data;
use crate::support::process::{server, supervised};

const ID: &str = "gantry-field";

impl Server {
    /// Starts rclone, which serves a folder and verifies signatures.
    pub(crate) async fn rclone() -> Self {
        let (port, folder) = (data::free_port(), data::folder());
        let mut command = supervised(server("bin/rclone"), Duration::ZERO);
        command.args(["serve", "s3", "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
        command.args(["--auth-key", &format!("{ID},{SECRET}")]).arg(folder.path());
        Self::start(ID, "rclone", port, command, folder).await
    }
}

#[tokio::test]
async fn rclone_conforms() {
    Server::rclone().await.conforms(&[], Key::MAX_BYTES).await;
}

#[tokio::test]
async fn rclone_reports_what_is_wrong() {
    Server::rclone().await.reports_what_is_wrong().await;
}

#[tokio::test]
async fn rclone_serves_the_command_line() {
    Server::rclone().await.serves_the_command_line(Proofs { single: "transport", multipart: None }).await;
}
