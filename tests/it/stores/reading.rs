//! Reads whole objects and complete listings.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use gantry_proto::{Key, ListRequest, Pin, Span};
use gantry_store::{Error, Opened, Store};

pub(crate) fn key(key: &str) -> Key {
    key.parse().unwrap()
}

/// Reads a span to its end.
pub(crate) async fn read(
    store: &dyn Store,
    name: &str,
    pin: &Pin,
    start: u64,
    end: Option<u64>,
) -> Result<Bytes, Error> {
    let opened = store.open(&key(name), pin, Span { start, end }).await?;
    collect(opened).await
}

pub(crate) async fn collect(mut opened: Opened) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = opened.body.try_next().await? {
        assert!(!piece.is_empty(), "a piece without bytes");
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// Lists everything under a prefix, page by page. Returns the keys and the common prefixes.
pub(crate) async fn list_all(
    store: &dyn Store,
    prefix: &str,
    recursive: bool,
    limit: u32,
) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let mut request =
        ListRequest { prefix: prefix.to_owned(), recursive, limit: Some(limit), ..ListRequest::default() };
    loop {
        let page = store.list(&request).await.unwrap();
        assert!(page.entries.len() + page.prefixes.len() <= limit as usize, "a page over its limit");
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) => request.token = Some(next),
            None => return (keys, prefixes),
        }
    }
}
