//! A double of Azure Blob Storage, written from Azure's documentation, since no emulator is available to the tests.
//!
//! It knows *Get Blob*, *Get Blob Properties*, *List Blobs*, *Put Blob*, *Put Block*, *Put Block List* and *Delete Blob*,
//! checks signatures with the account's key, and fails on demand. Its addresses have the account in the path, as those of Azure's own emulator.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::cloud_writers::AzureWriter;

/// The account and the container of every double.
pub(crate) const ACCOUNT: &str = "account";
pub(crate) const CONTAINER: &str = "container";

/// The account's key, of 64 bytes.
pub(crate) const KEY: &str = "c2VjcmV0IGtleSBvZiB0aGUgYWNjb3VudCwgd2hpY2ggaGFzIGFzIG1hbnkgYnl0ZXMgYXMgQXp1cmUncyBkbw==";

/// A SAS that the double accepts.
pub(crate) const SAS: &str = "sv=2023-11-03&sp=rl&se=2999-01-01T00%3A00%3A00Z&sig=hush";

/// The metadata of a blob that marks a folder.
const MARK: &str = "<Metadata><owner>tests</owner><hdi_isfolder>true</hdi_isfolder></Metadata>";

/// How to answer a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// As Azure does.
    Serve,
    /// With a status, an error code, and a header unless its name is empty.
    Fail(u16, &'static str, (&'static str, &'static str)),
    /// With only this many bytes of the body; then the connection is cut.
    Cut(usize),
    /// With only this many bytes of the body; then the connection stays open and stalls.
    Stall(usize),
    /// No answer.
    Hang,
    /// With status 200 and a web page.
    Page,
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) is_list: bool,
    pub(crate) is_head: bool,
    /// The blob's name; empty for a listing.
    pub(crate) name: String,
    pub(crate) range: Option<String>,
    pub(crate) query: BTreeMap<String, String>,
    /// The number of earlier requests.
    pub(crate) index: usize,
}

#[derive(Clone, Debug)]
struct Blob {
    bytes: Bytes,
    etag: String,
    version: String,
    has_md5: bool,
    /// Whether the blob stands for a folder, as Hadoop's drivers write it.
    marks_folder: bool,
}

type Script = Box<dyn Fn(&Asked) -> Act + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, std::io::Error>;

struct Shared {
    /// The versions of each blob, oldest first.
    blobs: Mutex<BTreeMap<String, Vec<Blob>>>,
    /// The blocks that were put, by the blob's name and their id.
    blocks: Mutex<BTreeMap<(String, String), Bytes>>,
    log: Mutex<Vec<Asked>>,
    script: Script,
    /// Whether a container is public.
    is_public: bool,
}

/// The double. It ends when dropped.
pub(crate) struct AzureDouble {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl AzureDouble {
    pub(crate) async fn start() -> Self {
        Self::scripted(false, |_| Act::Serve).await
    }

    /// Starts a double whose container is public, or that answers requests as `script` decides.
    pub(crate) async fn scripted(is_public: bool, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (blobs, blocks, log) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { blobs, blocks, log, script: Box::new(script), is_public });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task: task.abort_handle() }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.address)
    }

    /// Puts a blob with an MD5, and returns its version.
    pub(crate) fn put(&self, name: &str, bytes: impl Into<Bytes>) -> String {
        self.insert(name, bytes.into(), true, false)
    }

    /// Puts a blob for which no checksum is stored, as after an upload in blocks.
    pub(crate) fn put_without_md5(&self, name: &str, bytes: impl Into<Bytes>) {
        self.insert(name, bytes.into(), false, false);
    }

    /// Puts the empty blob that marks a folder. Its name has no slash at its end.
    pub(crate) fn put_folder(&self, name: &str) {
        self.insert(name, Bytes::new(), true, true);
    }

    /// Deletes a blob with all its versions.
    pub(crate) fn delete(&self, name: &str) {
        self.shared.blobs.lock().unwrap().remove(name);
    }

    fn insert(&self, name: &str, bytes: Bytes, has_md5: bool, marks_folder: bool) -> String {
        self.shared.insert(name, bytes, has_md5, marks_folder)
    }

    /// Returns what writes to the container.
    pub(crate) fn writer(&self) -> AzureWriter {
        AzureWriter { endpoint: self.endpoint(), container: CONTAINER.to_owned(), sas: SAS.to_owned() }
    }

    /// Returns all requests so far.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.shared.log.lock().unwrap().clone()
    }
}

impl Shared {
    fn insert(&self, name: &str, bytes: Bytes, has_md5: bool, marks_folder: bool) -> String {
        let mut blobs = self.blobs.lock().unwrap();
        let number = blobs.values().map(Vec::len).sum::<usize>() + 1;
        let version = format!("2026-11-28T21:30:12.{number:07}Z");
        let etag = format!("\"0x8D{number:012X}\"");
        let blob = Blob { bytes, etag, version: version.clone(), has_md5, marks_folder };
        blobs.entry(name.to_owned()).or_default().push(blob);
        version
    }
}

impl Drop for AzureDouble {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let query = query(&request);
    let range = request.headers().get("range").map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path().strip_prefix(&format!("/{ACCOUNT}/")).unwrap_or_default();
    let (container, name) = path.split_once('/').unwrap_or((path, ""));
    let name = percent_decode_str(name).decode_utf8().unwrap().into_owned();
    let asked = {
        let mut log = shared.log.lock().unwrap();
        let is_list = query.get("comp").is_some_and(|comp| comp == "list");
        let is_head = request.method() == Method::HEAD;
        let asked = Asked { is_list, is_head, name, range, query, index: log.len() };
        log.push(asked.clone());
        asked
    };

    let act = (shared.script)(&asked);
    match act {
        Act::Hang => std::future::pending().await,
        Act::Fail(status, code, header) => return failure(status, code, header, ""),
        Act::Page => {
            let page = Response::builder().header("content-type", "text/html");
            return page.body(full("<!doctype html><title>Sign in</title>")).unwrap();
        }
        Act::Serve | Act::Cut(_) | Act::Stall(_) => {}
    }

    if let Err((status, code)) = authorize(shared, &request, &asked.query) {
        return failure(status, code, ("", ""), "the signature is not the expected one");
    }
    if container != CONTAINER {
        return failure(404, "ContainerNotFound", ("", ""), "");
    }
    if asked.is_list {
        return list(shared, &asked.query);
    }
    match *request.method() {
        Method::PUT => put(shared, request, &asked).await,
        Method::DELETE => {
            let found = shared.blobs.lock().unwrap().remove(&asked.name);
            found.map_or_else(|| failure(404, "BlobNotFound", ("", ""), ""), |_| accepted(202))
        }
        _ => blob(shared, &request, &asked, &act),
    }
}

/// Stores a blob or a block, or makes a blob of blocks.
async fn put(shared: &Shared, request: Request<Incoming>, asked: &Asked) -> Response<Body> {
    let query = |name: &str| asked.query.get(name).map(String::as_str).unwrap_or_default();
    let has_type = request.headers().contains_key("x-ms-blob-type");
    let marks_folder = request.headers().contains_key("x-ms-meta-hdi_isfolder");
    let body = request.into_body().collect().await.unwrap().to_bytes();

    match query("comp") {
        "block" => {
            let block = (asked.name.clone(), query("blockid").to_owned());
            shared.blocks.lock().unwrap().insert(block, body);
        }
        "blocklist" => {
            let list = String::from_utf8(body.to_vec()).unwrap();
            let ids = list.split("<Latest>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
            let mut blocks = shared.blocks.lock().unwrap();
            let parts: Vec<_> = ids.map(|id| blocks.remove(&(asked.name.clone(), id)).unwrap()).collect();
            drop(blocks);
            shared.insert(&asked.name, parts.concat().into(), false, false);
        }
        _ if has_type => {
            shared.insert(&asked.name, body, true, marks_folder);
        }
        _ => return failure(400, "MissingRequiredHeader", ("", ""), ""),
    }
    accepted(201)
}

fn accepted(status: u16) -> Response<Body> {
    Response::builder().status(status).body(full("")).unwrap()
}

fn query(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

/// Source: "Authorize with Shared Key".
fn authorize(
    shared: &Shared,
    request: &Request<Incoming>,
    query: &BTreeMap<String, String>,
) -> Result<(), (u16, &'static str)> {
    let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap());
    let is_signed = query.get("sig").is_some_and(|sig| sig == "hush");
    let is_expired = query.get("se").is_some_and(|end| !end.starts_with("2999"));
    if (is_signed && !is_expired) || header("authorization") == "Bearer token" {
        return Ok(());
    }
    let Some(signature) = header("authorization").strip_prefix(&format!("SharedKey {ACCOUNT}:")) else {
        let is_refused = query.contains_key("sig") || !header("authorization").is_empty();
        return match (is_refused, shared.is_public) {
            (true, _) => Err((403, "AuthenticationFailed")),
            (false, true) => Ok(()),
            (false, false) => Err((409, "PublicAccessNotPermitted")),
        };
    };

    let length = Some(header("content-length")).filter(|length| *length != "0").unwrap_or_default();
    let mut text = request.method().to_string();
    for value in [
        header("content-encoding"),
        header("content-language"),
        length,
        header("content-md5"),
        header("content-type"),
        header("date"),
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    ] {
        write!(text, "\n{value}").unwrap();
    }
    let own = request.headers().keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-ms-"));
    for name in own.collect::<BTreeSet<_>>() {
        write!(text, "\n{name}:{}", header(name)).unwrap();
    }
    write!(text, "\n/{ACCOUNT}{}", request.uri().path()).unwrap();
    for (name, value) in query {
        write!(text, "\n{}:{value}", name.to_lowercase()).unwrap();
    }

    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY).unwrap()).unwrap();
    mac.update(text.as_bytes());
    let expected = STANDARD.encode(mac.finalize().into_bytes());
    if expected == signature { Ok(()) } else { Err((403, "AuthenticationFailed")) }
}

fn blob(shared: &Shared, request: &Request<Incoming>, asked: &Asked, act: &Act) -> Response<Body> {
    let blobs = shared.blobs.lock().unwrap();
    let Some(versions) = blobs.get(&asked.name) else { return failure(404, "BlobNotFound", ("", ""), "") };
    let found = match asked.query.get("versionid") {
        Some(wanted) => versions.iter().find(|blob| blob.version == *wanted),
        None => versions.last(),
    };
    let Some(blob) = found else { return failure(404, "BlobNotFound", ("", ""), "") };

    if request.headers().get("if-match").is_some_and(|etag| etag.to_str().unwrap() != blob.etag) {
        return failure(412, "ConditionNotMet", ("", ""), "");
    }
    let size = blob.bytes.len();
    let range = asked.range.as_deref().map(|text| parse(text, size));
    if range.as_ref().is_some_and(|range| range.start >= size) {
        return failure(416, "InvalidRange", ("", ""), "");
    }

    let mut response = Response::builder()
        .header("etag", &blob.etag)
        .header("last-modified", "Sat, 28 Nov 2026 21:30:12 GMT")
        .header("content-type", "application/octet-stream")
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-version-id", &blob.version)
        .header("x-ms-meta-owner", "tests")
        .header("x-ms-request-id", "00000000-0000-0000-0000-000000000000");
    if blob.marks_folder {
        response = response.header("x-ms-meta-hdi_isfolder", "true");
    }
    if blob.has_md5 {
        let name = if range.is_some() { "x-ms-blob-content-md5" } else { "content-md5" };
        response = response.header(name, STANDARD.encode(Md5::digest(&blob.bytes)));
    }
    if let Some(range) = &range {
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response = response.status(206).header("content-range", text);
    }
    let bytes = blob.bytes.slice(range.unwrap_or(0..size));
    response = response.header("content-length", bytes.len());
    if asked.is_head {
        return response.body(full("")).unwrap();
    }
    response.body(body(bytes, act)).unwrap()
}

/// Parses `bytes=first-last`.
fn parse(text: &str, size: usize) -> Range<usize> {
    let (first, last) = text.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    first.parse().unwrap()..last.parse::<usize>().map_or(size, |last| (last + 1).min(size))
}

fn body(bytes: Bytes, act: &Act) -> Body {
    let (limit, stalls) = match *act {
        Act::Cut(limit) => (limit, false),
        Act::Stall(limit) => (limit, true),
        Act::Serve | Act::Fail(..) | Act::Hang | Act::Page => return full(bytes),
    };
    let start = bytes.slice(..limit.min(bytes.len()));
    let pieces = stream::unfold(Some(start), move |next| async move {
        match next {
            Some(start) => Some((Ok(Frame::data(start)), None)),
            None if stalls => std::future::pending().await,
            None => Some((Err(std::io::Error::other("cut")), None)),
        }
    });
    StreamBody::new(Box::pin(pieces)).boxed_unsync()
}

/// Lists in pages, as "List Blobs" describes.
fn list(shared: &Shared, query: &BTreeMap<String, String>) -> Response<Body> {
    let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let (prefix, delimiter) = (text("prefix"), text("delimiter"));
    let limit: usize = text("maxresults").parse().unwrap_or(5000);
    let marker = percent_decode_str(text("marker").trim_start_matches("2!")).decode_utf8().unwrap().into_owned();

    let blobs = shared.blobs.lock().unwrap();
    let mut items = BTreeMap::new();
    for (name, versions) in blobs.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let rest = &name[prefix.len()..];
        match rest.find('/').filter(|_| !delimiter.is_empty()) {
            Some(at) => items.insert(name[..=prefix.len() + at].to_owned(), None),
            None => items.insert(name.clone(), versions.last()),
        };
    }

    let mut from_marker = items.into_iter().filter(|(name, _)| *name >= marker);
    let mut xml = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>".to_owned();
    for (name, blob) in from_marker.by_ref().take(limit) {
        let name = named(&name);
        match blob {
            None => write!(xml, "<BlobPrefix>{name}</BlobPrefix>"),
            Some(Blob { bytes, etag, marks_folder, .. }) => write!(
                xml,
                "<Blob>{name}<Properties><Last-Modified>Sat, 28 Nov 2026 21:30:12 GMT</Last-Modified><Etag>{}</Etag>\
                 <Content-Length>{}</Content-Length><BlobType>BlockBlob</BlobType></Properties>{}</Blob>",
                etag.trim_matches('"'),
                bytes.len(),
                if *marks_folder && text("include") == "metadata" { MARK } else { "" },
            ),
        }
        .unwrap();
    }
    let next = from_marker.next();
    let marker =
        next.map_or_else(String::new, |(name, _)| format!("2!{}", utf8_percent_encode(&name, NON_ALPHANUMERIC)));
    write!(xml, "</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>").unwrap();
    Response::builder().header("content-type", "application/xml").body(full(xml)).unwrap()
}

/// Writes a name, encoded if XML can't represent it.
fn named(name: &str) -> String {
    if name.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        return format!("<Name Encoded=\"true\">{}</Name>", utf8_percent_encode(name, NON_ALPHANUMERIC));
    }
    let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<Name>{escaped}</Name>")
}

fn failure(status: u16, code: &str, header: (&str, &str), detail: &str) -> Response<Body> {
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .header("x-ms-error-code", code)
        .header("x-ms-request-id", "00000000-0000-0000-0000-000000000000");
    if !header.0.is_empty() {
        response = response.header(header.0, header.1);
    }
    let message = match code {
        "AuthenticationFailed" => "Server failed to authenticate the request.",
        _ => "As asked.",
    };
    let text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}\nTime:now</Message>\
         <AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
    );
    response.body(full(text)).unwrap()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
