//! moto 5, in Python: keeps checksums of single uploads, knows versions, and reports a bad version by HEAD and GET
//! differently.

use crate::server::Server;
use gantry_proto::Key;

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
    Server::moto().await.serves_the_command_line("full_object").await;
}
