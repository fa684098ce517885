//! The store in Azure against a double, and against a real container if the environment names one.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gantry_proto::{ChecksumAlgorithm, ChecksumKind, Key, ListRequest, Pin, Span};
use gantry_store::azure::{AzureStore, Credentials, Limits, Options};
use gantry_store::{Budget, Error, Store, UnavailableKind};
use tempfile::TempDir;

use super::conformance::{self, Ways};
use super::{collect, key, list_all, read};
use crate::support::azure_double::{ACCOUNT, Act, AzureDouble, CONTAINER, KEY, SAS};
use crate::support::data::{folder, random_bytes};

/// A file with a secret, which is deleted when dropped.
struct SecretFile(TempDir);

impl SecretFile {
    fn new(text: &str) -> Self {
        let file = Self(folder());
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("secret")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
}

fn options(azure: &AzureDouble, credentials: Credentials) -> Options {
    Options { endpoint_url: Some(azure.endpoint()), credentials, ..Options::new(ACCOUNT, CONTAINER) }
}

fn with_key(azure: &AzureDouble, key: &SecretFile) -> AzureStore {
    AzureStore::connect(options(azure, Credentials::AccountKey(key.path())), Budget::new(64 << 20)).unwrap()
}

fn public(azure: &AzureDouble) -> AzureStore {
    AzureStore::connect(options(azure, Credentials::Anonymous), Budget::new(64 << 20)).unwrap()
}

/// The double checks the signature of every request, so that every key is signed as it is sent.
#[tokio::test]
async fn a_container_conforms() {
    let file = SecretFile::new(KEY);
    for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20), ("x/", 3, 200_000)] {
        let azure = AzureDouble::start().await;
        let limits = Limits { range_bytes: conformance::RANGE_BYTES as u64, concurrency_max, ..Limits::default() };
        let options =
            Options { prefix: prefix.to_owned(), limits, ..options(&azure, Credentials::AccountKey(file.path())) };
        let store = AzureStore::connect(options, Budget::new(budget_bytes)).unwrap();

        let put = async |name: &str, bytes: Bytes| {
            azure.put(&format!("{prefix}{name}"), bytes);
        };
        let ways = Ways {
            awkward: &["/leading", "a//b", "trailing/", "a/../b", "./c", "tab\there", "a\u{1}b", "a\u{fffd}b"],
            key_max: Key::MAX_BYTES - prefix.len(),
            is_ordered: true,
        };
        conformance::conforms(&store, put, ways).await;
        assert!(store.token_after("a").is_none());
    }
}

#[tokio::test]
async fn a_blob_has_a_version_and_an_md5_if_one_is_stored() {
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    let version = azure.put("key", random_bytes(1, 100_000));
    azure.put_without_md5("blocks", random_bytes(2, 100));
    let store = public(&azure);

    let object = store.stat(&key("key"), &Pin::default()).await.unwrap();
    let checksum = object.other_checksum.clone().unwrap();
    assert_eq!((checksum.algorithm, checksum.kind), (ChecksumAlgorithm::Md5, ChecksumKind::FullObject));
    assert_eq!((object.version_id.as_deref(), object.metadata["owner"].as_str()), (Some(version.as_str()), "tests"));
    assert!(store.stat(&key("blocks"), &Pin::default()).await.unwrap().stated_checksum().is_none());

    // The old version remains readable.
    azure.put("key", random_bytes(3, 100_000));
    assert_eq!(read(&store, "key", &object.pin(), 0, None).await.unwrap(), random_bytes(1, 100_000));
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), random_bytes(3, 100_000));
}

#[tokio::test]
async fn names_that_xml_excludes_are_listed() {
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    for name in ["odd/tab\there", "odd/a\u{1}b", "odd/a\u{fffd}b", "odd/a%20b+c"] {
        azure.put(name, "x");
    }
    let (keys, _) = list_all(&public(&azure), "odd/", true, 2).await;
    assert_eq!(keys, ["odd/a\u{1}b", "odd/a%20b+c", "odd/a\u{fffd}b", "odd/tab\there"]);

    let forged = ListRequest { token: Some("gantry-after:a".to_owned()), ..ListRequest::default() };
    assert!(matches!(public(&azure).list(&forged).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_blob_that_marks_a_folder_is_not_listed() {
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    for folder in ["a", "a/b", "empty"] {
        azure.put_folder(folder);
    }
    azure.put("a/b/c", "x");
    azure.put("d", "x");
    let store = public(&azure);

    for limit in [1, 2, 1000] {
        assert_eq!(list_all(&store, "", true, limit).await, (vec!["a/b/c".to_owned(), "d".to_owned()], vec![]));
        assert_eq!(list_all(&store, "", false, limit).await, (vec!["d".to_owned()], vec!["a/".to_owned()]));
    }
    let error = store.stat(&key("a"), &Pin::default()).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("is a folder")), "{error:?}");
}

#[tokio::test]
async fn blobs_that_are_deleted_or_replaced_during_a_listing_do_no_harm() {
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    for name in ["a", "b", "c", "d"] {
        azure.put(name, name);
    }
    let store = public(&azure);
    let page = |token| ListRequest { recursive: true, limit: Some(2), token, ..ListRequest::default() };

    let first = store.list(&page(None)).await.unwrap();
    azure.delete("a");
    azure.delete("c");
    azure.put("b", "replaced");
    azure.put("d", "replaced");
    let second = store.list(&page(first.next.clone())).await.unwrap();
    let sizes: Vec<_> = second.entries.iter().map(|entry| (entry.key.as_str(), entry.size)).collect();
    assert_eq!((sizes, second.next), (vec![("d", 8)], None));

    for (entry, expected) in
        first.entries.iter().zip(["the pinned version was deleted", "no longer the pinned version"])
    {
        let pin = Pin { if_match: entry.etag.clone(), version_id: None };
        let error = read(&store, &entry.key, &pin, 0, None).await.unwrap_err();
        assert!(matches!(&error, Error::Changed(text) if text.contains(expected)), "{error:?}");
    }
}

#[tokio::test]
async fn a_listing_is_repeated_when_azure_is_busy() {
    let azure = AzureDouble::scripted(true, |asked| match asked.index {
        0 => Act::Fail(503, "ServerBusy", ("retry-after", "1")),
        1 => Act::Fail(429, "TooManyRequests", ("", "")),
        _ => Act::Serve,
    })
    .await;
    azure.put("a", "x");
    let begun = tokio::time::Instant::now();
    assert_eq!(list_all(&public(&azure), "", true, 10).await.0, ["a"]);
    assert!(begun.elapsed() >= Duration::from_secs(1) && azure.requests().len() == 3);

    let busy = AzureDouble::scripted(true, |_| Act::Fail(503, "ServerBusy", ("retry-after", "77"))).await;
    let error = public(&busy).list(&ListRequest::default()).await.unwrap_err();
    let Error::Unavailable { retry_after, message, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*retry_after, Some(Duration::from_secs(77)));
    assert!(message.contains("asks to slow down (503 ServerBusy)"), "{message}");
}

#[tokio::test]
async fn rotated_credentials_are_read_again() {
    let azure = AzureDouble::start().await;
    azure.put("key", "hello");
    let file = SecretFile::new("b2xk");
    let store = with_key(&azure, &file);

    let error = read(&store, "key", &Pin::default(), 0, None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { kind: UnavailableKind::Credentials, .. }), "{error:?}");
    assert!(matches!(store.probe().await, Err(Error::Unavailable { kind: UnavailableKind::Credentials, .. })));
    file.write(KEY);
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_expired_signature_is_replaced_by_the_one_in_the_file() {
    let azure = AzureDouble::start().await;
    azure.put("key", "hello");
    let file = SecretFile::new(&SAS.replace("2999", "2020"));
    let options = options(&azure, Credentials::Sas(file.path()));
    let store = AzureStore::connect(options, Budget::new(0)).unwrap();

    let error = store.probe().await.unwrap_err().to_string();
    assert!(error.contains("expired at 2020-01-01T00:00:00Z") && !error.contains("hush"), "{error}");
    file.write(SAS);
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), "hello");
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_private_container_denies_anonymous_requests() {
    let azure = AzureDouble::start().await;
    azure.put("key", "hello");
    let error = read(&public(&azure), "key", &Pin::default(), 0, None).await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
}

#[tokio::test]
async fn failures_that_pass_are_retried_and_others_are_reported() {
    let busy = AzureDouble::scripted(true, |asked| match asked.index {
        0 => Act::Fail(503, "ServerBusy", ("retry-after", "1")),
        1 => Act::Fail(500, "OperationTimedOut", ("", "")),
        _ => Act::Serve,
    });
    let busy = busy.await;
    busy.put("key", "hello");
    let begun = tokio::time::Instant::now();
    assert_eq!(read(&public(&busy), "key", &Pin::default(), 0, None).await.unwrap(), "hello");
    assert!(begun.elapsed() >= Duration::from_secs(1) && busy.requests().len() == 3);

    for (act, expected) in [
        (Act::Fail(409, "BlobArchived", ("", "")), "archived, it must be rehydrated first"),
        (Act::Fail(403, "AuthorizationPermissionMismatch", ("", "")), "access denied"),
        (Act::Fail(403, "AuthorizationFailure", ("", "")), "network rules exclude the relay"),
        (Act::Fail(404, "ContainerNotFound", ("", "")), "no such container"),
        (Act::Page, "what answers is not Azure Blob Storage"),
    ] {
        let azure = AzureDouble::scripted(true, move |_| act.clone()).await;
        let error = read(&public(&azure), "key", &Pin::default(), 0, None).await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("key") && !error.contains('\n'), "{error}");
        assert_eq!(azure.requests().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn cut_stalled_and_lost_answers_do_no_harm() {
    const SIZE: usize = 40 << 20;
    let azure = AzureDouble::scripted(true, |asked| match asked.index {
        0 => Act::Hang,
        1 => Act::Cut(1 << 20),
        2 => Act::Stall(300_000),
        3 => Act::Cut(0),
        5 | 7 => Act::Cut(2_000_000),
        _ => Act::Serve,
    })
    .await;
    azure.put("key", random_bytes(1, SIZE));

    let limits = Limits {
        answer_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let options = Options { limits, ..options(&azure, Credentials::Anonymous) };
    let store = AzureStore::connect(options, Budget::new(64 << 20)).unwrap();
    assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap() == random_bytes(1, SIZE));
}

#[tokio::test]
async fn a_blob_that_is_replaced_midway_is_read_by_its_version() {
    const SIZE: usize = 64 << 20;
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    azure.put("key", random_bytes(1, SIZE));
    let mut opened = public(&azure).open(&key("key"), &Pin::default(), Span::default()).await.unwrap();
    let mut got = opened.body.try_next().await.unwrap().unwrap().to_vec();

    azure.put("key", random_bytes(2, SIZE));
    while let Some(piece) = opened.body.try_next().await.unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == random_bytes(1, SIZE), "{} bytes", got.len());
}

#[tokio::test]
async fn a_gibibyte_and_fifty_blobs_arrive_unchanged() {
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    let large = random_bytes(3, 1 << 30);
    azure.put_without_md5("large", large.clone());
    for seed in 0..50 {
        azure.put(&format!("many/{seed}"), random_bytes(seed, 3_000_000));
    }

    let store = public(&azure);
    let reads = stream::iter(0..50).map(|seed| {
        let store = &store;
        async move { (seed, read(store, &format!("many/{seed}"), &Pin::default(), 0, None).await.unwrap()) }
    });
    let all: Vec<_> = reads.buffer_unordered(50).collect().await;
    assert!(all.into_iter().all(|(seed, bytes)| bytes == random_bytes(seed, 3_000_000)));
    assert!(read(&store, "large", &Pin::default(), 0, None).await.unwrap() == large);
}

/// Runs only with `GANTRY_TEST_AZURE_CONTAINER`, a container with a blob at `GANTRY_TEST_AZURE_KEY`,
/// `AZURE_STORAGE_ACCOUNT`, and credentials in the environment.
#[tokio::test]
#[ignore = "needs a container of Azure's, named by GANTRY_TEST_AZURE_CONTAINER"]
async fn a_real_container_is_read() {
    let name = |variable| std::env::var(variable).unwrap_or_else(|_| panic!("set {variable}"));
    let (container, object) = (name("GANTRY_TEST_AZURE_CONTAINER"), name("GANTRY_TEST_AZURE_KEY"));
    let options = Options::new(name("AZURE_STORAGE_ACCOUNT"), container);
    let store = AzureStore::connect(options, Budget::new(64 << 20)).unwrap();

    store.probe().await.unwrap();
    let opened = store.open(&key(&object), &Pin::default(), Span::default()).await.unwrap();
    let described = store.stat(&key(&object), &opened.object.pin()).await.unwrap();
    assert_eq!(opened.object, described);
    let whole = collect(opened).await.unwrap();
    assert_eq!(whole.len() as u64, described.size);
    let half = described.size / 2;
    assert_eq!(read(&store, &object, &described.pin(), half, None).await.unwrap(), whole.slice(whole.len() / 2..));
    assert!(list_all(&store, &object, true, 10).await.0.contains(&object));
}
