//! Downloads of one file in several streams, which several relays serve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::types::ChecksumAlgorithm;
use tokio::time::Instant;

use crate::edge::metric;
use crate::ops::address;
use crate::support::gantry::{Command, RelayBuilder};
use crate::support::site::{FILES, OBJECTS};
use crate::support::{Relay, Site, data, until};

const MIB: u64 = 1 << 20;

/// Two relays of the same stores, and their HTTP pages.
struct Pair {
    site: Site,
    relays: [Relay; 2],
    pages: [String; 2],
}

impl Pair {
    async fn start() -> Self {
        let mut site = Site::start().await;
        let pages = [address(), address()];
        let relay = |page: &String| another(&site).arg("--http").arg(page).start();
        // One after the other, since a relay that starts is recognized by its new id.
        let relays = [relay(&pages[0]).await, relay(&pages[1]).await];
        // It has no pages.
        site.relay.kill().await;
        Self { site, relays, pages }
    }

    /// Returns a metric of both relays.
    async fn metric(&self, series: &str) -> [u64; 2] {
        [metric(&self.pages[0], series).await, metric(&self.pages[1], series).await]
    }

    /// Returns a relay that serves a transfer now.
    async fn busy(&self) -> &Relay {
        let index = until("a transfer", async || {
            self.metric("gantry_transfers_active ").await.iter().position(|active| *active > 0)
        });
        &self.relays[index.await]
    }

    /// Puts an object of this size into both stores.
    async fn put(&self, len: u64) {
        let file = self.site.files().join("key");
        drop(fs::remove_file(&file));
        data::random_file(&file, 1, len);
        self.site.s3.put_file(&self.site.bucket, "key", &file, Some(ChecksumAlgorithm::Crc64Nvme)).await;
    }

    fn get(&self, store: &str, streams: u8) -> Command {
        self.site.get(store, "key", "file").arg("--json").arg("--streams").arg(streams.to_string())
    }

    /// Returns the number of bytes of the part file for which there is space on the disk.
    fn part_bytes(&self) -> u64 {
        let part = self.site.downloads().join(".file.gantry-part");
        fs::metadata(part).map_or(0, |part| part.blocks() * 512)
    }

    fn assert_done(&self) {
        data::assert_same_file(&self.site.files().join("key"), &self.site.downloads().join("file"));
        assert_eq!(self.site.downloads_listed(), ["file"]);
    }
}

/// Prepares another relay of a site's stores.
fn another(site: &Site) -> RelayBuilder {
    Relay::on(&site.nats)
        .s3(site.s3)
        .store(OBJECTS, format!("s3://{}", site.bucket))
        .store(FILES, format!("file://{}", site.files().display()))
}

/// 17 transfers and a description, each of which nats-server gives to a random relay: all go to the same one once in
/// 65,000 times. On a busy machine, a piece may be late and is then requested again.
#[tokio::test]
async fn several_relays_serve_pieces_of_one_file() {
    let pair = Pair::start().await;
    pair.put(320 * MIB).await;

    let json = pair.get(OBJECTS, 4).run().await.expect_code(0).json();

    assert_eq!(json["bytes"], 320 * MIB, "{json}");
    assert_eq!(json["proof"]["kind"], "full_object", "{json}");
    pair.assert_done();

    let transfers = pair.metric("gantry_transfers_total{store=\"objects\",outcome=\"completed\"}").await;
    let sent = pair.metric("gantry_sent_bytes_total{store=\"objects\"}").await;
    assert!((18..36).contains(&transfers.iter().sum::<u64>()), "{transfers:?}");
    assert!((320 * MIB..400 * MIB).contains(&sent.iter().sum::<u64>()), "{sent:?}");
    assert!(transfers.iter().all(|count| *count > 0), "{transfers:?}");
}

/// The bytes must be read again, since the CRCs of pieces say nothing about such a checksum.
#[tokio::test]
async fn a_checksum_of_another_kind_is_verified_as_well() {
    let pair = Pair::start().await;
    let file = pair.site.files().join("key");
    data::random_file(&file, 1, 70 * MIB);
    pair.site.s3.put_file(&pair.site.bucket, "key", &file, Some(ChecksumAlgorithm::Sha256)).await;

    let json = pair.get(OBJECTS, 3).run().await.expect_code(0).json();

    assert_eq!(json["proof"], serde_json::json!({"kind": "full_object", "algorithm": "sha256"}));
    pair.assert_done();
}

#[tokio::test]
async fn small_and_empty_objects_have_one_stream() {
    let pair = Pair::start().await;
    let mut transfers = 0;
    for len in [0, 1, 16 * MIB] {
        pair.put(len).await;
        for store in [OBJECTS, FILES] {
            let json = pair.get(store, 4).run().await.expect_code(0).json();
            assert_eq!(json["bytes"], len, "{store}: {json}");
            assert_eq!(json["proof"]["kind"], if store == OBJECTS { "full_object" } else { "transport" }, "{json}");
            pair.assert_done();
            // The other one is for the description, which S3 gives at once if it has no bytes to send.
            transfers += if (store, len) == (OBJECTS, 0) { 1 } else { 2 };
        }
    }
    let counted = pair.metric("gantry_transfers_total{store=").await;
    assert_eq!(counted.iter().sum::<u64>(), transfers, "{counted:?}");
}

/// With 24 MiB for the windows of all streams, the number of streams makes no difference.
#[tokio::test]
async fn many_streams_need_no_more_memory_than_one() {
    let pair = Pair::start().await;
    pair.put(320 * MIB).await;
    for streams in [1, 16] {
        let output = pair.get(FILES, streams).run().await.expect_code(0);
        let peak = output.peak_rss_bytes >> 20;
        assert!(peak < 100, "{streams} streams: {peak} MiB");
        pair.assert_done();
    }
}

/// Relays that are not notified would send until they miss the consumer's control messages, for 15 s.
#[tokio::test]
async fn an_interrupted_download_ends_all_transfers_at_once() {
    let pair = Pair::start().await;
    pair.put(96 * MIB).await;
    let download = pair.get(OBJECTS, 4).arg("--limit-rate").arg("8M").spawn();
    let active = async || pair.metric("gantry_transfers_active ").await.iter().sum::<u64>();
    until("four transfers", async || (active().await == 4).then_some(())).await;

    download.signal("INT");
    download.output().await.expect_code(130);

    let ended = Instant::now();
    until("the end of all transfers", async || (active().await == 0).then_some(())).await;
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
}

#[tokio::test]
async fn a_relay_that_is_lost_midway_is_replaced() {
    for signal in ["KILL", "STOP"] {
        let pair = Pair::start().await;
        pair.put(96 * MIB).await;
        let download = pair.get(OBJECTS, 3).arg("--limit-rate").arg("24M").spawn();
        until("some bytes", async || (pair.part_bytes() > 8 * MIB).then_some(())).await;

        pair.busy().await.signal(signal);

        let json = download.output().await.expect_code(0).json();
        assert_eq!(json["proof"]["kind"], "full_object", "{signal}: {json}");
        pair.assert_done();
    }
}

/// A third relay, which would need 17 minutes for a piece, joins when the streams have fetched some pieces.
#[tokio::test]
async fn a_slow_relay_does_not_hold_up_the_download() {
    let pair = Pair::start().await;
    pair.put(192 * MIB).await;
    let command = pair.get(OBJECTS, 3).arg("--limit-rate").arg("24M").deadline(Duration::from_secs(110));
    let download = command.spawn();
    until("the first pieces", async || (pair.part_bytes() > 64 * MIB).then_some(())).await;

    let slow = another(&pair.site).env("GANTRY_RELAY__RATE_MAX_BYTES_PER_S", "16384");
    let _slow = slow.start().await;

    let json = download.output().await.expect_code(0).json();
    assert_eq!(json["proof"]["kind"], "full_object", "{json}");
    pair.assert_done();
}

#[tokio::test]
async fn an_object_that_is_replaced_midway_is_never_mixed_with_its_successor() {
    let pair = Pair::start().await;
    pair.put(64 * MIB).await;
    let download = pair.get(FILES, 3).arg("--limit-rate").arg("8M").spawn();
    until("some bytes", async || (pair.part_bytes() > 2 * MIB).then_some(())).await;

    let file = pair.site.files().join("key");
    fs::remove_file(&file).unwrap();
    data::random_file(&file, 2, 64 * MIB);

    let output = download.output().await.expect_code(7);
    assert!(output.stderr.contains("files/key"), "{}", output.stderr);
    assert!(!pair.site.downloads().join("file").exists());
}

#[tokio::test]
async fn a_killed_download_resumes_from_its_contiguous_bytes() {
    for (signal, streams) in [("KILL", 3), ("KILL", 1), ("INT", 3)] {
        let pair = Pair::start().await;
        pair.put(96 * MIB).await;
        let download = pair.get(OBJECTS, 3).arg("--limit-rate").arg("16M").spawn();
        until("some bytes", async || (pair.part_bytes() > 24 * MIB).then_some(())).await;

        download.signal(signal);
        download.output().await;
        let json = pair.get(OBJECTS, streams).run().await.expect_code(0).json();

        let resumed = json["resumed_from"].as_u64().unwrap_or_else(|| panic!("{signal}: not resumed: {json}"));
        assert_eq!(json["fetched_bytes"], 96 * MIB - resumed, "{signal}: {json}");
        assert_eq!(json["proof"]["kind"], "full_object", "{signal}: {json}");
        pair.assert_done();
    }
}

/// A limit on the file size replaces a full disk. It lies within the second piece.
#[tokio::test]
async fn a_failed_write_ends_all_streams_and_keeps_what_was_written() {
    let pair = Pair::start().await;
    pair.put(64 * MIB).await;

    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 40960; exec \"$@\"", "sh"];
    let output = pair.get(OBJECTS, 3).through(limited).run().await.expect_code(1);

    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains(".file.gantry-part"), "{}", output.stderr);
    assert!(!pair.site.downloads().join("file").exists());

    pair.get(OBJECTS, 3).run().await.expect_code(0);
    pair.assert_done();
}

#[tokio::test]
async fn several_streams_need_a_file() {
    let site = Site::start().await;
    fs::write(site.files().join("key"), "content").unwrap();
    let refused = |command: Command| async move {
        let output = command.run().await.expect_code(2);
        assert!(output.stderr.contains("--streams"), "{}", output.stderr);
    };

    refused(site.command(["get", "files/key", "-o", "-", "--streams", "2"])).await;
    refused(site.command(["get", "files/", "-r", "--streams", "2"])).await;
    refused(site.command(["get", "files/key", "--streams", "0"])).await;
    assert!(Path::new("key").metadata().is_err());
}
