//! Standard output and error that nobody reads, and text from peers on them.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use async_nats::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::s3_double::{Act, S3Double};
use crate::support::{DEADLINE, Nats, Relay, data, gantry, until};

/// Runs the command in a shell, with this redirection of standard error.
fn redirected(how: &str) -> [String; 3] {
    ["sh".to_owned(), "-c".to_owned(), format!("exec \"$0\" \"$@\" {how}")]
}

async fn alive(address: &str) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.contains(" 200 ").then_some(())
    };
    matches!(timeout(Duration::from_secs(2), asked).await, Ok(Some(())))
}

fn fifo(path: &Path) -> File {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    // Open at both ends, so that opening does not wait for a reader.
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// The relay, including its health page, once froze when 64 KiB of log had filled the pipe.
#[tokio::test]
async fn a_relay_keeps_serving_while_nobody_reads_its_log() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("object"), 7, 100_000);
    let pipe = folder.path().join("log");
    let mut log = fifo(&pipe);
    let address = format!("127.0.0.1:{}", data::free_port());
    let store = format!("s=file://{}", folder.path().display());
    let args = ["serve", "--store", &store, "--http", &address, "--log-level", "trace"];
    let relay = gantry(args).nats(&nats).through(redirected(&format!("2>{}", pipe.display()))).spawn();
    until("a relay that is alive", async || alive(&address).await.then_some(())).await;

    // At TRACE, each of these logs more than a kilobyte.
    for _ in 0..300 {
        assert!(alive(&address).await);
    }
    gantry(["get", "s/object", "-o", "-"]).nats(&nats).run().await.expect_code(0);

    relay.signal("TERM");
    let ended = timeout(DEADLINE, relay.output()).await.expect("the relay ends although nobody reads its log");
    assert_eq!(ended.code, Some(0));
    let mut kept = [0; 4096];
    assert!(log.read(&mut kept).unwrap() > 0, "the lines that fit into the pipe were written");
}

#[tokio::test]
async fn an_unwritable_stderr_changes_no_exit_code() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    data::random_file(&folder.path().join("object"), 7, 100_000);

    let relay = Relay::on(&nats).store("s", format!("file://{}", folder.path().display())).start().await;
    for how in ["2>/dev/full", "2>&-", "2>&1 | true"] {
        let target = data::folder();
        let file = target.path().join("file");
        let get = |key: &str| gantry(["get", key, "--log-level", "debug", "-o"]).arg(&file).nats(&nats);
        let got = |code: i32| ["sh".to_owned(), "-c".to_owned(), format!("\"$0\" \"$@\" {how}; exit {code}")];
        if how.contains('|') {
            // The shell returns only the last command's exit code, so this one is written to the file.
            get("s/object").through(got(0)).run().await.expect_code(0);
        } else {
            get("s/object").through(redirected(how)).run().await.expect_code(0);
            get("s/missing").through(redirected(how)).run().await.expect_code(4);
            gantry(["get"]).through(redirected(how)).run().await.expect_code(2);
        }
        assert_eq!(std::fs::read(&file).unwrap().len(), 100_000, "{how}");
    }

    drop(relay);
}

#[tokio::test]
async fn text_from_peers_is_escaped_in_all_output() {
    let nats = Nats::plain().await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let hostile = "no\n\u{1b}[2J\u{9b}31m\u{202e}";
    // A line break can't be part of a key: the consumer would reject the whole page.
    let hostile_key = "no\u{1b}[2J\u{9b}31m\u{202e}";
    let mut queries = client.subscribe("gantry.v1.*.s").await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(query) = futures_util::StreamExt::next(&mut queries).await {
            let Some(reply) = query.reply else { continue };
            if query.subject.contains(".list.") {
                let entry = serde_json::json!({ "key": hostile_key, "size": 1, "last_modified": hostile });
                let page = serde_json::json!({ "entries": [entry], "prefixes": [format!("{hostile_key}/")] });
                client.publish(reply, page.to_string().into()).await.unwrap();
                continue;
            }
            let error = serde_json::json!({ "code": "denied", "message": hostile, "retryable": false });
            let mut headers = HeaderMap::new();
            headers.insert("Gantry-Type", "error");
            headers.insert("Nats-Service-Error", "no");
            headers.insert("Nats-Service-Error-Code", "403");
            client.publish_with_headers(reply, headers, error.to_string().into()).await.unwrap();
        }
    });
    let is_plain = |text: &str| text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'));

    let listed = gantry(["ls", "s"]).nats(&nats).run().await.expect_code(0).stdout_text();
    assert!(is_plain(&listed) && listed.lines().count() == 2, "{listed:?}");
    let json = gantry(["ls", "s", "--json"]).nats(&nats).run().await.expect_code(0).stdout_text();
    assert!(is_plain(&json), "{json:?}");
    let entry: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(entry["key"], hostile_key, "JSON states the name exactly");

    for command in [["get", "s/k", "-o", "-"].as_slice(), &["stat", "s/k"]] {
        let said = gantry(command).nats(&nats).run().await.expect_code(8).stderr;
        assert!(is_plain(&said) && said.lines().count() == 1, "{said:?}");
    }
    answering.abort();
}

/// With traces enabled, such a header once made the transfer's task panic at the request to S3.
#[tokio::test]
async fn an_invalid_trace_header_is_not_passed_on() {
    let nats = Nats::plain().await;
    let object = data::random_bytes(8, 1000);
    let s3 = S3Double::start(object.clone(), |_| Act::Serve).await;
    let gone = format!("http://127.0.0.1:{}", data::free_port());
    let relay = Relay::on(&nats).store("s", "s3://bucket").env("OTEL_EXPORTER_OTLP_ENDPOINT", gone);
    let relay = relay.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
    let relay = relay.env("GANTRY_STORES__S__ENDPOINT_URL", s3.endpoint()).start().await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    headers.insert("tracestate", "a=\u{1}");

    let asked = client.request_with_headers("gantry.v1.stat.s", headers, r#"{"key":"k"}"#.into());
    let answer = timeout(DEADLINE, asked).await.expect("the request is answered").unwrap();

    assert!(serde_json::from_slice::<serde_json::Value>(&answer.payload).unwrap()["size"] == 1000);
    assert!(s3.requests().iter().all(|request| request.header("tracestate").is_none()));
    drop(relay);
}
