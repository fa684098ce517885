//! A listing as a stream: pages are requested as they are needed.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, iter, try_unfold};
use futures_util::{Stream, TryStreamExt as _};

use super::Error;
use super::connection::Connection;
use gantry_proto::{ListEntry, ListPage, ListRequest, StoreName};

/// How many pages in a row may be empty. A store may return empty pages where objects were deleted; a relay that
/// returns nothing else must not keep a listing running forever.
const EMPTY_PAGES_MAX: u32 = 10_000;

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listed {
    /// An object.
    Object(ListEntry),
    /// What the keys of one or more objects begin with, up to and including a slash.
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

/// A stream of the names in a store; it ends after the last one or the first error.
pub struct Listing(BoxStream<'static, Result<Listed, Error>>);

impl Listing {
    pub(super) fn new(connection: Arc<Connection>, store: StoreName, request: ListRequest) -> Self {
        let first = Some(Position { request, seen: HashSet::new(), empty_pages: 0 });
        let pages = try_unfold(first, move |position| {
            let (connection, store) = (Arc::clone(&connection), store.clone());
            async move {
                let Some(position) = position else { return Ok(None) };
                let mut page = connection.list_page(&store, &position.request).await?;
                let next = position.after(&mut page)?;
                Ok::<_, Error>(Some((page, next)))
            }
        });
        Self(Box::pin(pages.map_ok(|page| iter(names(page).into_iter().map(Ok))).try_flatten()))
    }
}

impl Stream for Listing {
    type Item = Result<Listed, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").finish_non_exhaustive()
    }
}

struct Position {
    request: ListRequest,
    /// The tokens of all pages so far: one that comes again is a loop.
    seen: HashSet<String>,
    empty_pages: u32,
}

impl Position {
    /// Returns where the page after `page` begins; `None` after the last one.
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

    /// H9: tokens A, B, A, B on empty pages were followed forever.
    #[test]
    fn a_token_that_comes_again_ends_the_listing() {
        let mut position = Position { request: ListRequest::default(), seen: HashSet::new(), empty_pages: 0 };
        for token in ["A", "B"] {
            let mut page = ListPage { next: Some(token.to_owned()), ..ListPage::default() };
            position = position.after(&mut page).unwrap().unwrap();
        }

        let mut page = ListPage { next: Some("A".to_owned()), ..ListPage::default() };
        assert!(matches!(position.after(&mut page), Err(Error::Malformed(_))));
    }
}
