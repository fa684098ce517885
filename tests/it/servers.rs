//! Tests of the harness itself: the servers are real, behave as tests expect, and leave nothing behind.

use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::support::nats::NatsVersion;
use crate::support::process::{Process, is_running, supervised};
use crate::support::{DEADLINE, Nats, NatsCluster, NatsOptions, S3, data, until};

#[tokio::test]
async fn nats_carries_a_message() {
    let nats = Nats::plain().await;
    assert_carries(&nats).await;
}

#[tokio::test]
async fn debians_nats_server_carries_a_message() {
    let nats = Nats::start(NatsOptions { version: NatsVersion::Debian, ..NatsOptions::default() }).await;
    assert_carries(&nats).await;
    assert!(nats.client().await.server_info().version.starts_with("2."));
}

#[tokio::test]
async fn nats_keeps_its_port_and_limits_over_a_restart() {
    let mut nats = Nats::start(NatsOptions { max_payload: Some(65_536), ..NatsOptions::default() }).await;
    let url = nats.url();
    let pid = nats.pid();

    nats.kill().await;
    assert!(!is_running(pid));
    nats.restart().await;

    assert_eq!(nats.url(), url);
    assert_ne!(nats.pid(), pid);
    assert_eq!(nats.client().await.server_info().max_payload, 65_536);
}

#[tokio::test]
async fn cluster_carries_a_message_after_a_node_came_back() {
    let mut cluster = NatsCluster::start::<3>(NatsOptions::default()).await;
    cluster.nodes[1].stop().await;
    cluster.nodes[1].restart().await;
    cluster.meshed().await;
}

#[tokio::test]
async fn s3_returns_what_was_put() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    let body = data::random_bytes(1, 100_000);
    let etag = s3.put(&bucket, "a key/with ünicode%", body.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;

    let client = s3.client();
    let head = client.head_object().bucket(&bucket).key("a key/with ünicode%").checksum_mode(ChecksumMode::Enabled);
    let head = head.send().await.unwrap();
    let object = client.get_object().bucket(&bucket).key("a key/with ünicode%").send().await.unwrap();

    assert_eq!(head.e_tag, Some(etag));
    assert!(head.checksum_crc64_nvme.is_some(), "the store kept no checksum");
    assert_eq!(object.body.collect().await.unwrap().into_bytes(), body);
}

#[tokio::test]
async fn s3_joins_the_parts_of_an_object() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    let body = data::random_bytes(2, (5 << 20) + 7);
    let parts = [body.slice(..5 << 20), body.slice(5 << 20..)];
    let checksum = (ChecksumAlgorithm::Sha256, ChecksumType::Composite);
    let etag = s3.put_multipart(&bucket, "parts", &parts, Some(checksum)).await;

    let object = s3.client().get_object().bucket(&bucket).key("parts").send().await.unwrap();

    assert!(etag.ends_with("-2\""), "{etag} is not a multipart ETag");
    assert_eq!(object.body.collect().await.unwrap().into_bytes(), body);
}

#[tokio::test]
async fn s3_refuses_a_user_without_rights() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    s3.put(&bucket, "key", Bytes::from_static(b"secret"), None).await;
    let denied = s3.denied();
    let keys = aws_sdk_s3::config::Credentials::new(
        denied.access_key_id.clone(),
        denied.secret_access_key.clone(),
        None,
        None,
        "it",
    );
    let config = s3.client().config().to_builder().credentials_provider(keys).build();

    let refused = aws_sdk_s3::Client::from_conf(config).get_object().bucket(&bucket).key("key").send().await;

    let status = refused.unwrap_err().raw_response().map(|response| response.status().as_u16());
    assert_eq!(status, Some(403));
}

#[tokio::test]
async fn s3_keeps_its_data_over_a_restart() {
    let mut s3 = S3::start().await;
    let body = Bytes::from_static(b"still here");
    s3.create_bucket("kept").await;
    s3.put("kept", "key", body.clone(), None).await;
    let endpoint = s3.endpoint().to_owned();

    s3.kill();
    s3.restart().await;

    assert_eq!(s3.endpoint(), endpoint);
    let object = s3.client().get_object().bucket("kept").key("key").send().await.unwrap();
    assert_eq!(object.body.collect().await.unwrap().into_bytes(), body);
}

/// A process ends when its pipe closes, as it does when the test process dies. This test uses a command that ignores
/// SIGTERM, and its child.
#[tokio::test]
async fn nothing_outlives_its_starter() {
    let folder = data::folder();
    let child_file = folder.path().join("child");
    let script = format!("trap '' TERM; sleep 600 & echo $! > {}.new && mv {0}.new {0}; wait", child_file.display());
    let mut command = supervised("sh", Duration::from_millis(100));
    command.args(["-c", &script]);
    let process = Process::start("a stubborn command", &mut command);
    let pid = process.pid();
    let child = until("the command's child", async || std::fs::read_to_string(&child_file).ok()).await;
    let child: u32 = child.trim().parse().unwrap();
    assert!(is_running(pid) && is_running(child));

    drop(process);

    until("the command's end", async || (!is_running(pid)).then_some(())).await;
    until("the end of the command's child", async || (!is_running(child)).then_some(())).await;
}

async fn assert_carries(nats: &Nats) {
    let one = nats.client().await;
    let other = nats.client().await;
    let mut messages = other.subscribe("it.subject").await.unwrap();
    // When the server answers a request on the same connection, it has processed the subscription.
    other.flush().await.unwrap();
    let message = until("the message", async || {
        one.publish("it.subject", "hello".into()).await.unwrap();
        timeout(Duration::from_millis(100), messages.next()).await.ok().flatten()
    })
    .await;
    assert_eq!(message.payload, "hello");
    drop(timeout(DEADLINE, one.drain()).await);
}
