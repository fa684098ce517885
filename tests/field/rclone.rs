//! `rclone serve s3`: ignores `If-Match`, answers ranges with 200, knows no versions, takes no key that can't be a path, and
//! states a stored checksum only to a HEAD, which a download does not send.

use crate::server::Server;
use gantry_proto::Key;

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
    Server::rclone().await.serves_the_command_line("transport").await;
}
