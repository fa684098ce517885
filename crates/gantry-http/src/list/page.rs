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

/// Reads a page.
pub(crate) async fn read(store: &dyn Store, name: &StoreName, wanted: &Wanted, places: &Places) -> Result<Page, Error> {
    let after = &wanted.start.after;
    let mut token = match &wanted.start.token {
        Some(token) => Some(token.clone()),
        None if after.is_empty() => None,
        None => store.token_after(after).or_else(|| places.find(name, wanted, after)),
    };

    for _ in 0..PAGES_MAX {
        let request = ListRequest {
            prefix: wanted.prefix.clone(),
            recursive: wanted.is_recursive,
            limit: Some(wanted.limit.clamp(1, LIST_LIMIT_MAX)),
            token: token.clone(),
            ..ListRequest::default()
        };
        let listed = store.list(&request).await?;

        let last = last_name(&listed.entries, &listed.prefixes).map(str::to_owned);
        let entries: Vec<_> = listed.entries.into_iter().filter(|entry| entry.key > *after).collect();
        let prefixes: Vec<_> = listed.prefixes.into_iter().filter(|prefix| is_after(prefix, after)).collect();

        let Some(next) = listed.next else { return Ok(Page { entries, prefixes, next: None }) };
        if token.as_ref() == Some(&next) {
            return Err(Error::Protocol("a page of a listing is its own successor".to_owned()));
        }

        let after = last.unwrap_or_default().max(after.clone());
        places.note(name, wanted, &after, &next);
        let start = Start { after, token: Some(next.clone()) };
        if !entries.is_empty() || !prefixes.is_empty() {
            return Ok(Page { entries, prefixes, next: Some(start) });
        }
        token = Some(next);
    }

    let start = Start { after: after.clone(), token };
    Ok(Page { next: Some(start), ..Page::default() })
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
