//! What a relay's log contains for troubleshooting.

use crate::support::{Nats, Relay, data, gantry};

#[tokio::test]
async fn refusals_and_ends_are_logged_with_a_reason_but_without_the_key() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("here"), 1, 100_000);
    let relay = Relay::on(&nats).store("s", format!("file://{}", folder.path().display())).start().await;

    gantry(["get", "s/secret-name", "-o", "-"]).nats(&nats).run().await.expect_code(4);
    gantry(["get", "s/here", "-o", "-"]).nats(&nats).run().await.expect_code(0);

    relay.logged("transfer ended").await;
    let log = relay.stderr();
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}: {log}"));
    let refused = line("refusing a request");
    assert!(refused.contains("code=not_found") && refused.contains("reason=") && refused.contains('…'), "{refused}");
    let ended = line("transfer ended");
    for field in ["outcome=\"completed\"", "size=100000 etag=", "bytes=100000", "first_byte_ms="] {
        assert!(ended.contains(field), "{field}: {ended}");
    }
    assert!(!log.contains("secret-name") && !log.contains("here"), "{log}");
}
