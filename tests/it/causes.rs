//! What an operator reads when something is wrong: the cause, once.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::ops::ready;
use crate::support::{Nats, Relay, data, gantry, until};

fn store(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

/// A relay with a store in S3 that can't work, and one directory.
async fn relay_with_s3(nats: &Nats, folder: &Path, http: &str, variables: &[(&str, &str)]) -> Relay {
    let relay = Relay::on(nats).store("files", store(folder)).store("objects", "s3://bucket").arg("--http").arg(http);
    variables.iter().fold(relay, |relay, (name, value)| relay.env(name, value)).start().await
}

/// The page once contained "no answer within 5 s", and the retries of the S3 client took longer.
#[tokio::test]
async fn readyz_names_the_cause_of_an_unreachable_s3_server() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let http = format!("127.0.0.1:{}", data::free_port());
    let endpoint = format!("http://127.0.0.1:{}", data::free_port());
    let keys = [("AWS_ENDPOINT_URL", &*endpoint), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let _relay = relay_with_s3(&nats, folder.path(), &http, &keys).await;

    let page = until("the result of a probe", async || {
        Some(ready(&http, 200).await).filter(|page| page.contains("store objects: bucket"))
    })
    .await;

    assert!(page.contains("refused"), "{page}");
}

/// The reason once was 900 characters of debug output.
#[tokio::test]
async fn missing_credentials_are_reported_in_one_short_line() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let http = format!("127.0.0.1:{}", data::free_port());
    let region = [("AWS_REGION", "eu-central-1")];
    let relay = relay_with_s3(&nats, folder.path(), &http, &region).await;

    let page = until("the result of a probe", async || {
        Some(ready(&http, 200).await).filter(|page| page.contains("store objects: bucket"))
    })
    .await;
    let line = page.lines().find(|line| line.starts_with("store objects")).unwrap().to_owned();
    assert!(line.contains("credentials") && line.len() < 200, "{line}");
    assert!(relay.stderr().lines().all(|line| line.len() < 400), "{}", relay.stderr());

    let check = gantry(["serve", "--check", "--store", "objects=s3://bucket"]).nats(&nats);
    let output = check.env("AWS_REGION", "eu-central-1").run().await.expect_code(2);
    assert!(output.stderr.lines().all(|line| line.len() < 300), "{}", output.stderr);
}

/// One outage once caused nine lines without a reason.
#[tokio::test]
async fn an_outage_of_nats_is_logged_once_with_its_reason() {
    let mut nats = Nats::plain().await;
    let folder = data::folder();
    let relay = Relay::on(&nats).store("files", store(folder.path())).start().await;

    nats.kill().await;
    relay.logged("could not be restored at once").await;
    // Several attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    nats.restart().await;
    relay.logged("connected to nats-server again").await;

    let log = relay.stderr();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("nats-server")).collect();
    assert!(lines.iter().any(|line| line.contains("refused")), "{log}");
    // Of each connection: lost, why it is not restored, restored.
    assert!(lines.len() <= 6, "{log}");
}

#[tokio::test]
async fn json_lines_contain_each_span_once() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    std::fs::write(folder.path().join("key"), "hello").unwrap();
    let relay = Relay::on(&nats).store("files", store(folder.path())).arg("--log-format").arg("json").start().await;
    gantry(["get", "files/key", "-o", "-"]).nats(&nats).run().await.expect_code(0);
    relay.logged("\"spans\"").await;

    for line in relay.stderr().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line.get("span").is_none(), "{line}");
    }
}
