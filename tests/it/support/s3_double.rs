//! A fake S3 server with one object and scripted answers, for faults that a real one does not produce on demand.
//!
//! It writes HTTP by hand, since a server library would not send most of these answers.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path and query.
    pub(crate) target: String,
    /// The headers, with names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The number of earlier requests of any kind.
    pub(crate) index: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_get(&self) -> bool {
        self.method == "GET"
    }

    pub(crate) fn is_list(&self) -> bool {
        self.is_get() && self.target.contains("list-type=2")
    }

    /// Returns the requested range, with an exclusive end, of an object of `size` bytes.
    pub(crate) fn range(&self, size: usize) -> Option<Range<usize>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let end = last.parse::<usize>().map_or(size, |last| (last + 1).min(size));
        Some(first.parse().unwrap()..end)
    }
}

/// How to answer a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// As S3 does.
    Serve,
    /// With a status, an error code in the body (unless it is empty), and header lines.
    Fail(u16, &'static str, &'static str),
    /// With only this many bytes of the body; then the connection is cut.
    Cut(usize),
    /// With only this many bytes of the body; then the connection stays open and stalls.
    Stall(usize),
    /// With a body of unannounced length that is this many bytes too short.
    Short(usize),
    /// With a body of unannounced length that is this many bytes too long.
    Long(usize),
    /// With one byte flipped.
    Flip,
    /// With the whole object and status 200, ignoring the requested range.
    IgnoreRange,
    /// With a range that starts this many bytes too late, and is announced as such.
    Shift(usize),
    /// With the right bytes, announced as part of an object that is this many bytes larger.
    Grow(usize),
    /// With another `ETag`, ignoring `If-Match`.
    Replace(&'static str),
    /// With this `ETag`, and these header lines as well, each with its line break.
    Labelled(&'static str, &'static [u8]),
    /// Without an `ETag`.
    Anonymous,
    /// With these header lines as well, each with its line break.
    With(&'static [u8]),
    /// With this status, these header lines and this body, for any request. A HEAD gets no body.
    Raw(u16, &'static str, String),
    /// No answer.
    Hang,
}

type Script = Box<dyn Fn(&Request) -> Act + Send + Sync>;

/// The fake server. It ends when dropped.
pub(crate) struct S3Double {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    object: Bytes,
    script: Script,
    log: Mutex<Vec<Request>>,
}

const ETAG: &str = "\"double\"";

impl S3Double {
    pub(crate) async fn start(object: Bytes, script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { object, script: Box::new(script), log: Mutex::default() });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
            }
        });
        Self { address, shared, task: task.abort_handle() }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().clone()
    }
}

impl Drop for S3Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, &shared).await {
        let act = (shared.script)(&request);
        match answer(stream.get_mut(), &request, act, &shared.object).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>, shared: &Shared) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }

    let mut first = lines[0].split(' ').map(str::to_owned);
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let mut log = shared.log.lock().unwrap();
    let request = Request { method: first.next()?, target: first.next()?, headers, index: log.len() };
    log.push(request.clone());

    Some(request)
}

/// Answers one request. Returns whether the connection can be reused.
async fn answer(stream: &mut TcpStream, request: &Request, act: Act, object: &Bytes) -> std::io::Result<bool> {
    if let Act::Hang = act {
        std::future::pending::<()>().await;
    }
    if let Act::Fail(status, code, headers) = act {
        fail(stream, request, status, code, headers).await?;
        return Ok(true);
    }

    if let Act::Raw(status, headers, body) = act {
        let separator = if headers.is_empty() { "" } else { "\r\n" };
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Scripted\r\n{headers}{separator}content-length: {length}\r\n\r\n");
        let body = if request.is_get() { body } else { String::new() };
        stream.write_all((head + &body).as_bytes()).await?;
        return Ok(true);
    }

    serve(stream, request, act, object).await
}

async fn fail(
    stream: &mut TcpStream,
    request: &Request,
    status: u16,
    code: &str,
    headers: &str,
) -> std::io::Result<()> {
    let mut body = String::new();
    if !code.is_empty() && request.is_get() {
        write!(body, "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as scripted</Message>").unwrap();
        body += "<Region>eu-west-3</Region></Error>";
    }
    let separator = if headers.is_empty() { "" } else { "\r\n" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Scripted\r\n{headers}{separator}content-length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await
}

async fn serve(stream: &mut TcpStream, request: &Request, act: Act, object: &Bytes) -> std::io::Result<bool> {
    let size = object.len();
    let etag = if let Act::Replace(etag) | Act::Labelled(etag, _) = act { etag } else { ETAG };

    if let Some(expected) = request.header("if-match")
        && expected != etag
        && !matches!(act, Act::Replace(_))
    {
        fail(stream, request, 412, "PreconditionFailed", "").await?;
        return Ok(true);
    }

    let asked = request.range(size).filter(|_| !matches!(act, Act::IgnoreRange));
    if asked.as_ref().is_some_and(|range| range.start >= size) {
        fail(stream, request, 416, "InvalidRange", "").await?;
        return Ok(true);
    }

    let mut range = asked.clone().unwrap_or(0..size);
    let mut size = size;

    if let Act::Shift(by) = act {
        range = (range.start + by).min(size - 1)..(range.end + by).min(size);
    }
    if let Act::Grow(by) = act {
        size += by;
    }
    let mut body = object.slice(range.clone()).to_vec();
    let mut head = match asked {
        Some(_) => {
            format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {}-{}/{size}\r\n", range.start, range.end - 1)
        }
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };

    if !matches!(act, Act::Anonymous) {
        write!(head, "etag: {etag}\r\n").unwrap();
    }
    let more = if let Act::With(lines) | Act::Labelled(_, lines) = act { lines } else { b"" };
    if !more.starts_with(b"last-modified") {
        head += "last-modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n";
    }
    let is_chunked = matches!(act, Act::Short(_) | Act::Long(_)) && request.is_get();

    match is_chunked {
        true => head += "transfer-encoding: chunked\r\n\r\n",
        false => write!(head, "content-length: {}\r\n\r\n", body.len()).unwrap(),
    }

    let (status_line, rest) = head.split_once("\r\n").expect("the head has a status line");
    stream.write_all(&[status_line.as_bytes(), b"\r\n", more, rest.as_bytes()].concat()).await?;
    if !request.is_get() {
        return Ok(true);
    }
    spoil(&mut body, &act);

    if is_chunked {
        for chunk in body.chunks(10_000) {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
            stream.write_all(chunk).await?;
            stream.write_all(b"\r\n").await?;
        }
        stream.write_all(b"0\r\n\r\n").await?;
    } else {
        stream.write_all(&body).await?;
    }

    stream.flush().await?;
    if let Act::Stall(_) = act {
        std::future::pending::<()>().await;
    }
    Ok(!matches!(act, Act::Cut(_)))
}

fn spoil(body: &mut Vec<u8>, act: &Act) {
    if let Act::Short(by) = act {
        body.truncate(body.len().saturating_sub(*by));
    }
    if let Act::Long(by) = act {
        body.extend(std::iter::repeat_n(0xaa, *by));
    }
    if let Act::Cut(after) | Act::Stall(after) = act {
        body.truncate(*after);
    }
    let middle = body.len() / 2;
    if let (Act::Flip, Some(byte)) = (act, body.get_mut(middle)) {
        *byte ^= 1;
    }
}
