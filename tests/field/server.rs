//! S3 servers from packages, and what each of them must be able to do.

use std::net::SocketAddr;
use std::process::Stdio;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as SdkCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use bytes::Bytes;
use gantry_proto::{ListRequest, Pin};
use gantry_store::s3::{Credentials, Limits, Options, S3Store, StaticCredentials};
use gantry_store::{Budget, Error, Store as _};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::stores::conformance::{self, Ways};
use crate::stores::{key, read};
use crate::support::gantry::Command;
use crate::support::process::{Process, python, root, server};
use crate::support::s3::put_multipart;
use crate::support::tls::TlsFront;
use crate::support::{DEADLINE, Nats, Relay, data, gantry, until};

pub(crate) const SECRET: &str = "gantry-field-secret";
const REGION: &str = "us-east-1";
const BUCKET: &str = "field-bucket";

/// Keys that need encoding in a URL, or quotation marks in a shell.
const ODD: [&str; 5] =
    ["odd/a b  c.txt", "odd/gr\u{fc}\u{df}e/\u{1f680}", "odd/100%/%20?x=1#frag", "odd/a+b&c=d;e", "odd/\"q\" '*'"];

/// How files are verified whose checksum was sent with the upload.
pub(crate) struct Proofs {
    /// Those uploaded as a whole.
    pub(crate) single: &'static str,
    /// Those uploaded in parts, with a checksum of the parts' checksums; `None` if the SDK can't upload parts.
    pub(crate) multipart: Option<&'static str>,
}

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

    /// Downloads, lists and describes objects with the command, over plain HTTP and over TLS with a private authority,
    /// and compares the bucket with what boto3 reads.
    pub(crate) async fn serves_the_command_line(&self, proofs: Proofs) {
        let nats = Nats::plain().await;
        let body = data::random_bytes(1, 20 << 20);
        if proofs.multipart.is_some() {
            let parts = [body.slice(..6 << 20), body.slice(6 << 20..11 << 20), body.slice(11 << 20..)];
            let composite = (ChecksumAlgorithm::Sha256, ChecksumType::Composite);
            put_multipart(&self.client(), BUCKET, "folder/parts", &parts, Some(composite)).await;
        }
        self.put("folder/object", body.clone(), None).await;
        self.put("folder/proved", body.clone(), Some(ChecksumAlgorithm::Sha256)).await;
        self.put("empty", Bytes::new(), None).await;
        for (seed, key) in ODD.iter().enumerate() {
            self.put(key, data::random_bytes(seed as u64, 1000), None).await;
        }

        let front = TlsFront::start(&self.endpoint, "127.0.0.1").await;
        let ca = front.ca().display().to_string();
        for (endpoint, tls) in [(self.endpoint.clone(), None), (front.endpoint(), Some(("AWS_CA_BUNDLE", &ca)))] {
            let relay = self.environment(&endpoint).chain(tls.map(|(name, value)| (name, value.clone())));
            let relay = relay.fold(Relay::on(&nats), |relay, (name, value)| relay.env(name, value));
            let relay = relay.store("s", format!("s3://{BUCKET}")).start().await;

            self.check(&nats, &endpoint, tls.map(|(name, value)| (name, value.as_str()))).await;
            commands(&nats, &body, &proofs).await;
            self.agrees_with_boto(&nats).await;
            drop(relay);
        }
        assert!(front.protocols().iter().all(|protocol| protocol.as_deref() == Some("http/1.1")));
    }

    /// Downloads and lists the bucket with the command, and with boto3.
    async fn agrees_with_boto(&self, nats: &Nats) {
        let folder = data::folder();
        gantry(["get", "-r", "s/", "-o"]).arg(folder.path()).nats(nats).run().await.expect_code(0);
        let listed = gantry(["ls", "-r", "s", "--json"]).nats(nats).run().await.expect_code(0).stdout_text();
        let mut listed: Vec<(String, u64)> = listed
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|object| (object["key"].as_str().unwrap().to_owned(), object["size"].as_u64().unwrap()))
            .collect();
        listed.sort();

        let mut boto = tokio::process::Command::new(python());
        boto.arg(root().join("tests/field/boto.py")).args([&self.endpoint, BUCKET]).arg(folder.path());
        boto.env("PYTHONPATH", server("moto")).envs(self.environment(&self.endpoint)).stdin(Stdio::null());
        let output = timeout(DEADLINE, boto.kill_on_drop(true).output()).await.expect("boto3 ends").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let mut expected: Vec<(String, u64)> = serde_json::from_slice(&output.stdout).unwrap();
        expected.sort();
        assert_eq!(listed, expected);
        assert!(listed.len() >= ODD.len() + 3, "{listed:?}");
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
async fn commands(nats: &Nats, body: &Bytes, proofs: &Proofs) {
    let folder = data::folder();
    let file = folder.path().join("file");
    let run = |args: &[&str]| -> Command { gantry(args).nats(nats) };
    let get = |key: &str| run(&["get", &format!("s/{key}"), "-o"]).arg(&file);

    let objects = [
        ("folder/object", body.clone(), "transport"),
        ("folder/proved", body.clone(), proofs.single),
        ("empty", Bytes::new(), "transport"),
    ];
    let parts = proofs.multipart.map(|proof| ("folder/parts", body.clone(), proof));
    for (key, expected, proof) in objects.into_iter().chain(parts) {
        let json = get(key).arg("--json").run().await.expect_code(0).json();
        assert!(std::fs::read(&file).unwrap() == expected, "{key}");
        assert_eq!(json["proof"]["kind"], proof, "{key}: {json}");
    }

    let json = get("folder/object").arg("--verify-etag").arg("--json").run().await.expect_code(0).json();
    assert_eq!(json["proof"]["kind"], "etag", "{json}");

    // One range begins before the end of a part and ends after it.
    let across_parts = ("folder/parts", (6 << 20) - 10, (6 << 20) + 10);
    for (key, start, end) in [("folder/object", 5, 9)].into_iter().chain(proofs.multipart.map(|_| across_parts)) {
        get(key).arg("--range").arg(format!("{start}-{end}")).run().await.expect_code(0);
        assert!(std::fs::read(&file).unwrap() == body[start..=end], "{key}");
    }
    get("missing").run().await.expect_code(4);
    for (seed, key) in ODD.iter().enumerate() {
        get(key).arg("--no-glob").run().await.expect_code(0);
        assert!(std::fs::read(&file).unwrap() == data::random_bytes(seed as u64, 1000), "{key}");
    }

    let listed = run(&["ls", "s"]).run().await.expect_code(0).stdout_text();
    assert!(listed.contains("folder/") && listed.contains("odd/") && !listed.contains("folder/object"), "{listed}");
    let listed = run(&["ls", "-r", "s/folder/"]).run().await.expect_code(0).stdout_text();
    assert!(listed.contains("folder/object") && listed.contains("folder/proved"), "{listed}");
    let described = run(&["stat", "s/folder/object"]).run().await.expect_code(0).stdout_text();
    assert!(described.contains(&body.len().to_string()), "{described}");
}
