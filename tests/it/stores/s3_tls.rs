//! The S3 store over TLS, with HTTP/2 offered and a private certificate authority.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use gantry_proto::{Pin, Span};
use gantry_store::s3::{Credentials, Limits, Options, S3Store};
use gantry_store::{Budget, Error, Store, UnavailableKind};
use tokio::time::Instant;

use super::{key, read};
use crate::support::data::{folder, random_bytes};
use crate::support::s3_double::{Act, Request, S3Double};
use crate::support::tls::TlsFront;

async fn store(front: &TlsFront, tls_ca_file: Option<PathBuf>) -> Result<S3Store, Error> {
    let options = Options {
        endpoint_url: Some(front.endpoint()),
        region: Some("us-east-1".to_owned()),
        credentials: Credentials::Anonymous,
        tls_ca_file,
        limits: Limits { retry_budget: Duration::from_secs(8), ..Limits::default() },
        ..Options::new("bucket")
    };
    S3Store::connect(options, Budget::new(0)).await
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_it_is_named() {
    let object = random_bytes(1, 1_000_000);
    let server = S3Double::start(object.clone(), |_: &Request| Act::Serve).await;
    let front = TlsFront::start(&server.endpoint(), "127.0.0.1").await;
    let store = store(&front, Some(front.ca())).await.unwrap();

    assert!(read(&store, "k", &Pin::default(), 0, None).await.unwrap() == object);

    // Otherwise all transfers would share one connection.
    assert_eq!(front.protocols(), [Some("http/1.1".to_owned())]);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_reported_at_once() {
    let server = S3Double::start(random_bytes(1, 1000), |_: &Request| Act::Serve).await;
    let front = TlsFront::start(&server.endpoint(), "127.0.0.1").await;
    let other = TlsFront::start(&server.endpoint(), "127.0.0.1").await;
    let of_host = TlsFront::start(&server.endpoint(), "other.example").await;

    for (store, expected) in [
        (store(&front, None).await.unwrap(), UnavailableKind::UnknownAuthority),
        (store(&front, Some(other.ca())).await.unwrap(), UnavailableKind::UnknownAuthority),
        (store(&of_host, Some(of_host.ca())).await.unwrap(), UnavailableKind::InvalidCertificate),
    ] {
        let begun = Instant::now();
        for failure in [store.probe().await, read(&store, "k", &Pin::default(), 0, None).await.map(drop)] {
            let error = failure.unwrap_err();
            assert!(matches!(&error, Error::Unavailable { kind, .. } if *kind == expected), "{error:?}");
            assert!(error.to_string().contains("certificate"), "{error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_file_without_certificates_is_rejected() {
    let server = S3Double::start(random_bytes(1, 1000), |_: &Request| Act::Serve).await;
    let front = TlsFront::start(&server.endpoint(), "127.0.0.1").await;
    let folder = folder();
    let file = folder.path().join("ca.pem");

    for text in ["", "text"] {
        std::fs::write(&file, text).unwrap();
        let error = store(&front, Some(file.clone())).await.unwrap_err();
        let Error::Unavailable { kind, message, .. } = &error else { panic!("{error:?}") };
        assert!(*kind == UnavailableKind::UnusableAuthorities && message.contains("ca.pem"), "{error:?}");
    }
}

/// Over HTTP/2, unread responses once held the window of the only connection, and a fast reader received almost
/// nothing.
#[tokio::test]
async fn slow_readers_do_not_slow_down_a_fast_one() {
    let object = random_bytes(1, 32 << 20);
    let server = S3Double::start(object.clone(), |_: &Request| Act::Serve).await;
    let front = TlsFront::start(&server.endpoint(), "127.0.0.1").await;
    let store = store(&front, Some(front.ca())).await.unwrap();
    let whole = async || {
        let begun = Instant::now();
        assert!(read(&store, "k", &Pin::default(), 0, None).await.unwrap() == object);
        begun.elapsed()
    };
    let alone = whole().await;

    let mut slow = Vec::new();
    for _ in 0..6 {
        let mut opened = store.open(&key("k"), &Pin::default(), Span::default()).await.unwrap();
        opened.body.try_next().await.unwrap().unwrap();
        slow.push(opened);
    }
    let among_slow = whole().await;

    assert!(front.protocols().iter().all(|protocol| protocol.as_deref() == Some("http/1.1")));
    // On a busy machine it may take longer, but over one connection it took 100 times as long.
    assert!(among_slow < alone * 5 + Duration::from_secs(1), "{among_slow:?}, alone {alone:?}");
    drop(slow);
}
