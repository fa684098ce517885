//! A listing as a stream: pages are requested as the stream is read.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, iter, try_unfold};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};

use gantry_proto::{ListEntry, ListPage, ListRequest, StoreName, Via};

use crate::connection::Connection;
use crate::error::Error;

/// The limit of successive empty pages. A store may return empty pages where objects were deleted. A relay that returns
/// nothing else must not keep a listing running forever.
const EMPTY_PAGES_MAX: u32 = 10_000;

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listed {
    /// An object.
    Object(ListEntry),
    /// The common beginning of one or more keys, up to and including a slash.
    Prefix(String),
}

impl Listed {
    /// Returns the key or prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Object(entry) => &entry.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// A stream of the names in a store, in ascending order. It ends after the last name or the first error.
pub struct Listing {
    names: BoxStream<'static, Result<Listed, Error>>,
    omitted: Arc<AtomicU64>,
}

impl Listing {
    pub(crate) fn new(connection: Arc<Connection>, store: StoreName, request: ListRequest) -> Self {
        let omitted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&omitted);

        let first = Some(Position { request, seen: HashSet::new(), empty_pages: 0 });
        let pages = try_unfold(first, move |position| {
            let connection = Arc::clone(&connection);
            let store = store.clone();
            async move {
                let Some(position) = position else { return Ok(None) };
                let mut page = connection.list_page(&store, &position.request, &Via::default()).await?;
                let next = position.after(&mut page)?;
                Ok::<_, Error>(Some((page, next)))
            }
        });

        let names = pages.map_ok(move |page| {
            counter.fetch_add(page.omitted, Ordering::Relaxed);
            iter(names(page).into_iter().map(Ok))
        });
        Self { names: names.try_flatten().boxed(), omitted }
    }

    /// Returns the next name, or `None` at the end.
    ///
    /// # Errors
    /// The errors of [`Client::list_page`](crate::Client::list_page), and [`Error::Malformed`] if the relay returns to an
    /// earlier page. Nothing follows an error.
    ///
    /// # Cancel safety
    /// Dropping the future loses no name.
    pub async fn try_next(&mut self) -> Result<Option<Listed>, Error> {
        self.names.try_next().await
    }

    /// Returns the number of names that the relay has left out of the pages so far, since they are not valid as a key.
    ///
    /// Such names exist in a store, but no request can contain them. The count is complete once the stream has ended.
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.omitted.load(Ordering::Relaxed)
    }
}

impl Stream for Listing {
    type Item = Result<Listed, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.names.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("omitted", &self.omitted()).finish_non_exhaustive()
    }
}

/// The position between two pages.
struct Position {
    request: ListRequest,
    /// The tokens of all pages so far. A repeated token is a loop.
    seen: HashSet<String>,
    empty_pages: u32,
}

impl Position {
    /// Returns the position after `page`, or `None` after the last page.
    fn after(mut self, page: &mut ListPage) -> Result<Option<Self>, Error> {
        let Some(token) = page.next.take() else { return Ok(None) };
        if !self.seen.insert(token.clone()) {
            return Err(Error::Malformed("the listing returns to an earlier page".to_owned()));
        }

        let is_empty = page.entries.is_empty() && page.prefixes.is_empty();
        self.empty_pages = if is_empty { self.empty_pages + 1 } else { 0 };
        if self.empty_pages > EMPTY_PAGES_MAX {
            return Err(Error::Malformed(format!("the listing has more than {EMPTY_PAGES_MAX} empty pages in a row")));
        }

        self.request.token = Some(token);
        Ok(Some(self))
    }
}

/// Returns the names of a page in ascending order.
fn names(page: ListPage) -> Vec<Listed> {
    let mut names: Vec<Listed> = page.entries.into_iter().map(Listed::Object).collect();
    names.extend(page.prefixes.into_iter().map(Listed::Prefix));
    names.sort_by(|one, other| one.name().cmp(other.name()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens A, B, A, B on empty pages were once followed forever.
    #[test]
    fn a_repeated_token_ends_the_listing() {
        let mut position = Position { request: ListRequest::default(), seen: HashSet::new(), empty_pages: 0 };
        for token in ["A", "B"] {
            let mut page = ListPage::default();
            page.next = Some(token.to_owned());
            position = position.after(&mut page).unwrap().unwrap();
        }

        let mut page = ListPage::default();
        page.next = Some("A".to_owned());
        assert!(matches!(position.after(&mut page), Err(Error::Malformed(_))));
    }
}
