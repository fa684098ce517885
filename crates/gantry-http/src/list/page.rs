//! One page of a listing, which may begin after any name.

use gantry_proto::{ListEntry, ListRequest, StoreName};
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
}

impl Page {
    const fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.prefixes.is_empty()
    }
}

/// Reads a page.
pub(crate) async fn read(store: &dyn Store, name: &StoreName, wanted: &Wanted, places: &Places) -> Result<Page, Error> {
    let after = &wanted.start.after;
    let mut token = match &wanted.start.token {
        Some(token) => Some(token.clone()),
        None if after.is_empty() => None,
        None => store.token_after(after).or_else(|| places.find(name, wanted, after)),
    };

    let mut limit = wanted.limit.clamp(1, LIST_LIMIT_MAX);
    for _ in 0..PAGES_MAX {
        let request = ListRequest {
            prefix: wanted.prefix.clone(),
            recursive: wanted.is_recursive,
            limit: Some(limit),
            token: token.clone(),
            ..ListRequest::default()
        };
        let listed = store.list(&request).await?;
        if listed.next.is_some() && listed.next == token {
            return Err(Error::Protocol("a page of a listing is its own successor".to_owned()));
        }

        let last = last_name(&listed.entries, &listed.prefixes).map(str::to_owned);
        let mut page = Page {
            entries: listed.entries.into_iter().filter(|entry| entry.key > *after).collect(),
            prefixes: listed.prefixes.into_iter().filter(|prefix| is_after(prefix, after)).collect(),
            next: None,
        };
        page.next = match cut(&mut page, wanted.limit) {
            // The rest of this page is read again.
            Some(after) => Some(Start { after, token: token.clone() }),
            None => listed
                .next
                .clone()
                .map(|token| Start { after: last.unwrap_or_default().max(after.clone()), token: Some(token) }),
        };

        if let Some(Start { after, token: Some(token) }) = &page.next {
            places.note(name, wanted, after, token);
        }
        if !page.is_empty() || page.next.is_none() {
            return Ok(page);
        }
        token = listed.next;
        limit = LIST_LIMIT_MAX;
    }

    let start = Start { after: after.clone(), token };
    Ok(Page { next: Some(start), ..Page::default() })
}

/// Removes what exceeds `limit` names. Returns the last name that is left, if any was removed.
fn cut(page: &mut Page, limit: u32) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut names: Vec<_> = page.entries.iter().map(|entry| entry.key.clone()).collect();
    names.extend(page.prefixes.iter().cloned());
    if names.len() <= limit {
        return None;
    }

    names.sort_unstable();
    let last = names.swap_remove(limit.checked_sub(1)?);
    page.entries.retain(|entry| entry.key <= last);
    page.prefixes.retain(|prefix| *prefix <= last);
    Some(last)
}

/// Returns whether a folded prefix is listed after a start. One that contains the start is, since keys in it may follow.
fn is_after(prefix: &str, after: &str) -> bool {
    prefix > after || (after.starts_with(prefix) && after != prefix)
}

/// Returns the greater of the last names of both lists.
fn last_name<'a>(entries: &'a [ListEntry], prefixes: &'a [String]) -> Option<&'a str> {
    let entry = entries.last().map(|entry| entry.key.as_str());
    entry.max(prefixes.last().map(String::as_str))
}
