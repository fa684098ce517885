//! Who downloads what, from which relay, and how a drain proceeds.

use std::time::Duration;

use serde_json::Value;

use crate::ops::{address, page};
use crate::support::{Nats, Relay, data, gantry, until};

/// A relay with a file of 10 MB, and the address of its pages.
async fn relay(nats: &Nats, files: &std::path::Path, keys: bool) -> (Relay, String) {
    data::random_file(&files.join("large"), 1, 10_000_000);
    let address = address();
    let relay = Relay::on(nats)
        .store("files", format!("file://{}", files.display()))
        .arg("--http")
        .arg(&address)
        .env("GANTRY_LOG__KEYS", keys.to_string())
        .env("GANTRY_RELAY__DRAIN_GRACE_MS", "10000");
    (relay.start().await, address)
}

/// Returns the line of `/transfers`, once there is one that has sent bytes.
async fn active(address: &str) -> Value {
    until("a transfer in progress", async || {
        let (status, text) = page(address, "/transfers").await?;
        assert_eq!(status, 200, "{text}");
        let line: Value = serde_json::from_str(text.lines().next()?).unwrap();
        (line["sent_bytes"].as_u64().unwrap() > 0).then_some(line)
    })
    .await
}

#[tokio::test]
async fn operators_see_who_downloads_what_as_far_as_it_is_configured() {
    let nats = Nats::plain().await;
    for keys in [false, true] {
        let folder = data::folder();
        let (relay, address) = relay(&nats, folder.path(), keys).await;
        let target = folder.path().join("target");
        let get = gantry(["get", "files/large", "--correlation", "job 7", "--limit-rate", "1M", "-o"]).arg(target);
        let get = get.nats(&nats).spawn();

        let line = active(&address).await;
        assert_eq!((&line["store"], &line["size"]), (&Value::from("files"), &Value::from(10_000_000)));
        let shown = (line.get("key").is_some(), line.get("correlation").is_some());
        assert_eq!(shown, (keys, keys), "{line}");
        // It waits for the store now and then.
        let waits = async || (active(&address).await["waits_for"] == "credit").then_some(());
        until("a wait for credit", waits).await;

        let log = relay.stderr();
        let started = log.lines().find(|line| line.contains("transfer started")).unwrap();
        assert_eq!(started.contains("key=\"large\""), keys, "{started}");
        assert!(started.contains("correlation=\"job 7\""), "{started}");

        let relays = gantry(["relays", "--json"]).nats(&nats).run().await.expect_code(0).json();
        assert_eq!(relays["active"], 1, "{relays}");
        get.signal("INT");
        get.output().await.expect_code(130);
    }
}

#[tokio::test]
async fn a_download_names_the_relay_that_served_it() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let (relay, _) = relay(&nats, folder.path(), false).await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();

    for target in ["target", "-"] {
        let target = if target == "-" { target.into() } else { folder.path().join(target) };
        let get = gantry(["get", "files/large", "--json", "-o"]).arg(target).stdout_to(folder.path().join("stdout"));
        let output = get.nats(&nats).run().await.expect_code(0);
        let stdout = std::fs::read(folder.path().join("stdout")).unwrap();
        let text = if stdout.first() == Some(&b'{') { stdout } else { output.stderr.into_bytes() };
        let json: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["relay"]["id"], relay.id(), "{json}");
        assert_eq!(json["relay"]["host"], host.trim(), "{json}");
    }
    assert!(relay.stderr().contains(&format!("host={:?}", host.trim())), "{}", relay.stderr());
}

#[tokio::test]
async fn a_drain_is_reported_while_it_lasts() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let (mut relay, address) = relay(&nats, folder.path(), false).await;
    let target = folder.path().join("target");
    let get = gantry(["get", "files/large", "--limit-rate", "100K", "-o"]).arg(target).nats(&nats).spawn();
    active(&address).await;

    relay.signal("TERM");
    relay.logged("still draining transfers=1").await;
    get.signal("INT");
    relay.logged("all transfers have ended").await;

    assert!(tokio::time::timeout(Duration::from_secs(10), relay.wait()).await.unwrap().success());
    get.output().await.expect_code(130);
}
