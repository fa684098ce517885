//! The S3 store against a real S3 server.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm as S3Algorithm, ChecksumType};
use bytes::Bytes;
use futures_util::TryStreamExt;
use gantry_proto::{ChecksumAlgorithm, ChecksumKind, Key, ListRequest, Pin, Span};
use gantry_relay::metrics::{Facts, RelayMetrics, Sampled};
use gantry_store::s3::{Credentials, KeyFiles, Limits, Options, S3Store, StaticCredentials};
use gantry_store::{Budget, Error, Store};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::conformance::Ways;
use super::{collect, conformance, key, read};
use crate::support::data::{folder, random_bytes};
use crate::support::s3::Keys;
use crate::support::{DEADLINE, S3};

pub(crate) fn options(s3: &S3, bucket: &str, keys: &Keys) -> Options {
    Options {
        endpoint_url: Some(s3.endpoint().to_owned()),
        region: Some(s3.region().to_owned()),
        path_style: Some(true),
        credentials: Credentials::Static(StaticCredentials {
            access_key_id: keys.access_key_id.clone(),
            secret_access_key: keys.secret_access_key.clone(),
            session_token: None,
        }),
        limits: Limits { range_bytes: conformance::RANGE_BYTES as u64, ..Limits::default() },
        ..Options::new(bucket)
    }
}

#[tokio::test]
async fn a_bucket_conforms() {
    let s3 = S3::shared().await;
    for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20), ("x/", 3, 200_000)] {
        let bucket = s3.bucket().await;
        let mut options = Options { prefix: prefix.to_owned(), ..options(s3, &bucket, s3.admin()) };
        options.limits.concurrency_max = concurrency_max;
        let store = S3Store::connect(options, Budget::new(budget_bytes)).await.unwrap();
        let put = async |name: &str, bytes: Bytes| {
            s3.put(&bucket, &format!("{prefix}{name}"), bytes, None).await;
        };
        // SeaweedFS lists keys in the order of its folders.
        let ways = Ways { awkward: &["/leading", "a//b"], key_max: Key::MAX_BYTES - prefix.len(), is_ordered: false };
        conformance::conforms(&store, put, ways).await;
    }
}

async fn admin(s3: &S3, bucket: &str) -> S3Store {
    let options = Options { limits: Limits::default(), ..options(s3, bucket, s3.admin()) };
    S3Store::connect(options, Budget::new(64 << 20)).await.unwrap()
}

#[tokio::test]
async fn keys_in_files_are_read_again_when_s3_refuses_the_old_ones() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    s3.put(&bucket, "key", Bytes::from_static(b"hello"), None).await;
    let folder = folder();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    std::fs::write(&id, "revoked\n").unwrap();
    std::fs::write(&secret, "s3cret\n").unwrap();
    let files = KeyFiles { access_key_id: id.clone(), secret_access_key: secret.clone(), session_token: None };
    let options = Options { credentials: Credentials::Files(files), ..options(s3, &bucket, s3.admin()) };
    let store = S3Store::connect(options, Budget::new(0)).await.unwrap();
    let open = async || store.open(&key("key"), &Pin::default(), Span::default()).await;

    let refused = open().await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused:?}");
    std::fs::write(&id, format!("{}\n", s3.admin().access_key_id)).unwrap();
    std::fs::write(&secret, format!("{}\n", s3.admin().secret_access_key)).unwrap();

    open().await.unwrap();
}

#[tokio::test]
async fn a_stored_checksum_is_found_for_every_span_that_it_can_prove() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    let store = admin(s3, &bucket).await;
    let bytes = random_bytes(3, 1_000_000);
    for (name, stored, algorithm) in [
        ("crc64", S3Algorithm::Crc64Nvme, ChecksumAlgorithm::Crc64Nvme),
        ("crc32", S3Algorithm::Crc32, ChecksumAlgorithm::Crc32),
        ("crc32c", S3Algorithm::Crc32C, ChecksumAlgorithm::Crc32c),
        ("sha1", S3Algorithm::Sha1, ChecksumAlgorithm::Sha1),
        ("sha256", S3Algorithm::Sha256, ChecksumAlgorithm::Sha256),
    ] {
        s3.put(&bucket, name, bytes.clone(), Some(stored)).await;
        let bounded = store.open(&key(name), &Pin::default(), Span { start: 0, end: Some(10) }).await.unwrap();
        assert_eq!(bounded.object.checksum, None);
        for (start, end) in [(0, None), (500_000, None), (10, Some(10))] {
            let opened = store.open(&key(name), &Pin::default(), Span { start, end }).await.unwrap();
            let checksum = opened.object.checksum.unwrap();
            assert_eq!((checksum.algorithm, checksum.kind), (algorithm, ChecksumKind::FullObject), "{name} {start}");
            assert!(!checksum.value.is_empty() && checksum.parts.is_empty());
        }
    }
    s3.put(&bucket, "none", bytes, None).await;
    assert_eq!(store.stat(&key("none"), &Pin::default()).await.unwrap().checksum, None);
}

#[tokio::test]
async fn a_multipart_upload_is_read_completely_and_its_part_sizes_are_found() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    let store = admin(s3, &bucket).await;
    let parts = [random_bytes(1, 5 << 20), random_bytes(2, 6 << 20), random_bytes(3, 1234)];
    let whole = parts.concat();
    let full = (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject, Vec::new());
    let sizes = vec![(1, 5 << 20), (1, 6 << 20), (1, 1234)];
    let composite = (ChecksumAlgorithm::Sha256, ChecksumKind::Composite, sizes);
    for (name, checksum, expected) in [
        ("none", None, None),
        ("full", Some((S3Algorithm::Crc64Nvme, ChecksumType::FullObject)), Some(full)),
        ("composite", Some((S3Algorithm::Sha256, ChecksumType::Composite)), Some(composite)),
    ] {
        s3.put_multipart(&bucket, name, &parts, checksum).await;
        assert!(read(&store, name, &Pin::default(), 0, None).await.unwrap() == whole);
        assert!(
            read(&store, name, &Pin::default(), 5_000_000, Some(11_000_000)).await.unwrap()
                == whole[5_000_000..11_000_000]
        );
        let object = store.stat(&key(name), &Pin::default()).await.unwrap();
        let proof = object.checksum.map(|checksum| {
            let sizes: Vec<_> = checksum.parts.iter().map(|run| (run.count, run.size)).collect();
            (checksum.algorithm, checksum.kind, sizes)
        });
        assert_eq!(proof, expected, "{name}");
    }
}

#[tokio::test]
async fn requests_for_part_sizes_are_counted_under_their_own_names() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    let parts = [random_bytes(1, 5 << 20), random_bytes(2, 1234)];
    s3.put_multipart(&bucket, "key", &parts, Some((S3Algorithm::Sha256, ChecksumType::Composite))).await;
    let mut registry = Registry::default();
    let facts = Facts {
        protocol: 1,
        memory_budget_bytes: 0,
        memory_reserved_bytes: Sampled::new(|| 0),
        log_lines_dropped: Sampled::new(|| 0),
    };
    let observer = Arc::new(RelayMetrics::register(&mut registry, facts).s3.of_store("s"));
    let store =
        S3Store::connect(Options { observer, ..options(s3, &bucket, s3.admin()) }, Budget::new(0)).await.unwrap();

    read(&store, "key", &Pin::default(), 0, None).await.unwrap();

    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    let counted = |operation: &str| -> u32 {
        let begin = format!("gantry_s3_requests_total{{store=\"s\",operation={operation:?},");
        let lines = page.lines().filter(|line| line.starts_with(&begin));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
    };
    // One request for all sizes, which this server may not know, and then one for each part.
    assert_eq!((counted("get"), counted("attributes")), (1, 1), "{page}");
    assert!([0, 2].contains(&counted("part")), "{page}");
}

#[tokio::test]
async fn a_connection_is_reused_and_counted_until_it_is_closed() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    s3.put(&bucket, "key", random_bytes(3, 1000), None).await;
    let mut registry = Registry::default();
    let facts = Facts {
        protocol: 1,
        memory_budget_bytes: 0,
        memory_reserved_bytes: Sampled::new(|| 0),
        log_lines_dropped: Sampled::new(|| 0),
    };
    let observer = Arc::new(RelayMetrics::register(&mut registry, facts).s3.of_store("s"));
    let counted = |name: &str| -> i64 {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        let begin = format!("gantry_s3_connections{name}{{store=\"s\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&begin)).unwrap().parse().unwrap()
    };
    let store =
        S3Store::connect(Options { observer, ..options(s3, &bucket, s3.admin()) }, Budget::new(0)).await.unwrap();
    assert_eq!((counted("_opened_total"), counted("")), (0, 0));

    for _ in 0..5 {
        store.stat(&key("key"), &Pin::default()).await.unwrap();
        read(&store, "key", &Pin::default(), 0, None).await.unwrap();
    }
    assert_eq!((counted("_opened_total"), counted("")), (1, 1));

    drop(store);
    let deadline = Instant::now() + DEADLINE;
    while counted("") > 0 {
        assert!(Instant::now() < deadline, "the connection outlives its store");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(counted("_opened_total"), 1);
}

#[tokio::test]
async fn metadata_and_type_are_described() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    let put = s3.client().put_object().bucket(&bucket).key("described").body(Bytes::from_static(b"x").into());
    put.content_type("text/plain").metadata("colour", "blue").send().await.unwrap();

    let object = admin(s3, &bucket).await.stat(&key("described"), &Pin::default()).await.unwrap();

    assert_eq!(object.content_type.as_deref(), Some("text/plain"));
    assert_eq!(object.metadata.get("colour").map(String::as_str), Some("blue"));
}

#[tokio::test]
async fn denied_access_and_a_missing_bucket_are_reported_at_once() {
    let s3 = S3::shared().await;
    let bucket = s3.bucket().await;
    s3.put(&bucket, "key", Bytes::from_static(b"x"), None).await;
    let denied = S3Store::connect(options(s3, &bucket, s3.denied()), Budget::new(0)).await.unwrap();
    let missing = S3Store::connect(options(s3, "no-such-bucket", s3.admin()), Budget::new(0)).await.unwrap();
    let began = Instant::now();
    for (start, end) in [(0, None), (0, Some(0)), (0, Some(1))] {
        let error = read(&denied, "key", &Pin::default(), start, end).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error:?}");
        let error = read(&missing, "key", &Pin::default(), start, end).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error:?}");
        // Only the operator learns where the objects should be.
        assert!(!error.to_string().contains("no-such-bucket"), "{error}");
    }
    let error = missing.probe().await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)) && error.to_string().contains("no-such-bucket"), "{error:?}");
    assert!(matches!(missing.list(&ListRequest::default()).await.unwrap_err(), Error::NotFound(_)));
    assert!(matches!(denied.list(&ListRequest::default()).await.unwrap_err(), Error::Denied(_)));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn reading_continues_after_the_server_was_killed_and_restarted() {
    let mut s3 = S3::start().await;
    let bucket = s3.bucket().await;
    let bytes = random_bytes(9, 64 << 20);
    s3.put(&bucket, "key", bytes.clone(), None).await;
    let limits = Limits { retry_budget: DEADLINE, attempts_max: 1000, ..Limits::default() };
    let options = Options { limits, ..options(&s3, &bucket, s3.admin()) };
    let store = S3Store::connect(options, Budget::new(64 << 20)).await.unwrap();
    let mut opened = store.open(&key("key"), &Pin::default(), Span::default()).await.unwrap();
    let first = opened.body.try_next().await.unwrap().unwrap();

    s3.kill();
    let (rest, ()) = tokio::join!(collect(opened), s3.restart());

    assert!([first, rest.unwrap()].concat() == bytes);
}

#[tokio::test]
async fn invalid_options_are_rejected() {
    let with_url = |url: &str| Options { endpoint_url: Some(url.to_owned()), ..Options::new("bucket") };
    let no_ranges = Limits { range_bytes: 0, ..Limits::default() };
    for options in [
        Options::new(""),
        Options::new("a/b"),
        with_url("localhost:9000"),
        with_url("http://"),
        with_url("http://id:secret@localhost:9000"),
        Options { limits: no_ranges, ..Options::new("bucket") },
    ] {
        let error = S3Store::connect(options, Budget::new(0)).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)) && !error.to_string().contains("secret"), "{error:?}");
    }
}
