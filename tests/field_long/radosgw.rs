//! Ceph's S3 gateway, as Debian packages it (version 16): accepts any key, and stores no checksums.

use std::time::Duration;

use gantry_proto::Key;

use crate::server::{Proofs, Server};
use crate::support::data;
use crate::support::process::{root, server, supervised};

impl Server {
    /// Starts a Ceph cluster in memory with its S3 gateway, from Debian's packages.
    pub(crate) async fn radosgw() -> Self {
        let (port, folder, packages) = (data::free_port(), data::folder(), server("debian/radosgw"));
        let libraries = packages.join("usr/lib/x86_64-linux-gnu");
        let paths = [libraries.join("ceph"), libraries, packages.join("lib/x86_64-linux-gnu")];

        let mut command = supervised("/usr/bin/python3", Duration::ZERO);
        command.arg(root().join("deploy/dev/run_radosgw.py")).arg(folder.path().join("ceph")).arg(port.to_string());
        command.arg(&packages);
        command.env("PYTHONPATH", packages.join("usr/lib/python3/dist-packages"));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(paths).unwrap());
        Self::start("gantry-field", "radosgw", port, command, folder).await
    }
}

#[tokio::test]
async fn radosgw_conforms() {
    Server::radosgw().await.conforms(&["/leading", "a//b"], Key::MAX_BYTES).await;
}

#[tokio::test]
async fn radosgw_reports_what_is_wrong() {
    Server::radosgw().await.reports_what_is_wrong().await;
}

#[tokio::test]
async fn radosgw_serves_the_command_line() {
    Server::radosgw().await.serves_the_command_line(Proofs { single: "transport", multipart: Some("transport") }).await;
}
