//! OpenStack Swift with its S3 API, as Debian packages it: keys of at most 1024 bytes, no stored checksums, and listings
//! that follow the container's updates.

use std::time::Duration;

use gantry_proto::Key;

use crate::server::{Proofs, Server};
use crate::support::data;
use crate::support::process::{root, server, supervised};

impl Server {
    /// Starts Swift with its S3 API, from Debian's packages.
    pub(crate) async fn swift() -> Self {
        let (port, folder, swift) = (data::free_port(), data::folder(), server("debian/swift"));
        let mut command = supervised("/usr/bin/python3", Duration::ZERO);
        command.arg(root().join("deploy/dev/run_swift.py")).arg(folder.path().join("swift")).arg(port.to_string());
        command.env("PYTHONPATH", swift.join("usr/lib/python3/dist-packages"));
        command.env("LD_LIBRARY_PATH", swift.join("usr/lib/x86_64-linux-gnu"));
        Self::start("gantry:field", "swift", port, command, folder).await
    }
}

#[tokio::test]
async fn swift_conforms() {
    Server::swift().await.conforms(&[], Key::MAX_BYTES).await;
}

#[tokio::test]
async fn swift_reports_what_is_wrong() {
    Server::swift().await.reports_what_is_wrong().await;
}

#[tokio::test]
async fn swift_serves_the_command_line() {
    Server::swift().await.serves_the_command_line(Proofs { single: "transport", multipart: Some("transport") }).await;
}
