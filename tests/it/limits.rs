//! Servers with other limits, many concurrent downloads, and their memory use.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use futures_util::StreamExt as _;
use futures_util::future::{join_all, select_all};
use gantry_bus::{Bus as _, nats};
use gantry_client::{Client, FileOptions, Get, Options};
use tokio::time::Instant;

use crate::support::nats::{NatsOptions, NatsVersion};
use crate::support::site::{FILES, OBJECTS};
use crate::support::{Nats, Relay, Site, data, gantry};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn every_max_payload_works_unconfigured() {
    for max_payload in [64 << 10, 1 << 20, 8 << 20] {
        let options = NatsOptions { max_payload: Some(max_payload), ..NatsOptions::default() };
        assert_serves(&Site::with_nats(options).await).await;
    }
}

#[tokio::test]
async fn debians_nats_server_serves_downloads() {
    let site = Site::with_nats(NatsOptions { version: NatsVersion::Debian, ..NatsOptions::default() }).await;
    println!("nats-server {}", site.nats.client().await.server_info().version);
    assert_serves(&site).await;

    let missing = site.get(OBJECTS, "missing", "file").run().await.expect_code(4);
    assert!(missing.elapsed < Duration::from_secs(2), "{:?}", missing.elapsed);
    site.get("nostore", "key", "file").run().await.expect_code(4);
    site.command(["stat", "objects/key"]).run().await.expect_code(0);
    assert!(site.command(["ls", OBJECTS]).run().await.expect_code(0).stdout_text().contains("key"));
}

#[tokio::test]
async fn debians_nats_server_reports_a_missing_relay() {
    let nats = Nats::start(NatsOptions { version: NatsVersion::Debian, ..NatsOptions::default() }).await;
    let output = gantry(["get", "store/key", "-o", "-"]).nats(&nats).run().await.expect_code(5);
    assert!(output.stderr.contains("no relay"), "{}", output.stderr);
    assert!(output.elapsed < Duration::from_secs(5), "{:?}", output.elapsed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_downloads_share_one_connection() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 6 * MIB + 1);
    site.s3.put(&site.bucket, "key", body.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;
    std::fs::write(site.files().join("key"), &body).unwrap();
    let options = nats::Options { servers: vec![site.nats.url()], ..nats::Options::default() };
    let bus = nats::connect(options).await.unwrap();
    let client = Client::new(bus.clone(), Options::default());

    let downloads = (0..50).map(|number| {
        let store = if number % 2 == 0 { OBJECTS } else { FILES };
        let get = Get::new(store.parse().unwrap(), "key".parse().unwrap());
        let target = site.downloads().join(number.to_string());
        let client = client.clone();
        async move { client.download(get, &target, FileOptions::default()).await }
    });
    let reports = join_all(downloads).await;

    for (number, report) in reports.into_iter().enumerate() {
        let report = report.unwrap_or_else(|error| panic!("download {number}: {error}"));
        assert_eq!(report.recoveries, 0, "download {number} lost bytes");
        assert!(site.downloaded(&number.to_string()) == body, "download {number} differs");
    }
    assert_eq!(site.downloads_listed().len(), 50);
    assert_eq!(bus.status().borrow().epoch, 1, "nats-server closed the connection");
}

/// Prints both peaks. The consumer may hold a window of 24 MiB, and each chunk keeps its read buffer alive, which may
/// be twice as large. The relay reads four ranges of 8 MiB ahead.
#[tokio::test]
async fn memory_does_not_grow_with_the_object() {
    const PART: usize = 64 * MIB;
    let site = Site::start().await;
    // Overlapping slices of one buffer: the parts differ, but the test needs memory for two parts only.
    let buffer = data::random_bytes(1, 2 * PART);
    let parts: Vec<_> = (0..32).map(|number| buffer.slice(number * MIB..number * MIB + PART)).collect();
    let checksum = Some((ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject));
    site.s3.put_multipart(&site.bucket, "large", &parts, checksum).await;

    let output = site.get(OBJECTS, "large", "large").arg("--json").run().await.expect_code(0);

    let consumer = output.peak_rss_bytes >> 20;
    let relay = site.relay.peak_rss_bytes() >> 20;
    println!(
        "2 GiB in {} ms: peak RSS of the relay {relay} MiB, of the consumer {consumer} MiB",
        output.json()["elapsed_ms"]
    );
    assert_eq!(output.json()["proof"]["kind"], "full_object", "{}", output.json());
    assert_consists_of(&site.downloads().join("large"), &parts);
    assert!(relay < 128, "the relay used {relay} MiB");
    assert!(consumer < 96, "the consumer used {consumer} MiB");
}

#[tokio::test]
async fn a_download_keeps_to_its_limit() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 4 * MIB);
    std::fs::write(site.files().join("key"), &body).unwrap();

    let to_file = site.get(FILES, "key", "key").arg("--limit-rate=2MiB").run().await.expect_code(0);
    let to_stdout = site.command(["get", "files/key", "-o", "-", "--limit-rate", "2MiB"]).run().await.expect_code(0);

    assert!(site.downloaded("key") == body && to_stdout.stdout == body);
    for took in [to_file.elapsed, to_stdout.elapsed] {
        assert!(took > Duration::from_millis(1500), "4 MiB at 2 MiB/s took {took:?}");
    }
}

#[tokio::test]
async fn a_relay_keeps_to_its_limits() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let body = data::random_bytes(1, 4 * MIB);
    std::fs::write(folder.path().join("key"), &body).unwrap();
    let limits = "[relay]\nrate_max_bytes_per_s = 4194304\ntransfer_rate_max_bytes_per_s = 2097152\n";
    let url = format!("file://{}", folder.path().display());
    let _relay = Relay::on(&nats).store(FILES, url).config(limits).start().await;
    let get = || gantry(["get", "files/key", "-o", "-"]).nats(&nats).run();

    let alone = get().await.expect_code(0);
    let began = Instant::now();
    let together = join_all([get(), get(), get()]).await;
    let took = began.elapsed();

    assert!(alone.stdout == body);
    assert!(alone.elapsed > Duration::from_millis(1500), "4 MiB at 2 MiB/s took {:?}", alone.elapsed);
    assert!(took > Duration::from_millis(2300), "3 times 4 MiB at 4 MiB/s took {took:?}");
    for output in together {
        assert!(output.expect_code(0).stdout == body);
    }
}

#[tokio::test]
async fn a_large_transfer_does_not_hold_up_a_small_one() {
    let site = Site::start().await;
    data::sparse_file(&site.files().join("large"), 64 << 30);
    std::fs::write(site.files().join("small"), [7; 10 << 10]).unwrap();
    let mut large = site.command(["get", "files/large", "-o", "/dev/null"]).spawn();
    site.relay.logged("transfer started").await;

    for number in 0..10 {
        site.get(FILES, "small", &number.to_string()).run().await.expect_code(0);
    }

    assert!(large.ended().is_none(), "64 GiB finished before 10 times 10 KiB");
    large.signal("KILL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_delays_no_other_download_on_its_connection() {
    let site = Site::start().await;
    data::sparse_file(&site.files().join("slow"), 1 << 30);
    data::sparse_file(&site.files().join("fast"), 64 << 20);
    let options = nats::Options { servers: vec![site.nats.url()], ..nats::Options::default() };
    let bus = nats::connect(options).await.unwrap();
    let client = Client::new(bus.clone(), Options::default());
    let start = async |key: &str| client.get(Get::new(FILES.parse().unwrap(), key.parse().unwrap())).await.unwrap();
    let mut slow = start("slow").await;
    let progress = slow.progress();
    let reader = tokio::spawn(async move {
        while let Some(piece) = slow.next().await {
            tokio::time::sleep(Duration::from_secs(1).mul_f64(piece.unwrap().len() as f64 / MIB as f64)).await;
        }
    });

    for _ in 0..8 {
        let fast = start("fast").await;
        let seen = fast.progress();
        let len: usize = fast.map(|piece| piece.unwrap().len()).collect::<Vec<_>>().await.iter().sum();
        assert_eq!((len, seen.borrow().recoveries), (64 << 20, 0));
    }

    assert!(!reader.is_finished() && progress.borrow().written > 0);
    assert_eq!(progress.borrow().recoveries, 0);
    assert_eq!(bus.status().borrow().epoch, 1, "nats-server closed the connection");
    reader.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_transfers_get_equal_shares() {
    const SIZE: u64 = 512 << 20;
    let site = Site::start().await;
    data::sparse_file(&site.files().join("key"), SIZE);
    let options = nats::Options { servers: vec![site.nats.url()], ..nats::Options::default() };
    let mut downloads = Vec::new();
    for _ in 0..2 {
        let client = Client::new(nats::connect(options.clone()).await.unwrap(), Options::default());
        downloads.push(client.get(Get::new(FILES.parse().unwrap(), "key".parse().unwrap())).await.unwrap());
    }
    let progress: Vec<_> = downloads.iter().map(gantry_client::Download::progress).collect();

    let ends = downloads.into_iter().map(|download| {
        Box::pin(async move {
            let all = download.map(|piece| piece.unwrap().len() as u64).collect::<Vec<_>>().await;
            all.iter().sum::<u64>()
        })
    });
    let (first, which, _) = select_all(ends).await;

    let other = progress[1 - which].borrow().written;
    assert_eq!(first, SIZE);
    println!("when one of two transfers had {SIZE} bytes, the other had {other}");
    assert!(other > SIZE / 2, "when one of two transfers had {SIZE} bytes, the other had {other}");
}

/// Downloads objects larger than any window or payload from both stores.
async fn assert_serves(site: &Site) {
    let body = data::random_bytes(1, 20 * MIB + 1);
    site.s3.put(&site.bucket, "key", body.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;
    std::fs::write(site.files().join("key"), &body).unwrap();
    for store in [OBJECTS, FILES] {
        let json = site.get(store, "key", store).arg("--json").run().await.expect_code(0).json();
        assert_eq!(json["recoveries"], 0, "{store}: {json}");
        assert!(site.downloaded(store) == body, "{store} differs");
    }
}

fn assert_consists_of(file: &Path, parts: &[bytes::Bytes]) {
    use std::io::Read;

    let mut file = std::fs::File::open(file).unwrap();
    let mut read = vec![0; parts[0].len()];
    for (number, part) in parts.iter().enumerate() {
        file.read_exact(&mut read).unwrap();
        assert!(read == *part, "part {number} differs");
    }
    assert_eq!(file.read(&mut read).unwrap(), 0, "the file is too long");
}
