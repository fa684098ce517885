//! Edge relays: a hub with a relay that reads S3, and a site with a relay that reads the hub's relay and keeps on disk what
//! it reads.

use std::fmt::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use tempfile::TempDir;

use crate::gateway;
use crate::ops::{address, page};
use crate::support::gantry::{BINARY, Command};
use crate::support::{Nats, Relay, S3, data, gantry, until};
use crate::watch::event;

const LEN: usize = (5 << 20) + 7;

/// A hub and a site, whose only connection is the edge relay's.
struct World {
    s3: &'static S3,
    bucket: String,
    hub: Nats,
    site: Nats,
    _hub_relay: Relay,
    hub_pages: String,
    edge: Option<Relay>,
    edge_pages: String,
    folder: TempDir,
    /// Further keys of the edge relay's store.
    keys: &'static str,
}

impl World {
    async fn start(keys: &'static str) -> Self {
        let s3 = S3::shared().await;
        let (hub, site, bucket) = tokio::join!(Nats::plain(), Nats::plain(), s3.bucket());
        let hub_pages = address();
        let hub_relay = Relay::on(&hub).s3(s3).store("models", format!("s3://{bucket}")).arg("--http").arg(&hub_pages);
        let hub_relay = hub_relay.start().await;

        let (folder, edge_pages) = (data::folder(), address());
        let mut world =
            Self { s3, bucket, hub, site, _hub_relay: hub_relay, hub_pages, edge: None, edge_pages, folder, keys };
        world.start_edge().await;
        world
    }

    async fn start_edge(&mut self) {
        self.start_edge_with(&[]).await;
    }

    async fn start_edge_with(&mut self, options: &[&str]) {
        let mut config = format!(
            "[stores.models]\nurl = \"nats:models\"\ncache_dir = \"{}\"\n{}\n",
            self.cache().display(),
            self.keys
        );
        write!(config, "[stores.models.nats]\nurl = \"{}\"\n", self.hub.url()).unwrap();
        let edge = Relay::on(&self.site).config(config).arg("--http").arg(&self.edge_pages);
        let edge = options.iter().fold(edge, |edge, option| edge.arg(option));
        self.edge = Some(edge.start().await);
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    async fn put(&self, key: &str, bytes: &Bytes) {
        self.s3.put(&self.bucket, key, bytes.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;
    }

    fn get(&self, file: &str) -> Command {
        gantry(["get", "models/a.bin", "--json", "-o"]).nats(&self.site).arg(self.target(file))
    }

    fn target(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Downloads the object at the site, and checks its bytes and their proof.
    async fn check(&self, file: &str, bytes: &Bytes) -> serde_json::Value {
        let json = self.get(file).run().await.expect_code(0).json();
        assert!(std::fs::read(self.target(file)).unwrap() == *bytes, "{json}");
        assert_eq!(json["proof"], serde_json::json!({"kind": "full_object", "algorithm": "crc64nvme"}));
        json
    }

    async fn hub_sent(&self) -> u64 {
        metric(&self.hub_pages, "gantry_sent_bytes_total{store=\"models\"}").await
    }

    async fn edge_metric(&self, name: &str) -> u64 {
        metric(&self.edge_pages, &format!("gantry_cache_{name}{{store=\"models\"")).await
    }

    /// Waits until the whole object is on disk.
    async fn filled(&self) {
        until("the object on disk", async || {
            (self.edge_metric("filled_bytes_total").await >= LEN as u64).then_some(())
        })
        .await;
    }

    fn blocks(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path());
        let mut blocks: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "block")).collect();
        blocks.sort();
        blocks
    }
}

/// Returns the sum of all series that begin with this text.
pub(crate) async fn metric(address: &str, series: &str) -> u64 {
    let (_, text) = page(address, "/metrics").await.unwrap();
    let series = series.trim_end_matches('}');
    let lines = text.lines().filter(|line| line.starts_with(series));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

fn damage(block: &Path) {
    let file = std::fs::File::options().write(true).open(block).unwrap();
    file.write_all_at(b"damage", 5000).unwrap();
}

#[tokio::test]
async fn an_object_crosses_the_uplink_once_and_later_rounds_ask_for_its_version_only() {
    let world = World::start("").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;

    let names: Vec<_> = (0..10).map(|number| format!("first{number}")).collect();
    let first = names.iter().map(|name| world.check(name, &bytes));
    futures_util::future::join_all(first).await;
    world.filled().await;
    assert_eq!(world.hub_sent().await, LEN as u64);
    let hub_gets = || metric(&world.hub_pages, "gantry_requests_total{operation=\"get\"");
    let before = hub_gets().await;

    for round in 0..3 {
        let json = world.check(&format!("later{round}"), &bytes).await;
        assert_eq!(json["stale_s"], serde_json::Value::Null);
    }
    assert_eq!((world.hub_sent().await, hub_gets().await), (LEN as u64, before));

    let stat = gantry(["stat", "models/a.bin", "--json"]).nats(&world.site).run().await.expect_code(0).json();
    assert!(stat["checksum"]["value"].is_string() && stat["last_modified"].is_string(), "{stat}");
    let listed = gantry(["ls", "models"]).nats(&world.site).run().await.expect_code(0).stdout_text();
    assert!(listed.contains("a.bin"), "{listed}");
    gantry(["stat", "models/missing"]).nats(&world.site).run().await.expect_code(4);
}

#[tokio::test]
async fn objects_are_fetched_ahead_of_time_by_commands_and_on_events() {
    let mut world = World::start("serve_stale = true").await;
    let [bytes, new, other] = [1, 2, 3].map(|seed| data::random_bytes(seed, LEN));
    world.put("a.bin", &bytes).await;
    world.put("set/1.bin", &other).await;
    world.put("set/b/2.bin", &other).await;
    let fetched = async |objects: u64| {
        let all_filled = async || world.edge_metric("filled_bytes_total").await >= objects * LEN as u64;
        until("the objects on disk", async || all_filled().await.then_some(())).await;
    };

    gantry(["get", "models/a.bin", "-o", "/dev/null"]).nats(&world.site).run().await.expect_code(0);
    let found = gantry(["find", "models/set/"]).nats(&world.site).run().await.expect_code(0).stdout_text();
    let cat = found.lines().fold(gantry(["cat"]).nats(&world.site), |cat, address| cat.arg(address));
    cat.run().await.expect_code(0);
    fetched(3).await;

    let printed = world.target("events.json");
    let fetch = ["--", BINARY, "get", "{}", "-o", "/dev/null", "--server", &world.site.url()];
    let watch = gantry(["watch", "events.models", "models", "--json"]).nats(&world.site).stdout_to(&printed);
    let watch = fetch.iter().fold(watch, |watch, arg| watch.arg(arg)).spawn();
    let is_watching = || std::fs::read_to_string(&printed).is_ok_and(|text| text.contains("watching"));
    until("the watch", async || is_watching().then_some(())).await;
    world.put("a.bin", &new).await;
    let client = world.site.client().await;
    client.publish("events.models", event("a.bin").to_string().into()).await.unwrap();
    fetched(4).await;
    watch.signal("INT");
    watch.output().await.expect_code(130);

    world.hub.kill().await;
    assert!(world.check("copy", &new).await["stale_s"].is_u64());
}

#[tokio::test]
async fn a_replaced_object_is_never_served_from_disk() {
    let world = World::start("serve_stale = true").await;
    for round in 0..3 {
        let bytes = data::random_bytes(round, LEN);
        world.put("a.bin", &bytes).await;
        world.check(&format!("one{round}"), &bytes).await;
        world.check(&format!("two{round}"), &bytes).await;
    }
}

#[tokio::test]
async fn without_an_uplink_complete_objects_are_served_and_marked_if_so_configured() {
    let mut world = World::start("serve_stale = true").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;
    world.check("one", &bytes).await;
    world.filled().await;

    world.hub.kill().await;
    let json = world.check("two", &bytes).await;
    assert!(json["stale_s"].is_u64(), "{json}");
    let text = gantry(["get", "models/a.bin", "-o"]).nats(&world.site).arg(world.target("three")).run().await;
    assert!(text.stderr.contains("served from a cache that could not ask its store for"), "{}", text.stderr);
    let stat = gantry(["stat", "models/a.bin"]).nats(&world.site).run().await.expect_code(0).stdout_text();
    assert!(stat.contains("stale:"), "{stat}");
    gantry(["stat", "models/other"]).nats(&world.site).run().await.expect_code(5);

    // Also after a restart without the uplink.
    world.edge.take();
    world.start_edge().await;
    assert!(world.check("four", &bytes).await["stale_s"].is_u64());

    world.hub.restart().await;
    let fresh = async || (world.check("five", &bytes).await["stale_s"].is_null()).then_some(());
    until("a fresh answer", fresh).await;
}

/// A program that speaks only HTTP needs the gateway: one beside the edge relay, or the edge relay's own.
#[tokio::test]
async fn without_an_uplink_http_clients_get_what_is_cached() {
    let mut world = World::start("serve_stale = true").await;
    let text = "a line of text\n".repeat(LEN / 15);
    world.put("a.txt", &Bytes::from(text.clone())).await;
    world.put("other", &Bytes::from_static(b"other")).await;
    let [inside, beside] = gateway::addresses();
    world.edge.take();
    world.start_edge_with(&["--gateway", &inside]).await;
    let _gateway = gateway::gateway(&world.site.url(), &beside, &address());

    let addresses = [&inside, &beside];
    for address in addresses {
        let answer = gateway::status(address, "/models/a.txt", 200).await;
        assert!(answer.body == text && !answer.head.contains("\r\nage: "), "{address}: {}", answer.head);
    }
    let blocks = text.len().div_ceil(1 << 20);
    until("the object on disk", async || (world.blocks().len() == blocks).then_some(())).await;

    world.hub.kill().await;
    for address in addresses {
        let stale = async || gateway::get(address, "/models/a.txt").await.filter(|it| it.head.contains("\r\nage: "));
        let answer = until("an answer from the cache", stale).await;
        assert!(answer.status == 200 && answer.body == text, "{address}: {}", answer.head);
        assert!(answer.head.contains("\r\ngantry-proof: full-object;algorithm=crc64nvme"), "{}", answer.head);

        let missing = gateway::get(address, "/models/other").await.unwrap();
        assert_eq!(missing.status, 503, "{address}: {missing:?}");
        assert!(missing.body.contains("upstream store models: no connection to nats-server"), "{}", missing.body);
    }

    world.hub.restart().await;
    for address in addresses {
        assert_eq!(gateway::status(address, "/models/other", 200).await.body, "other");
    }
}

#[tokio::test]
async fn a_consumer_waits_for_a_relay_if_it_is_told_to() {
    let mut world = World::start("").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;
    world.edge.take();

    let failed = world.get("one").run().await.expect_code(5);
    assert!(failed.stderr.contains("no relay is listening") && failed.stderr.contains("--await-relay"));
    let waiting = world.get("one").arg("--await-relay").arg("60s").spawn();
    world.start_edge().await;
    waiting.output().await.expect_code(0);
    assert!(std::fs::read(world.target("one")).unwrap() == bytes);
}

#[tokio::test]
async fn without_an_uplink_requests_fail_soon_by_default() {
    let mut world = World::start("").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;
    world.check("one", &bytes).await;

    world.hub.kill().await;
    let failed = gantry(["stat", "models/a.bin"]).nats(&world.site).run().await.expect_code(5);
    assert!(failed.stderr.contains("no connection to nats-server at"), "{}", failed.stderr);
}

#[tokio::test]
async fn a_damaged_block_is_fetched_again() {
    // Memory would serve what the disk can't.
    let world = World::start("shared_reads = false").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;
    world.check("one", &bytes).await;
    world.filled().await;

    damage(&world.blocks()[1]);
    let cache = |args: &[&str]| gantry(args.iter().copied()).arg("--dir").arg(world.cache()).run();
    let verified = cache(&["cache", "verify"]).await.expect_code(6);
    assert!(verified.stdout_text().contains("its checksum is wrong"), "{}", verified.stdout_text());
    let sent = world.hub_sent().await;
    world.check("two", &bytes).await;
    assert_eq!(world.edge_metric("damaged_files_total").await, 1);
    assert!(world.hub_sent().await - sent <= 1 << 20);

    until("the block on disk", async || (world.blocks().len() == 6).then_some(())).await;
    cache(&["cache", "verify"]).await.expect_code(0);
    let listed = cache(&["cache", "ls", "--json"]).await.expect_code(0).json();
    assert_eq!((&listed["key"], &listed["is_complete"]), (&"a.bin".into(), &true.into()));

    // The relay notices that its files are gone.
    cache(&["cache", "purge", "models/b"]).await.expect_code(0);
    assert_eq!(world.blocks().len(), 6);
    cache(&["cache", "purge", "models/a"]).await.expect_code(0);
    assert!(world.blocks().is_empty());
    world.check("three", &bytes).await;
}

#[tokio::test]
async fn a_download_continues_after_its_edge_relay_was_killed() {
    let mut world = World::start("").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;

    for round in 0..3 {
        let running = world.get("one").arg("--limit-rate").arg("4M").spawn();
        until("bytes at the consumer", async || {
            (metric(&world.edge_pages, "gantry_sent_bytes_total{store=\"models\"}").await > 1 << 20).then_some(())
        })
        .await;
        world.edge.as_mut().unwrap().kill().await;
        world.edge.take();
        world.start_edge().await;

        let json = running.output().await.expect_code(0).json();
        assert!(std::fs::read(world.target("one")).unwrap() == bytes, "round {round}: {json}");
        std::fs::remove_file(world.target("one")).unwrap();
    }
    world.check("two", &bytes).await;
}

#[tokio::test]
async fn relays_that_ask_each_other_are_named() {
    let (one, other) = tokio::join!(Nats::plain(), Nats::plain());
    let config = |upstream: &Nats| {
        format!("[stores.models]\nurl = \"nats:models\"\n[stores.models.nats]\nurl = \"{}\"\n", upstream.url())
    };
    let first = Relay::on(&one).config(config(&other)).start().await;
    let second = Relay::on(&other).config(config(&one)).start().await;

    for args in [["stat", "models/a"], ["ls", "models"], ["cat", "models/a"]] {
        let failed = gantry(args).nats(&one).run().await;
        let expected = format!("in a circle: {} -> {} -> {}", first.id(), second.id(), first.id());
        assert!(failed.code == Some(1) && failed.stderr.contains(&expected), "{args:?}: {}", failed.stderr);
    }
}

#[tokio::test]
async fn folders_that_cannot_be_used_are_reported_and_passed_through() {
    let world = World::start("").await;
    let bytes = data::random_bytes(1, LEN);
    world.put("a.bin", &bytes).await;
    let folder = data::folder();

    let newer = folder.path().join("newer");
    std::fs::create_dir(&newer).unwrap();
    std::fs::set_permissions(&newer, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(newer.join("gantry-cache"), "gantry cache 99\n").unwrap();
    let exposed = folder.path().join("exposed");
    std::fs::create_dir(&exposed).unwrap();
    std::fs::set_permissions(&exposed, std::fs::Permissions::from_mode(0o777)).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();

    let site = Nats::plain().await;
    for (cache, problem) in [
        (world.cache(), "another process uses it"),
        (newer, "it was written by another version of Gantry"),
        (exposed, "other users may write to it (mode 777)"),
        (file, "it is not a directory"),
        ("/proc/none".into(), "it can't be opened"),
    ] {
        let config = format!(
            "[stores.models]\nurl = \"nats:models\"\ncache_dir = \"{}\"\n[stores.models.nats]\nurl = \"{}\"\n",
            cache.display(),
            world.hub.url()
        );
        let relay = Relay::on(&site).config(config.clone()).start().await;
        relay.logged(problem).await;
        gantry(["get", "models/a.bin", "-o"]).nats(&site).arg(world.target("it")).run().await.expect_code(0);
        assert!(std::fs::read(world.target("it")).unwrap() == bytes, "{problem}");
        assert_eq!(relay.stderr().matches(problem).count(), 1, "{}", relay.stderr());
        drop(relay);

        let file = folder.path().join("gantry.toml");
        std::fs::write(&file, config).unwrap();
        let check = gantry(["serve", "--check", "--config"]).arg(&file).nats(&site).run().await;
        let is_locked = problem.starts_with("another process");
        assert_eq!(check.code, Some(if is_locked { 0 } else { 2 }), "{}", check.stderr);
        assert!(is_locked || check.stderr.contains(problem), "{}", check.stderr);
    }
}

#[tokio::test]
async fn a_check_reports_an_upstream_without_a_relay() {
    let (hub, site) = tokio::join!(Nats::plain(), Nats::plain());
    let relays = |url: &str| {
        let run = gantry(["serve", "--check", "--store", "models=nats:models"]).nats(&site);
        run.env("GANTRY_STORES__MODELS__NATS__URL", url).run()
    };

    let missing = relays(&hub.url()).await.expect_code(2);
    assert!(missing.stderr.contains("start the upstream nats-server and a relay that serves models there"));
    let unreachable = relays(&format!("nats://127.0.0.1:{}", data::free_port())).await.expect_code(2);
    assert!(unreachable.stderr.contains("`stores.models.nats.url`"), "{}", unreachable.stderr);

    let own = gantry(["serve", "--check", "--store", "models=nats:models"]).nats(&site).run().await.expect_code(2);
    assert!(own.stderr.contains("would ask this relay itself"), "{}", own.stderr);
}
