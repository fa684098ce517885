//! Write and delete objects over the interfaces of Google Cloud Storage and Azure Blob Storage: the tests' doubles, or the
//! real services.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::http::request::Builder;
use hyper::{Method, Request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::http;

/// Characters that are encoded: all but the unreserved ones of RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Writes to a bucket by Google's JSON API.
#[derive(Clone, Debug)]
pub(crate) struct GcsWriter {
    /// The address of the server.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    /// An access token. An emulator needs none.
    pub(crate) token: Option<String>,
}

impl GcsWriter {
    /// Puts one object with a `Content-Encoding`, unless it is empty.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes, coding: &str) {
        let bucket = &self.bucket;
        let coding = if coding.is_empty() { String::new() } else { format!("&contentEncoding={coding}") };
        let path = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={}{coding}", encoded(key));
        done(self.request(Method::POST, &path), bytes).await;
    }

    pub(crate) async fn delete(&self, key: &str) {
        done(self.deletion(key), Bytes::new()).await;
    }

    /// Deletes an object if it exists.
    pub(crate) async fn delete_if_present(&self, key: &str) {
        done_or_missing(self.deletion(key)).await;
    }

    fn deletion(&self, key: &str) -> Builder {
        self.request(Method::DELETE, &format!("/storage/v1/b/{}/o/{}", self.bucket, encoded(key)))
    }

    /// Creates the bucket in an emulator.
    pub(crate) async fn create_bucket(&self) {
        let body = format!("{{\"name\":\"{}\"}}", self.bucket);
        done(self.request(Method::POST, "/storage/v1/b"), body.into()).await;
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.endpoint));
        let request = request.header("content-type", "application/octet-stream");
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// Writes to a container with a SAS that has the permissions `racwdl`.
#[derive(Clone, Debug)]
pub(crate) struct AzureWriter {
    /// The address of the account.
    pub(crate) endpoint: String,
    pub(crate) container: String,
    pub(crate) sas: String,
}

impl AzureWriter {
    /// Puts a blob in one request, so that Azure stores its MD5.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes) {
        let request = self.request(Method::PUT, name, "").header("x-ms-blob-type", "BlockBlob");
        done(request, bytes).await;
    }

    /// Puts a blob in blocks, so that no checksum is stored.
    pub(crate) async fn put_without_md5(&self, name: &str, bytes: Bytes) {
        const BLOCK_BYTES: usize = 64 << 20;
        let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
        let ids: Vec<_> = blocks.clone().map(|(number, _)| STANDARD.encode(format!("{number:06}"))).collect();
        for ((_, block), id) in blocks.zip(&ids) {
            let query = format!("comp=block&blockid={}&", encoded(id));
            done(self.request(Method::PUT, name, &query), bytes.slice_ref(block)).await;
        }

        let list: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
        let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        done(self.request(Method::PUT, name, "comp=blocklist&"), list.into()).await;
    }

    /// Puts the empty blob that marks a folder. Its name has no slash at its end.
    pub(crate) async fn put_folder(&self, name: &str) {
        let request = self.request(Method::PUT, name, "").header("x-ms-blob-type", "BlockBlob");
        done(request.header("x-ms-meta-hdi_isfolder", "true"), Bytes::new()).await;
    }

    pub(crate) async fn delete(&self, name: &str) {
        done(self.request(Method::DELETE, name, ""), Bytes::new()).await;
    }

    /// Deletes a blob if it exists.
    pub(crate) async fn delete_if_present(&self, name: &str) {
        done_or_missing(self.request(Method::DELETE, name, "")).await;
    }

    fn request(&self, method: Method, name: &str, query: &str) -> Builder {
        let Self { endpoint, container, sas } = self;
        let url = format!("{endpoint}/{container}/{}?{query}{}", encoded(name), sas.trim_start_matches('?'));
        Request::builder().method(method).uri(url).header("x-ms-version", "2023-11-03")
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Sends a request, and asserts that it is done.
async fn done(request: Builder, body: Bytes) {
    let (is_done, answer) = sent(request, body).await;
    assert!(is_done, "{answer}");
}

/// Sends a request without a body, and asserts that it is done, or that its object does not exist.
async fn done_or_missing(request: Builder) {
    let (is_done, answer) = sent(request, Bytes::new()).await;
    assert!(is_done || answer.contains(": 404 "), "{answer}");
}

/// Sends a request. Returns whether it is done, and a description of the answer.
async fn sent(request: Builder, body: Bytes) -> (bool, String) {
    let request = request.header("content-length", body.len()).body(Full::new(body)).unwrap();
    let what = format!("{} {}", request.method(), request.uri().path());
    let answer = http::send(request).await;
    let text = String::from_utf8_lossy(answer.body());
    (answer.status().is_success(), format!("{what}: {} {text}", answer.status()))
}
