//! Shortens a page of a listing to what fits into one message.

use bytes::Bytes;

use gantry_proto::ListPage;
use gantry_proto::message::json;

/// Encodes a page in at most `room` bytes. A longer page is cut after a name, and the next page continues there.
///
/// `token_after` returns the token of a page that begins after a name. Returns `None` if not even the first name fits,
/// or if the page can't be cut. That is the case without such a token, or if the page omits names, because their
/// positions are unknown.
pub(crate) fn fit(page: ListPage, room: usize, token_after: impl Fn(&str) -> Option<String>) -> Option<Bytes> {
    let body = json(&page);
    if body.len() <= room {
        return Some(body);
    }
    if page.omitted > 0 {
        return None;
    }

    let mut names: Vec<&str> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
    names.extend(page.prefixes.iter().map(String::as_str));
    names.sort_unstable();

    // The largest number of names that fits lies between one that fits and one that does not.
    let mut fitting = None;
    let mut keep = 0..names.len();
    while keep.len() > 1 {
        let middle = keep.start.midpoint(keep.end);
        let last = names.get(middle - 1)?;
        let body = json(&first_names(&page, last, token_after(last)?));
        if body.len() <= room {
            fitting = Some(body);
            keep.start = middle;
        } else {
            keep.end = middle;
        }
    }
    fitting
}

/// Returns the names of a page up to and including `last`.
fn first_names(page: &ListPage, last: &str, next: String) -> ListPage {
    let mut first = ListPage::default();
    first.entries = page.entries.iter().filter(|entry| entry.key.as_str() <= last).cloned().collect();
    first.prefixes = page.prefixes.iter().filter(|prefix| prefix.as_str() <= last).cloned().collect();
    first.next = Some(next);
    first
}

#[cfg(test)]
mod tests {
    use gantry_proto::ListEntry;

    use super::*;

    fn page(entries: usize, prefixes: usize) -> ListPage {
        let entry = |number| ListEntry::new(format!("{number:04}{}", "k".repeat(number % 1000)), 1);
        let mut page = ListPage::default();
        page.entries = (0..entries).map(entry).collect();
        page.prefixes = (0..prefixes).map(|number| format!("{number:04}p/")).collect();
        page.next = Some("of the store".to_owned());
        page
    }

    fn decoded(body: &[u8]) -> ListPage {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn a_page_that_fits_is_unchanged() {
        let body = fit(page(10, 10), 10_000, |_| None).unwrap();

        assert_eq!(decoded(&body), page(10, 10));
    }

    #[test]
    fn a_page_that_is_too_long_ends_after_a_name_and_continues_there() {
        for room in [200, 1000, 10_000, 100_000] {
            let body = fit(page(600, 400), room, |name| Some(format!("after {name}"))).unwrap();

            // Every name is shorter than the rest of the room.
            assert!(body.len() <= room && body.len() + 1100 > room, "{} of {room}", body.len());
            let cut = decoded(&body);
            let names = cut.entries.iter().map(|entry| &entry.key).chain(&cut.prefixes);
            let last = names.max().unwrap();
            assert_eq!(cut.next, Some(format!("after {last}")));
            let whole = page(600, 400);
            let kept = |name: &str| name <= last.as_str();
            assert_eq!(cut.entries.len(), whole.entries.iter().filter(|entry| kept(&entry.key)).count());
            assert_eq!(cut.prefixes.len(), whole.prefixes.iter().filter(|prefix| kept(prefix)).count());
        }
    }

    #[test]
    fn a_page_is_not_cut_if_its_continuation_would_be_wrong() {
        let after = |name: &str| Some(name.to_owned());
        let mut omitting = page(600, 0);
        omitting.omitted = 1;

        assert!(fit(page(600, 0), 1000, |_| None).is_none());
        assert!(fit(omitting, 1000, after).is_none());
        assert!(fit(page(600, 0), 10, after).is_none());
    }
}
