//! One page of a listing, which may begin after any name.
//!
//! Not every store lists names in the order of their bytes, so only the store's token says where a page ends. A name
//! limits a listing only if the client has stated it as the start.

use gantry_proto::{ListEntry, ListPage, ListRequest, StoreName};
use gantry_store::{Error, LIST_LIMIT_MAX, Store};

use super::places::Places;
use super::wanted::{Start, Wanted};

/// The maximum number of a store's pages that are read to find the names after a start that the store can't begin at.
/// If there are more, the answer is an empty page that continues there.
const PAGES_MAX: usize = 8;

/// A page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: Vec<ListEntry>,
    pub(crate) prefixes: Vec<String>,
    /// Where the next page begins. `None` on the last page.
    pub(crate) next: Option<Start>,
    /// The name by which V1 continues. [`Places`] has the position that it stands for.
    pub(crate) marker: String,
}

impl Page {
    const fn len(&self) -> usize {
        self.entries.len() + self.prefixes.len()
    }
}

/// Reads a page.
pub(crate) async fn read(store: &dyn Store, name: &StoreName, wanted: &Wanted, places: &Places) -> Result<Page, Error> {
    let Start { after, mut token } = start(store, name, wanted, places);
    let len_max = usize::try_from(wanted.limit).unwrap_or(usize::MAX).max(1);
    let limit_min = wanted.limit.clamp(1, LIST_LIMIT_MAX);

    let mut limit = limit_min;
    let mut marker = after.clone();
    for _ in 0..PAGES_MAX {
        let listed = list(store, wanted, token.as_deref(), limit).await?;
        let listed_len = listed.entries.len() + listed.prefixes.len();
        let last = last_name(&listed).map_or_else(String::new, str::to_owned).max(after.clone());

        let next = listed.next.clone().map(|token| Start { after: after.clone(), token: Some(token) });
        let page = Page {
            entries: listed.entries.into_iter().filter(|entry| entry.key > after).collect(),
            prefixes: listed.prefixes.into_iter().filter(|prefix| is_after(prefix, &after)).collect(),
            next,
            marker: last,
        };

        if page.len() > len_max && limit > limit_min {
            limit = narrowed(limit, listed_len - page.len(), limit_min);
            continue;
        }
        if page.len() > 0 || page.next.is_none() {
            note(places, name, wanted, &page);
            return Ok(page);
        }

        marker = page.marker;
        token = listed.next;
        limit = LIST_LIMIT_MAX;
    }

    let page = Page { next: Some(Start { after, token }), marker, ..Page::default() };
    note(places, name, wanted, &page);
    Ok(page)
}

/// Keeps where the next page begins.
fn note(places: &Places, name: &StoreName, wanted: &Wanted, page: &Page) {
    if let Some(next) = page.next.as_ref().filter(|next| next.token.is_some()) {
        places.note(name, wanted, &page.marker, next);
    }
}

/// Returns where to begin.
fn start(store: &dyn Store, name: &StoreName, wanted: &Wanted, places: &Places) -> Start {
    let Start { after, token } = &wanted.start;
    if token.is_some() || after.is_empty() {
        return wanted.start.clone();
    }

    places.find(name, wanted, after).unwrap_or_else(|| {
        let before = wanted.folded_before(after).unwrap_or(after);
        let token = if before.is_empty() { None } else { store.token_after(before) };
        Start { after: after.clone(), token }
    })
}

async fn list(store: &dyn Store, wanted: &Wanted, token: Option<&str>, limit: u32) -> Result<ListPage, Error> {
    let request = ListRequest {
        prefix: wanted.prefix.clone(),
        recursive: wanted.is_recursive,
        limit: Some(limit),
        token: token.map(str::to_owned),
        ..ListRequest::default()
    };

    let listed = store.list(&request).await?;
    if listed.next.is_some() && listed.next.as_deref() == token {
        return Err(Error::Protocol("a page of a listing is its own successor".to_owned()));
    }
    Ok(listed)
}

/// Returns the limit with which a page of more names than requested is read again, so that its end is a position of the
/// store. `skipped` names of it are before the start.
fn narrowed(limit: u32, skipped: usize, limit_min: u32) -> u32 {
    let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
    let narrowed = skipped.saturating_add(limit_min);

    // In a store without order, the skipped names may be anywhere.
    if narrowed < limit { narrowed } else { limit_min }
}

/// Returns whether a folded prefix is listed after a start. One that contains the start is, since keys in it may follow.
fn is_after(prefix: &str, after: &str) -> bool {
    prefix > after || (after.starts_with(prefix) && after != prefix)
}

/// Returns the greater of the last names of both lists.
fn last_name(page: &ListPage) -> Option<&str> {
    let entry = page.entries.last().map(|entry| entry.key.as_str());
    entry.max(page.prefixes.last().map(String::as_str))
}
