//! `gantry watch`, with and without `JetStream`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::gantry::Running;
use crate::support::site::{FILES, listed};
use crate::support::{NatsOptions, POLL, Site, until};

const SUBJECT: &str = "events.files";
const STREAM: &str = "EVENTS";

/// A site whose stored objects are announced.
struct Announcing {
    site: Site,
    client: async_nats::Client,
}

/// A running `gantry watch` and its output in JSON.
struct Watching {
    command: Running,
    events: PathBuf,
    errors: PathBuf,
}

impl Announcing {
    async fn start() -> Self {
        let config = "jetstream { store_dir: jetstream }\n".to_owned();
        let site = Site::with_nats(NatsOptions { config, ..NatsOptions::default() }).await;
        let client = site.nats.client().await;
        Self { site, client }
    }

    /// Makes a stream that stores the events.
    async fn with_stream() -> Self {
        let announcing = Self::start().await;
        announcing.api(&format!("STREAM.CREATE.{STREAM}"), &json!({"name": STREAM, "subjects": ["events.>"]})).await;
        announcing
    }

    async fn api(&self, operation: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.client.request(format!("$JS.API.{operation}"), body.into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{operation}: {answer}");
        answer
    }

    /// Waits until this many messages of the consumer are not acknowledged, or not even delivered.
    async fn until_unfinished(&self, count: u64) {
        until(&format!("{count} unfinished messages"), async || {
            let info = self.api(&format!("CONSUMER.INFO.{STREAM}.edge"), &Value::Null).await;
            let unfinished = info["num_ack_pending"].as_u64()? + info["num_pending"].as_u64()?;
            (unfinished == count).then_some(())
        })
        .await;
    }

    /// Stores an object and announces it.
    async fn put(&self, key: &str, content: &str) {
        let path = self.site.files().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self.announce(key).await;
    }

    async fn announce(&self, encoded_key: &str) {
        self.publish(&event(encoded_key).to_string()).await;
    }

    async fn publish(&self, message: &str) {
        self.client.publish(SUBJECT, message.to_owned().into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    fn out(&self) -> PathBuf {
        self.site.downloads().join("out")
    }

    /// Starts `gantry watch`, and returns once it receives events.
    async fn watch(&self, args: &[&str]) -> Watching {
        let [events, errors] = ["events.json", "errors"].map(|name| self.site.downloads().join(name));
        let to_file = ["sh", "-c", "exec 2> \"$0\"; exec \"$@\"", errors.to_str().unwrap()];
        let command = self.site.command(["watch", SUBJECT, FILES, "--json"]).stdout_to(&events).through(to_file);
        let command = args.iter().fold(command, |command, arg| command.arg(arg)).spawn();
        let watching = Watching { command, events, errors };
        watching.until("watching", "").await;
        watching
    }
}

impl Watching {
    fn read(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Returns the keys of all events of a kind.
    fn keys(&self, kind: &str) -> Vec<String> {
        let events = self.read().into_iter().filter(|event| event["event"] == kind);
        events.map(|event| event["key"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits for an event about a key.
    async fn until(&self, kind: &str, key: &str) {
        until(&format!("{kind} {key}"), async || self.keys(kind).iter().any(|found| found == key).then_some(())).await;
    }

    /// Ends it with Ctrl-C, and returns what it printed to stderr.
    async fn interrupt(self) -> String {
        self.command.signal("INT");
        self.command.output().await.expect_code(130);
        let printed = read(self.errors);
        assert!(printed.ends_with("gantry: interrupted\n"), "{printed}");
        printed
    }
}

/// Returns an event message as `MinIO` publishes it.
pub(crate) fn event(encoded_key: &str) -> Value {
    let object = json!({"key": encoded_key, "size": 1, "eTag": "e", "contentType": "text/plain"});
    json!({"EventName": "s3:ObjectCreated:Put", "Key": "bucket/?", "Records": [{
        "eventVersion": "2.0", "eventSource": "minio:s3", "eventName": "s3:ObjectCreated:Put",
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "bucket"}, "object": object},
    }]})
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn announced_objects_are_downloaded_by_the_rules_of_paths() {
    let announcing = Announcing::start().await;
    let out = announcing.out();
    let watching = announcing.watch(&["-o", out.to_str().unwrap()]).await;

    announcing.publish("not an event").await;
    announcing.announce("..%2Fescape").await;
    announcing.announce("missing").await;
    announcing.put("plain", "1").await;
    fs::write(announcing.site.files().join("a b+c"), "2").unwrap();
    announcing.announce("a+b%2Bc").await;
    watching.until("fetched", "plain").await;
    watching.until("fetched", "a b+c").await;
    watching.until("left_out", "../escape").await;
    watching.until("failed", "missing").await;

    // The same size and second: only the announcement shows that it is another version.
    announcing.put("plain", "3").await;
    until("the newer version", async || (read(out.join("plain")) == "3").then_some(())).await;
    announcing.announce("plain").await;
    until("a repeated event", async || (watching.keys("fetched").len() == 4).then_some(())).await;

    let printed = watching.interrupt().await;
    assert_eq!(listed(&out), ["a b+c", "plain"]);
    assert_eq!(read(out.join("a b+c")), "2");
    assert_eq!(listed(announcing.site.downloads()), ["errors", "events.json", "out"]);
    let skipped: Vec<_> = printed.lines().filter(|line| line.contains("skipped a message")).collect();
    assert!(skipped.len() == 1 && skipped[0].contains("it is not JSON"), "{printed}");
    assert!(printed.contains("left out files/../escape"), "{printed}");
}

#[tokio::test]
async fn a_durable_watch_continues_where_it_stopped() {
    let announcing = Announcing::with_stream().await;
    let out = announcing.out();
    let args = ["--durable", "edge", "-o", out.to_str().unwrap()];
    announcing.put("before", "1").await;
    let watching = announcing.watch(&args).await;
    watching.until("fetched", "before").await;
    announcing.put("during", "2").await;
    watching.until("fetched", "during").await;
    watching.interrupt().await;
    announcing.until_unfinished(0).await;

    announcing.put("between", "3").await;
    announcing.publish("not an event").await;
    announcing.until_unfinished(2).await;
    let watching = announcing.watch(&args).await;
    watching.until("fetched", "between").await;
    assert_eq!(watching.keys("fetched"), ["between"]);
    watching.interrupt().await;
    announcing.until_unfinished(0).await;

    // The stage is left if the signal arrived before the end of the last download.
    let files: Vec<_> = listed(&out).into_iter().filter(|name| name != ".gantry-tree").collect();
    assert_eq!(files, ["before", "between", "during"]);
}

#[tokio::test]
async fn an_event_is_acknowledged_only_after_its_command() {
    let announcing = Announcing::with_stream().await;
    let ran = announcing.site.downloads().join("ran");
    announcing.put("a", "1").await;

    // The first run is killed by its own command.
    let script = r#"echo "$OBJECT_KEY $0" >> "$1"; test -s "$2" || { echo x > "$2"; kill -KILL $PPID; }"#;
    let marker = announcing.site.downloads().join("marker");
    let args = ["--durable", "edge", "--", "sh", "-c", script, "{}", ran.to_str().unwrap(), marker.to_str().unwrap()];
    let killed = announcing.watch(&args).await.command.output().await;
    assert_eq!(killed.code, None);
    announcing.until_unfinished(1).await;

    let watching = announcing.watch(&args).await;
    watching.until("ran", "a").await;
    watching.interrupt().await;
    assert_eq!(read(&ran), "a files/a\na files/a\n");
    announcing.until_unfinished(0).await;
}

#[tokio::test]
async fn a_failing_command_is_repeated_up_to_a_bound() {
    let announcing = Announcing::with_stream().await;
    for args in [&["--durable", "edge"][..], &[]] {
        let command = ["--attempts", "2", "--", "sh", "-c", "exit 3"];
        let watching = announcing.watch(&[args, &command].concat()).await;
        announcing.put("a", "1").await;
        watching.until("failed", "a").await;
        watching.until("gave_up", "a").await;
        if !args.is_empty() {
            announcing.until_unfinished(0).await;
        }
        let printed = watching.interrupt().await;

        for line in [
            "gantry: failed files/a: sh ended with exit code 3; again in 1 s",
            "gantry: failed files/a: sh ended with exit code 3; gave up after 2 attempts",
        ] {
            assert_eq!(printed.lines().filter(|found| *found == line).count(), 1, "{args:?}: {printed}");
        }
    }
}

#[tokio::test]
async fn a_command_runs_after_the_download_with_its_file() {
    let announcing = Announcing::start().await;
    let (out, copy) = (announcing.out(), announcing.site.downloads().join("copy"));
    let script = r#"cp "$OBJECT_FILE" "$0""#;
    let args = ["-o", out.to_str().unwrap(), "--", "sh", "-c", script, copy.to_str().unwrap()];
    let watching = announcing.watch(&args).await;
    announcing.put("sub/a", "1").await;
    watching.until("ran", "sub/a").await;
    watching.interrupt().await;
    assert_eq!(read(copy), "1");
}

#[tokio::test]
async fn a_flood_of_events_is_bounded_and_reported() {
    let announcing = Announcing::start().await;
    let watching = announcing.watch(&["--", "sh", "-c", "exec sleep 1000"]).await;
    let message = event("a").to_string();
    for _ in 0..12_000 {
        announcing.client.publish(SUBJECT, message.clone().into()).await.unwrap();
    }
    announcing.client.flush().await.unwrap();

    let dropped = "dropped an event: 10000 others wait";
    until("a dropped event", async || read(&watching.errors).contains(dropped).then_some(())).await;

    // The first signal waits for the command, the second one kills it.
    let command = children(watching.command.pid());
    assert_eq!(command.len(), 1);
    watching.command.signal("INT");
    until("the end of the subscription", async || {
        let asked = announcing.client.request(SUBJECT, "".into());
        timeout(POLL, asked).await.is_ok_and(|answer| answer.is_err()).then_some(())
    })
    .await;
    assert!(children(watching.command.pid()) == command);
    let printed = watching.interrupt().await;
    assert!(printed.lines().count() < 20, "{printed}");
    for pid in command {
        until("the end of the command", async || (!crate::support::process::is_running(pid)).then_some(())).await;
    }
}

/// Returns the processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let text: String = threads.map(|thread| read(thread.path().join("children"))).collect();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let announcing = Announcing::start().await;
    for (args, code, named) in [
        (&["files"][..], 2, "add -o with a folder, or a command after --"),
        (&["files", "--durable", "a.b", "-o", "x"], 2, "letters, digits"),
        (&["files", "--stream", "S", "-o", "x"], 2, "--durable"),
        (&["files", "--durable", "edge", "-o", "x"], 4, "no stream stores events.files"),
        (&["files", "--durable", "edge", "--stream", "S", "-o", "x"], 4, "there is no stream S"),
    ] {
        let command = announcing.site.command(["watch", SUBJECT]).current_dir(announcing.site.downloads());
        let done = args.iter().fold(command, |command, arg| command.arg(arg)).run().await.expect_code(code);
        assert!(done.stderr.contains(named), "{args:?}: {}", done.stderr);
    }

    let plain = Site::start().await;
    let done = plain.command(["watch", SUBJECT, FILES, "--durable", "edge", "-o", "x"]).run().await.expect_code(1);
    assert!(done.stderr.contains("JetStream is not enabled"), "{}", done.stderr);

    let watching = announcing.watch(&["--", "/no/such/program"]).await;
    announcing.announce("a").await;
    watching.command.output().await.expect_code(2);
    let printed = read(announcing.site.downloads().join("errors"));
    assert!(printed.contains("can't run /no/such/program"), "{printed}");
}
