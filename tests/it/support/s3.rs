//! A real S3 server: SeaweedFS, which verifies signatures.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, retry::RetryConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::process::{self, root};
use super::{DEADLINE, data};

/// An S3 server. It ends and its data is removed when it is dropped or the test process ends.
#[derive(Debug)]
pub(crate) struct S3 {
    folder: TempDir,
    lifeline: Option<ChildStdin>,
    started: Started,
}

/// What `deploy/dev/s3.py` prints once the server is ready.
#[derive(Debug, Deserialize)]
struct Started {
    endpoint: String,
    pid: u32,
    region: String,
    users: HashMap<String, Keys>,
}

/// A user's credentials.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Keys {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

impl S3 {
    /// Returns the server that all tests share. Each test uses its own [`Self::bucket`].
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<S3> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start_keeping(false)).await
    }

    /// Starts a server for one test, which may stop or freeze it.
    pub(crate) async fn start() -> Self {
        Self::start_keeping(true).await
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.started.endpoint
    }

    pub(crate) fn region(&self) -> &str {
        &self.started.region
    }

    pub(crate) fn pid(&self) -> u32 {
        self.started.pid
    }

    /// The user with all permissions.
    pub(crate) fn admin(&self) -> &Keys {
        &self.started.users["admin"]
    }

    /// The user without permissions.
    pub(crate) fn denied(&self) -> &Keys {
        &self.started.users["denied"]
    }

    /// Returns the environment of a relay that reads from this server as `user`, with the SDK's usual variables.
    pub(crate) fn env(&self, user: &Keys) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.started.endpoint.clone()),
            ("AWS_REGION", self.started.region.clone()),
            ("AWS_ACCESS_KEY_ID", user.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", user.secret_access_key.clone()),
        ]
    }

    /// Ends the server with SIGKILL, and keeps its data.
    pub(crate) fn kill(&mut self) {
        process::signal(self.started.pid, "KILL");
        self.lifeline = None;
    }

    /// Restarts the killed server on the same port with the same data.
    pub(crate) async fn restart(&mut self) {
        let (lifeline, started) = Self::spawn(self.folder.path().to_owned(), true).await;
        self.lifeline = Some(lifeline);
        self.started = started;
    }

    /// Sends a signal by its name: `STOP` and `CONT` freeze and resume the server.
    pub(crate) fn signal(&self, name: &str) {
        process::signal(self.started.pid, name);
    }

    /// Creates a client for the administrator. It belongs to the runtime it is used on, so create one for each test.
    pub(crate) fn client(&self) -> Client {
        let keys = self.admin();
        let credentials =
            Credentials::new(keys.access_key_id.clone(), keys.secret_access_key.clone(), None, None, "it");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.started.endpoint)
            .region(Region::new(self.started.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(true)
            .retry_config(RetryConfig::standard().with_max_attempts(5))
            // A checksum is stored only if a test requests one.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Client::from_conf(config)
    }

    /// Creates a bucket that no other test uses, and returns its name.
    pub(crate) async fn bucket(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("it-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.create_bucket(&name).await;
        name
    }

    pub(crate) async fn create_bucket(&self, name: &str) {
        self.client().create_bucket().bucket(name).send().await.unwrap();
    }

    /// Puts one object and returns its `ETag`. `checksum` is computed here, and verified and stored by the server.
    pub(crate) async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: impl Into<ByteStream>,
        checksum: Option<ChecksumAlgorithm>,
    ) -> String {
        let put = self.client().put_object().bucket(bucket).key(key).body(body.into());
        put.set_checksum_algorithm(checksum).send().await.unwrap().e_tag.unwrap()
    }

    /// Puts a file's content as one object and returns its `ETag`.
    pub(crate) async fn put_file(
        &self,
        bucket: &str,
        key: &str,
        file: &Path,
        checksum: Option<ChecksumAlgorithm>,
    ) -> String {
        self.put(bucket, key, ByteStream::from_path(file).await.unwrap(), checksum).await
    }

    /// Puts one object in parts (each but the last at least 5 MiB) and returns its `ETag`.
    pub(crate) async fn put_multipart(
        &self,
        bucket: &str,
        key: &str,
        parts: &[Bytes],
        checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
    ) -> String {
        put_multipart(&self.client(), bucket, key, parts, checksum).await
    }

    /// A static is never dropped, so the supervisor removes the shared server's folder. A server that may be restarted
    /// needs its folder, so that one is kept until the drop.
    async fn start_keeping(keep: bool) -> Self {
        let folder = data::folder();
        let (lifeline, started) = Self::spawn(folder.path().to_owned(), keep).await;
        Self { folder, lifeline: Some(lifeline), started }
    }

    /// Runs `s3.py`, which prints a line once the server is ready. The server runs until the lifeline is closed.
    async fn spawn(folder: PathBuf, keep: bool) -> (ChildStdin, Started) {
        // Not a child process of tokio: the first caller's runtime ends while other tests still use the server.
        let start = tokio::task::spawn_blocking(move || {
            process::server("bin/weed");
            let script = root().join("deploy/dev/s3.py");
            let mut child = Command::new(process::python())
                .arg(script)
                .arg(&folder)
                .args(keep.then_some("--keep"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();

            let lifeline = child.stdin.take().expect("standard input is piped");
            let output = child.stdout.take().expect("standard output is piped");
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).unwrap();
            child.wait().unwrap();
            let started = serde_json::from_str(&line)
                .unwrap_or_else(|_| panic!("no S3 server (the reason is above): run `make servers` first"));
            (lifeline, started)
        });
        tokio::time::timeout(DEADLINE * 2, start).await.expect("the S3 server was not ready in time").unwrap()
    }
}

/// Puts one object in parts (each but the last at least 5 MiB) and returns its `ETag`.
pub(crate) async fn put_multipart(
    client: &Client,
    bucket: &str,
    key: &str,
    parts: &[Bytes],
    checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
) -> String {
    let (algorithm, checksum_type) = checksum.unzip();
    let create = client.create_multipart_upload().bucket(bucket).key(key);
    let created =
        create.set_checksum_algorithm(algorithm.clone()).set_checksum_type(checksum_type.clone()).send().await.unwrap();
    let upload = created.upload_id.unwrap();
    let mut completed = Vec::new();

    for (number, part) in (1..).zip(parts) {
        let put = client.upload_part().bucket(bucket).key(key).upload_id(&upload).part_number(number);
        let done = put.set_checksum_algorithm(algorithm.clone()).body(part.clone().into()).send().await.unwrap();
        completed.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(done.e_tag)
                .set_checksum_crc32(done.checksum_crc32)
                .set_checksum_crc32_c(done.checksum_crc32_c)
                .set_checksum_crc64_nvme(done.checksum_crc64_nvme)
                .set_checksum_sha1(done.checksum_sha1)
                .set_checksum_sha256(done.checksum_sha256)
                .build(),
        );
    }

    let parts = CompletedMultipartUpload::builder().set_parts(Some(completed)).build();
    let complete = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(upload);
    let done = complete.set_checksum_type(checksum_type).multipart_upload(parts).send().await.unwrap();

    done.e_tag.unwrap()
}

impl Drop for S3 {
    fn drop(&mut self) {
        // The server must be gone before its folder is removed, because it would still write there. SIGKILL takes
        // effect within milliseconds; the limit is for a process in an uninterruptible state.
        if process::is_running(self.started.pid) {
            process::signal(self.started.pid, "KILL");
        }
        for _ in 0..100_000 {
            if !process::is_running(self.started.pid) {
                return;
            }
            std::thread::yield_now();
        }
    }
}
