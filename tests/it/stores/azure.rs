//! The store in Azure against a double that refuses and fails on demand.

use std::path::PathBuf;
use std::time::Duration;

use gantry_proto::{ListRequest, Pin};
use gantry_store::azure::{AzureStore, Credentials, Limits, Options};
use gantry_store::{Budget, Error, Store, UnavailableKind};
use tempfile::TempDir;

use super::{key, list_all, read};
use crate::support::azure_double::{ACCOUNT, Act, AzureDouble, CONTAINER, KEY, SAS};
use crate::support::data::{folder, random_bytes};

/// A file with a secret, which is deleted when dropped.
pub(super) struct SecretFile(TempDir);

impl SecretFile {
    pub(super) fn new(text: &str) -> Self {
        let file = Self(folder());
        file.write(text);
        file
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("secret")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
}

pub(super) fn options(azure: &AzureDouble, credentials: Credentials) -> Options {
    Options { endpoint_url: Some(azure.endpoint()), credentials, ..Options::new(ACCOUNT, CONTAINER) }
}

fn with_key(azure: &AzureDouble, key: &SecretFile) -> AzureStore {
    AzureStore::connect(options(azure, Credentials::AccountKey(key.path())), Budget::new(64 << 20)).unwrap()
}

fn public(azure: &AzureDouble) -> AzureStore {
    AzureStore::connect(options(azure, Credentials::Anonymous), Budget::new(64 << 20)).unwrap()
}

#[tokio::test]
async fn a_token_that_azure_did_not_issue_is_rejected() {
    let azure = AzureDouble::scripted(true, |_| Act::Serve).await;
    let forged = ListRequest { token: Some("gantry-after:a".to_owned()), ..ListRequest::default() };
    assert!(matches!(public(&azure).list(&forged).await, Err(Error::Invalid(_))));
    assert!(public(&azure).token_after("a").is_none());
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
async fn a_rotated_signature_is_read_again_whatever_the_refusal() {
    for (status, code) in [
        (403, "AuthorizationSourceIPMismatch"),
        (403, "AuthorizationFailure"),
        (403, "IpAuthorizationError"),
        (403, "AuthorizationPermissionMismatch"),
        (403, "AuthorizationResourceTypeMismatch"),
        (403, "AuthorizationServiceMismatch"),
        (403, "AuthorizationProtocolMismatch"),
        (403, "KeyBasedAuthenticationNotPermitted"),
        (403, "AuthenticationFailed"),
        (403, "InvalidAuthenticationInfo"),
        (401, "InvalidAuthenticationInfo"),
        (401, ""),
        (403, ""),
    ] {
        let azure = AzureDouble::scripted(false, move |asked| {
            let is_old = asked.query.get("sig").is_some_and(|sig| sig == "old");
            if is_old { Act::Fail(status, code, ("", "")) } else { Act::Serve }
        });
        let azure = azure.await;
        azure.put("key", "hello");
        let file = SecretFile::new(&SAS.replace("hush", "old"));
        let store = AzureStore::connect(options(&azure, Credentials::Sas(file.path())), Budget::new(0)).unwrap();

        let error = read(&store, "key", &Pin::default(), 0, None).await.unwrap_err();
        assert_eq!(azure.requests().len(), 1, "the same signature is not tried again: {error}");
        let is_of_network = error.to_string().contains("network rules");
        assert_eq!(is_of_network, ["AuthorizationFailure", "IpAuthorizationError"].contains(&code), "{error}");

        file.write(SAS);
        assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), "hello", "{status} {code}");
    }
}

#[tokio::test]
async fn a_container_that_is_not_public_is_not_taken_for_a_missing_blob() {
    let azure = AzureDouble::scripted(true, |_| Act::Fail(404, "ResourceNotFound", ("", ""))).await;
    let store = public(&azure);
    for error in [
        read(&store, "key", &Pin::default(), 0, None).await.unwrap_err(),
        store.stat(&key("key"), &Pin::default()).await.unwrap_err(),
        store.probe_listing().await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Denied(text) if text.contains("not public")), "{error:?}");
    }
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
