//! Reads S3's listings, whatever keys are in the bucket. A key that can't be listed is counted as omitted.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};

use super::mend::MENDED;
use super::object::rfc3339;
use super::position::{MARK_BYTES, Position};
use crate::Error;
use crate::ranged::About;
use gantry_proto::limits::{OFFSET_MAX, TOKEN_MAX_BYTES, VERSION_MAX_BYTES};
use gantry_proto::{Key, ListEntry, ListPage};

/// The requirements for a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The store's prefix, which the names in a page do not have.
    pub(super) store_prefix: &'a str,
    /// Where the page begins.
    pub(super) position: &'a Position,
    /// Maximum number of entries and prefixes together.
    pub(super) limit: usize,
}

/// One line of a listing.
struct Item {
    /// The name without the store's prefix. Of a name that can't be listed, this is the known part, which only
    /// determines its position.
    name: String,
    shown: Shown,
}

enum Shown {
    Entry(ListEntry),
    Prefix,
    /// The name can't be a key or is unknown, or the object has no valid size.
    Omitted,
}

/// Reads a page of keys, at most as many as requested, even if the server sends more.
///
/// The object whose key is the store's prefix itself has no key here, and is left out. Keys that can't be listed are
/// counted.
///
/// # Errors
/// [`Error::Protocol`] if the page is incomplete and S3 does not state how to continue.
pub(super) fn page(output: &ListObjectsV2Output, wanted: Wanted<'_>, what: &About) -> Result<ListPage, Error> {
    let mut items = items(output, wanted.store_prefix);
    items.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(after) = wanted.position.after() {
        // A server may ignore the start of the page.
        items.retain(|item| item.name.as_str() > after);
    }

    let last = items.last().map(|item| item.name.clone());
    let (mut page, cut_after) = take(items, wanted.limit);
    page.next = match cut_after {
        Some(name) => Position::After(name).into_token(),
        None => following(output, wanted.position, last, what)?.and_then(Position::into_token),
    };
    Ok(page)
}

/// Returns the items of an answer, in the order in which S3 sends them.
fn items(output: &ListObjectsV2Output, prefix: &str) -> Vec<Item> {
    let is_encoded = output.encoding_type() == Some(&EncodingType::Url);
    let mut items = Vec::with_capacity(output.contents().len() + output.common_prefixes().len());

    for object in output.contents() {
        let Some(name) = object.key() else { continue };
        match key(name, is_encoded, prefix) {
            Name::Key(name) => items.push(entry(name, object)),
            Name::Own => {}
            Name::Unshowable(name) => items.push(Item { name, shown: Shown::Omitted }),
        }
    }

    for folded in output.common_prefixes() {
        let Some(name) = folded.prefix() else { continue };
        match key(name, is_encoded, prefix) {
            Name::Key(name) => items.push(Item { name, shown: Shown::Prefix }),
            Name::Own => {}
            Name::Unshowable(name) => items.push(Item { name, shown: Shown::Omitted }),
        }
    }
    items
}

fn entry(name: String, object: &Object) -> Item {
    let size = object.size().and_then(|size| u64::try_from(size).ok()).filter(|size| *size <= OFFSET_MAX);
    let Some(size) = size else { return Item { name, shown: Shown::Omitted } };

    let mut entry = ListEntry::new(name.clone(), size);
    entry.etag = object.e_tag().filter(|etag| etag.len() <= VERSION_MAX_BYTES).map(str::to_owned);
    entry.last_modified = object.last_modified().and_then(rfc3339);
    Item { name, shown: Shown::Entry(entry) }
}

/// Selects the first items. Returns the last selected name if others follow.
///
/// Names that are omitted after that name are counted in the page in which they occur again.
fn take(items: Vec<Item>, limit: usize) -> (ListPage, Option<String>) {
    let mut page = ListPage::default();
    let mut last = None;
    let mut omitted = 0;

    for Item { name, shown } in items {
        if let Shown::Omitted = shown {
            omitted += 1;
            continue;
        }
        if page.entries.len() + page.prefixes.len() == limit {
            return (page, last);
        }

        page.omitted += std::mem::take(&mut omitted);
        last = Some(name.clone());
        match shown {
            Shown::Entry(entry) => page.entries.push(entry),
            Shown::Prefix => page.prefixes.push(name),
            Shown::Omitted => {}
        }
    }

    page.omitted += omitted;
    (page, None)
}

/// Returns where the next page begins after a complete answer, or `None` after the last page.
fn following(
    output: &ListObjectsV2Output,
    position: &Position,
    last: Option<String>,
    what: &About,
) -> Result<Option<Position>, Error> {
    if output.is_truncated() != Some(true) {
        return Ok(None);
    }

    let token = output.next_continuation_token().filter(|token| !token.is_empty());
    if token.is_some() && token == position.token() {
        return Err(Error::Protocol(format!("{what}: S3 repeats the token of a page")));
    }
    // A longer one does not fit into the next request.
    if let Some(token) = token.filter(|token| token.len() + MARK_BYTES <= TOKEN_MAX_BYTES) {
        return Ok(Some(Position::Token(token.to_owned())));
    }

    match last {
        Some(name) => Ok(Some(Position::After(name))),
        None => Err(Error::Protocol(format!("{what}: S3 does not state where the next page begins"))),
    }
}

/// The meaning of a listed name for the store.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Key(String),
    /// The store's prefix itself, or a name that is not below it.
    Own,
    /// A name that can't be a key, or that is unknown.
    Unshowable(String),
}

fn key(name: &str, is_encoded: bool, prefix: &str) -> Name {
    let readable = if is_encoded { decoded(name) } else { Some(name.to_owned()).filter(|name| !name.contains(MENDED)) };
    let Some(readable) = readable else {
        return Name::Unshowable(name.strip_prefix(prefix).unwrap_or(name).to_owned());
    };

    match readable.strip_prefix(prefix) {
        None | Some("") => Name::Own,
        Some(key) => match Key::try_from(key.to_owned()) {
            Ok(key) => Name::Key(key.into()),
            Err(_) => Name::Unshowable(key.to_owned()),
        },
    }
}

/// Decodes `%XX`, and `+` for a space, as AWS writes it. A plus sign of the key is `%2B`. Returns `None` if the result is
/// not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;

        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::CommonPrefix;

    use super::*;

    const STORE_PREFIX: &str = "store/";

    /// An answer with these keys and prefixes below the store's prefix.
    fn answer(keys: &[&str], prefixes: &[&str], token: Option<&str>) -> ListObjectsV2Output {
        let below = |name: &&str| format!("{STORE_PREFIX}{name}");
        let objects = keys.iter().map(|key| Object::builder().key(below(key)).size(1).build());
        let folded = prefixes.iter().map(|prefix| CommonPrefix::builder().prefix(below(prefix)).build());

        ListObjectsV2Output::builder()
            .set_contents(Some(objects.collect()))
            .set_common_prefixes(Some(folded.collect()))
            .set_next_continuation_token(token.map(str::to_owned))
            .is_truncated(token.is_some())
            .build()
    }

    fn read(output: &ListObjectsV2Output, position: &Position, limit: usize) -> Result<ListPage, Error> {
        let what = About::Consumer("the listing".to_owned());
        page(output, Wanted { store_prefix: STORE_PREFIX, position, limit }, &what)
    }

    fn names(page: &ListPage) -> Vec<&str> {
        let mut names: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
        names.extend(page.prefixes.iter().map(String::as_str));
        names.sort_unstable();
        names
    }

    #[test]
    fn more_names_than_requested_are_read_page_by_page_exactly_once() {
        let output = answer(&["a", "c", "e", "\u{fffd}"], &["b/", "d/"], None);
        let mut position = Position::Start;
        let mut found = Vec::new();
        let mut omitted = 0;

        loop {
            let page = read(&output, &position, 2).unwrap();
            assert!(names(&page).len() <= 2);
            found.extend(names(&page).into_iter().map(str::to_owned));
            omitted += page.omitted;
            let Some(token) = page.next else { break };
            position = Position::of(Some(&token));
        }

        assert_eq!(found, ["a", "b/", "c", "d/", "e"]);
        assert_eq!(omitted, 1);
    }

    #[test]
    fn a_complete_page_continues_at_the_token_of_s3() {
        let page = read(&answer(&["a"], &[], Some("t")), &Position::Start, 10).unwrap();

        assert_eq!(page.next.as_deref(), Some("t"));
    }

    #[test]
    fn without_a_usable_token_the_next_page_begins_after_the_last_name() {
        let long = "t".repeat(TOKEN_MAX_BYTES + 1);
        for token in ["", &long] {
            let page = read(&answer(&["a", "b"], &[], Some(token)), &Position::Start, 10).unwrap();
            assert_eq!(Position::of(page.next.as_deref()), Position::After("b".to_owned()));

            let empty = read(&answer(&[], &[], Some(token)), &Position::Start, 10);
            assert!(matches!(empty, Err(Error::Protocol(_))), "{empty:?}");
        }
    }

    #[test]
    fn a_token_that_leads_to_itself_is_an_error() {
        let position = Position::Token("t".to_owned());

        let repeated = read(&answer(&["a"], &[], Some("t")), &position, 10);

        assert!(matches!(repeated, Err(Error::Protocol(_))), "{repeated:?}");
    }

    #[test]
    fn an_entry_has_no_overlong_etag_and_no_invalid_size() {
        let objects = [
            Object::builder().key("store/a").size(1).e_tag("x".repeat(VERSION_MAX_BYTES + 1)).build(),
            Object::builder().key("store/b").size(-1).build(),
            Object::builder().key("store/c").build(),
        ];
        let output = ListObjectsV2Output::builder().set_contents(Some(objects.into())).build();

        let page = read(&output, &Position::Start, 10).unwrap();

        assert_eq!((names(&page), page.omitted), (vec!["a"], 2));
        assert_eq!(page.entries[0].etag, None);
    }

    #[test]
    fn names_are_decoded_only_if_the_answer_states_the_encoding() {
        let shown = |key: &str| Name::Key(key.to_owned());
        let hidden = |name: &str| Name::Unshowable(name.to_owned());
        for (name, is_encoded, expected) in [
            ("p/a%20b+c%2Bd%01", true, shown("a b c+d\u{1}")),
            ("p/a%20b+c", false, shown("a%20b+c")),
            ("p/%EF%BF%BE", true, shown("\u{fffe}")),
            ("p/%EF%BF%BD", true, shown("\u{fffd}")),
            ("p/\u{fffd}", false, hidden("\u{fffd}")),
            ("p/a%0Ab", true, hidden("a\nb")),
            ("p/a%ff", true, hidden("a%ff")),
            ("p/a%+1", true, hidden("a%+1")),
            ("p/a%2", true, hidden("a%2")),
            ("p/", true, Name::Own),
            ("other", false, Name::Own),
        ] {
            assert_eq!(key(name, is_encoded, "p/"), expected, "{name:?}");
        }
        let long = "k".repeat(1025);
        assert_eq!(key(&long, false, ""), hidden(&long));
    }
}
