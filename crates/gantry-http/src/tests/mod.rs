//! A server over connections in memory, with raw requests.

mod conditional;
mod connections;
mod hostile;
mod http2;
mod listings;
mod proved;
mod ranges;
mod s3;
mod shelf;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use gantry_proto::StoreName;
use gantry_store::{Error, Store};
use gantry_testing::store::MemoryStore;

use crate::{Established, Finished, Observe, Options, Peer, Protocol, Rejected, Server, StoreMap, Stores};

/// The size of the pieces of the store in memory, in bytes.
const PIECE: u64 = 100;

/// No answer takes as long.
const DEADLINE: Duration = Duration::from_secs(20);

/// A server with the stores `models`, in memory, and `shelf`, with one described object.
struct Site {
    server: Server,
    store: Arc<MemoryStore>,
    stores: Arc<Counted>,
    reports: mpsc::UnboundedReceiver<Finished>,
    rejections: mpsc::UnboundedReceiver<Rejected>,
}

/// Counts the look-ups of stores.
#[derive(Debug)]
struct Counted {
    stores: StoreMap,
    lookups: AtomicU64,
}

impl Stores for Counted {
    fn names(&self) -> BoxFuture<'_, Result<Vec<StoreName>, Error>> {
        self.stores.names()
    }

    fn store<'a>(&'a self, name: &'a StoreName) -> BoxFuture<'a, Result<Option<Arc<dyn Store>>, Error>> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.stores.store(name)
    }
}

#[derive(Debug)]
struct Reporter {
    reports: mpsc::UnboundedSender<Finished>,
    rejections: mpsc::UnboundedSender<Rejected>,
}

impl Observe for Reporter {
    fn finished(&self, finished: &Finished) {
        // A test that has ended reads no reports.
        self.reports.send(finished.clone()).ok();
    }

    fn rejected(&self, _: &Peer, reason: Rejected) {
        self.rejections.send(reason).ok();
    }
}

impl Site {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        Self::serving(options, Arc::new(shelf::Shelf::default()))
    }

    fn serving(options: Options, shelf: Arc<dyn Store>) -> Self {
        let store = Arc::new(MemoryStore::new(PIECE));
        let memory: Arc<dyn Store> = Arc::clone(&store) as _;
        let map = [("models", memory), ("shelf", shelf)];
        let map = map.into_iter().map(|(name, store)| (name.parse().unwrap(), store)).collect();
        let stores = Arc::new(Counted { stores: map, lookups: AtomicU64::new(0) });

        let (reports, reported) = mpsc::unbounded_channel();
        let (rejections, rejected) = mpsc::unbounded_channel();
        let observe = Arc::new(Reporter { reports, rejections });
        let server = Server::observed(Arc::clone(&stores) as _, options, observe);
        Self { server, store, stores, reports: reported, rejections: rejected }
    }

    /// Stores bytes that differ from each other, and returns them.
    fn put(&self, key: &str, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        self.store.put(key.parse().unwrap(), bytes.clone());
        bytes
    }

    /// Opens a connection from this client.
    fn connect_from(&self, peer: Peer) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = self.server.clone();
        tokio::spawn(async move {
            server.serve_connection(Established::http1(theirs), peer, CancellationToken::new()).await
        });
        ours
    }

    fn connect(&self) -> DuplexStream {
        self.connect_from(Peer::UNIX)
    }

    /// Sends raw bytes on a connection of their own, and returns all bytes until the server closes it.
    async fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut connection = self.connect();
        // The server may close the connection before it has read everything.
        drop(connection.write_all(request).await);
        read_to_end(&mut connection).await
    }

    async fn answer(&self, request: &str) -> Answer {
        Answer::parse(&self.raw(request.as_bytes()).await)
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.answer(&request(method, target, headers)).await
    }

    async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", target, headers).await
    }

    /// Waits for the next report.
    async fn report(&mut self) -> Finished {
        tokio::time::timeout(DEADLINE, self.reports.recv()).await.unwrap().unwrap()
    }
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost:9000\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request + "\r\n"
}

/// Reads until the server closes the connection, or breaks it.
async fn read_to_end(connection: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(DEADLINE, connection.read_to_end(&mut bytes)).await;
    drop(read.expect("the server closes the connection"));
    bytes
}

/// A response as a client reads it. The default stands for a connection that was closed before a response.
#[derive(Clone, Debug, Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    /// Whether the response ended as announced.
    is_complete: bool,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(bytes));
            return Self::default();
        };
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = fields(lines);
        let mut answer =
            Self { status, headers, body: bytes[end + 4..].to_vec(), trailers: Vec::new(), is_complete: true };

        if answer.header("transfer-encoding") == Some("chunked") {
            let encoded = std::mem::take(&mut answer.body);
            answer.is_complete = answer.decode_chunks(&encoded).is_some();
        } else if let Some(len) = answer.header("content-length") {
            answer.is_complete = answer.body.len() == len.parse::<usize>().unwrap();
        }
        answer
    }

    /// Returns `None` if the last chunk is missing.
    fn decode_chunks(&mut self, mut rest: &[u8]) -> Option<()> {
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let len = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            rest = &rest[line + 2..];
            if len == 0 {
                self.trailers =
                    fields(std::str::from_utf8(rest).unwrap().split("\r\n").filter(|line| !line.is_empty()));
                return rest.ends_with(b"\r\n").then_some(());
            }
            self.body.extend_from_slice(rest.get(..len)?);
            rest = rest.get(len + 2..)?;
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Returns the content of the first XML element of this name.
    fn element(&self, name: &str) -> &str {
        self.elements(name).first().copied().unwrap_or_else(|| panic!("no <{name}> in {}", self.text()))
    }

    fn elements(&self, name: &str) -> Vec<&str> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        self.text().split(open.as_str()).skip(1).map(|rest| rest.split(close.as_str()).next().unwrap()).collect()
    }

    fn code(&self) -> &str {
        self.element("Code")
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let field =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    lines.map(|line| field(line).unwrap()).collect()
}
