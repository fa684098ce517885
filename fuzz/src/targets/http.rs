//! Bytes of a client on a connection of the HTTP front: whatever they are, the store sees only keys that a path can name,
//! and each answer is one of HTTP.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use crate::gantry::http::{CancellationToken, Established, Options, Peer, Server, StoreMap};
use crate::gantry::{Key, ListPage, ListRequest, MemoryStore, ObjectInfo, Opened, Pin, Span, Store, StoreError};
use crate::runtime;

/// More than the longest input.
const BUFFER_BYTES: usize = 1 << 16;

pub(crate) fn run(data: &[u8]) {
    runtime::run(serve(data));
}

async fn serve(data: &[u8]) {
    let store = MemoryStore::new(7);
    for key in ["a", "b/c", "b/d", "é"] {
        store.put(key.parse().expect("it is a key"), "0123456789abcdefghijklmnopqrstuvwxyz");
    }
    let stores = [("s".parse().expect("it is a name"), Arc::new(Strict(store)) as Arc<dyn Store>)];
    let server = Server::new(Arc::new(stores.into_iter().collect::<StoreMap>()), Options::default());

    let (mut ours, theirs) = duplex(BUFFER_BYTES);
    ours.write_all(&data[..data.len().min(BUFFER_BYTES)]).await.expect("the buffer has room");
    let mut answers = Vec::new();
    // The connection ends at the latest when it was idle for too long, which takes no time here.
    let (_, read) = tokio::join!(
        server.serve_connection(Established::http1(theirs), Peer::UNIX, CancellationToken::new()),
        ours.read_to_end(&mut answers)
    );
    drop(read);

    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.") || is_continue(&answers), "not an answer of HTTP");
}

fn is_continue(answers: &[u8]) -> bool {
    answers.starts_with(b"HTTP/1.1 100")
}

/// A store that accepts only what a path or a query of HTTP can name.
#[derive(Debug)]
struct Strict(MemoryStore);

fn check(key: &Key) {
    let key = key.as_str();
    assert!(!key.contains('\0') && !key.contains('\n') && key.len() <= 1024);
    assert!(key.split('/').all(|segment| segment != "." && segment != ".."), "{key:?}");
}

impl Store for Strict {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, StoreError>> {
        check(key);
        assert!(span.end.is_none_or(|end| end >= span.start), "{span:?}");
        self.0.open(key, pin, span)
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        check(key);
        self.0.stat(key, pin)
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        assert!(request.prefix.len() <= 1024 && !request.prefix.contains('\0'));
        assert!(request.limit.is_some_and(|limit| (1..=1000).contains(&limit)));
        self.0.list(request)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.probe()
    }
}
