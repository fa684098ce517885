//! S3 servers from Python packages, and what each of them must be able to do.

use std::net::SocketAddr;
use std::process::Stdio;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as SdkCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use gantry_proto::{ListRequest, Pin};
use gantry_store::s3::{Credentials, Limits, Options, S3Store, StaticCredentials};
use gantry_store::{Budget, Error, Store as _};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::stores::conformance::{self, Ways};
use crate::stores::{key, read};
use crate::support::gantry::Command;
use crate::support::process::Process;
use crate::support::tls::TlsFront;
use crate::support::{Nats, Relay, data, gantry, until};

pub(crate) const SECRET: &str = "gantry-field-secret";
const REGION: &str = "us-east-1";
const BUCKET: &str = "field-bucket";

/// A running S3 server with one bucket. It ends when dropped.
pub(crate) struct Server {
    endpoint: String,
    id: &'static str,
    _process: Process,
    _folder: TempDir,
}

impl Server {
    /// Starts a server with this access key, and makes the bucket.
    pub(crate) async fn start(
        id: &'static str,
        name: &str,
        port: u16,
        mut command: tokio::process::Command,
        folder: TempDir,
    ) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(name, &mut command);

        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until("the server listens", async || TcpStream::connect(address).await.ok()).await;

        let server = Self { endpoint: format!("http://{address}"), id, _process: process, _folder: folder };
        // A port may be open before the server is ready.
        let client = server.client();
        until("the server makes a bucket", async || client.create_bucket().bucket(BUCKET).send().await.ok()).await;
        server
    }

    fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new(REGION))
            .credentials_provider(SdkCredentials::new(self.id, SECRET, None, None, "field"))
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Client::from_conf(config)
    }

    async fn put(&self, key: &str, body: Bytes, checksum: Option<ChecksumAlgorithm>) {
        let put = self.client().put_object().bucket(BUCKET).key(key).body(body.into());
        put.set_checksum_algorithm(checksum).send().await.unwrap();
    }

    fn options(&self) -> Options {
        Options {
            endpoint_url: Some(self.endpoint.clone()),
            region: Some(REGION.to_owned()),
            credentials: Credentials::Static(StaticCredentials {
                access_key_id: self.id.to_owned(),
                secret_access_key: SECRET.to_owned(),
                session_token: None,
            }),
            limits: Limits { range_bytes: conformance::RANGE_BYTES as u64, ..Limits::default() },
            ..Options::new(BUCKET)
        }
    }

    /// Runs the tests that every store must pass, with and without a prefix.
    pub(crate) async fn conforms(&self, awkward: &[&str], key_max: usize) {
        for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20)] {
            let mut options = Options { prefix: prefix.to_owned(), ..self.options() };
            options.limits.concurrency_max = concurrency_max;
            let store = S3Store::connect(options, Budget::new(budget_bytes)).await.unwrap();
            let put = async |name: &str, bytes: Bytes| self.put(&format!("{prefix}{name}"), bytes, None).await;

            let ways = Ways { awkward, key_max: key_max - prefix.len(), is_ordered: true };
            conformance::conforms(&store, put, ways).await;
        }
    }

    /// Checks what is reported about a missing bucket, and about a bad token of a listing.
    pub(crate) async fn reports_what_is_wrong(&self) {
        let missing = Options { bucket: "no-such-bucket".to_owned(), ..self.options() };
        let missing = S3Store::connect(missing, Budget::new(0)).await.unwrap();

        for failure in [
            missing.probe().await,
            missing.stat(&key("k"), &Pin::default()).await.map(drop),
            missing.list(&ListRequest::default()).await.map(drop),
            read(&missing, "k", &Pin::default(), 0, None).await.map(drop),
            read(&missing, "k", &Pin::default(), 5, None).await.map(drop),
        ] {
            let error = failure.unwrap_err();
            assert!(matches!(&error, Error::NotFound(text) if text.contains("no such bucket")), "{error:?}");
        }
    }

    /// Downloads, lists and describes objects with the command, over plain HTTP and over TLS with a private authority.
    /// `proof` is how an object with a stored checksum is verified.
    pub(crate) async fn serves_the_command_line(&self, proof: &str) {
        let nats = Nats::plain().await;
        let body = data::random_bytes(1, 20 << 20);
        self.put("folder/object", body.clone(), None).await;
        self.put("folder/proved", body.clone(), Some(ChecksumAlgorithm::Sha256)).await;
        self.put("empty", Bytes::new(), None).await;

        let front = TlsFront::start(&self.endpoint, "127.0.0.1").await;
        let ca = front.ca().display().to_string();
        for (endpoint, tls) in [(self.endpoint.clone(), None), (front.endpoint(), Some(("AWS_CA_BUNDLE", &ca)))] {
            let relay = self.environment(&endpoint).chain(tls.map(|(name, value)| (name, value.clone())));
            let relay = relay.fold(Relay::on(&nats), |relay, (name, value)| relay.env(name, value));
            let relay = relay.store("s", format!("s3://{BUCKET}")).start().await;

            self.check(&nats, &endpoint, tls.map(|(name, value)| (name, value.as_str()))).await;
            commands(&nats, &body, proof).await;
            drop(relay);
        }
        assert!(front.protocols().iter().all(|protocol| protocol.as_deref() == Some("http/1.1")));
    }

    fn environment(&self, endpoint: &str) -> impl Iterator<Item = (&'static str, String)> + use<> {
        [
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
        .into_iter()
    }

    async fn check(&self, nats: &Nats, endpoint: &str, tls: Option<(&str, &str)>) {
        let check = || {
            let check = gantry(["serve", "--check", "--http", "off", "--store"]).arg(format!("s=s3://{BUCKET}"));
            self.environment(endpoint).fold(check.nats(nats), |check, (name, value)| check.env(name, value))
        };
        let Some((name, value)) = tls else {
            check().run().await.expect_code(0);
            return;
        };

        check().env(name, value).run().await.expect_code(0);
        let untrusted = check().run().await.expect_code(2);
        assert!(untrusted.stderr.contains("`stores.s.tls_ca_file`"), "{}", untrusted.stderr);
    }
}

/// Runs the commands of a consumer.
async fn commands(nats: &Nats, body: &Bytes, proof: &str) {
    let folder = data::folder();
    let file = folder.path().join("file");
    let run = |args: &[&str]| -> Command { gantry(args).nats(nats) };
    let get = |key: &str| run(&["get", &format!("s/{key}"), "-o"]).arg(&file);

    for (key, expected, proof) in [
        ("folder/object", body.clone(), "transport"),
        ("folder/proved", body.clone(), proof),
        ("empty", Bytes::new(), "transport"),
    ] {
        let json = get(key).arg("--json").run().await.expect_code(0).json();
        assert!(std::fs::read(&file).unwrap() == expected, "{key}");
        assert_eq!(json["proof"]["kind"], proof, "{key}: {json}");
    }

    get("folder/object").arg("--range").arg("5-9").run().await.expect_code(0);
    assert!(std::fs::read(&file).unwrap() == body[5..10]);
    get("missing").run().await.expect_code(4);

    let listed = run(&["ls", "-r", "s/folder/"]).run().await.expect_code(0).stdout_text();
    assert!(listed.contains("folder/object") && listed.contains("folder/proved"), "{listed}");
    let described = run(&["stat", "s/folder/object"]).run().await.expect_code(0).stdout_text();
    assert!(described.contains(&body.len().to_string()), "{described}");
}
