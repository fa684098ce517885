//! Pages of a listing, whatever keys are in the bucket. A key that can't be listed is counted as omitted.

use crate::Error;
use crate::position::{MARK_BYTES, Position};
use crate::ranged::About;
use gantry_proto::limits::{OFFSET_MAX, TOKEN_MAX_BYTES, VERSION_MAX_BYTES};
use gantry_proto::{Key, ListEntry, ListPage};

/// Replaces the characters that XML can't represent. A key may contain this character, too. If a server ignores
/// `encoding-type=url`, such a key is not listed, because the two cases can't be distinguished.
pub(crate) const MENDED: char = char::REPLACEMENT_CHARACTER;

/// A store's answer to a request for a page.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The objects, in the store's order.
    pub(crate) lines: Vec<Line>,
    /// The common prefixes, in the store's order.
    pub(crate) prefixes: Vec<String>,
    /// Whether names are encoded as in the query of a URL.
    pub(crate) is_encoded: bool,
    /// Whether more pages follow.
    pub(crate) is_truncated: bool,
    /// The token of the next page.
    pub(crate) token: Option<String>,
}

/// An object in such an answer.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// The name, with the store's prefix.
    pub(crate) name: String,
    /// The size in bytes, unless it is missing or invalid.
    pub(crate) size: Option<u64>,
    pub(crate) etag: Option<String>,
    /// RFC 3339 in UTC.
    pub(crate) last_modified: Option<String>,
}

/// The requirements for a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The store's name in messages.
    pub(crate) store: &'static str,
    /// The store's prefix, which the names in a page do not have.
    pub(crate) store_prefix: &'a str,
    /// Where the page begins.
    pub(crate) position: &'a Position,
    /// Maximum number of entries and prefixes together.
    pub(crate) limit: usize,
    /// Whether the store can begin a page after any name.
    pub(crate) starts_after_names: bool,
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
/// [`Error::Protocol`] if the page is incomplete and the store does not state how to continue.
pub(crate) fn page(answer: Answer, wanted: Wanted<'_>, what: &About) -> Result<ListPage, Error> {
    let following = following(&answer, wanted, what);
    let mut items = items(answer, wanted.store_prefix);
    items.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(after) = wanted.position.after() {
        // A server may ignore the start of the page.
        items.retain(|item| item.name.as_str() > after);
    }

    let last = items.last().map(|item| item.name.clone());
    let (mut page, cut_after) = take(items, wanted.limit);
    let next = match (cut_after, following?) {
        (Some(name), _) => Some(Position::After(name)),
        (None, Following::Nothing) => None,
        (None, Following::Token(token)) => Some(Position::Token(token)),
        (None, Following::LastName) => {
            let unknown =
                || Error::Protocol(format!("{what}: {} does not state where the next page begins", wanted.store));
            Some(Position::After(last.ok_or_else(unknown)?))
        }
    };

    if matches!(next, Some(Position::After(_))) && !wanted.starts_after_names {
        let problem = "sends more names than requested, or an unusable token";
        return Err(Error::Protocol(format!("{what}: {} {problem}", wanted.store)));
    }
    page.next = next.and_then(Position::into_token);
    Ok(page)
}

/// Returns the items of an answer, in the order in which the store sends them.
fn items(answer: Answer, prefix: &str) -> Vec<Item> {
    let Answer { lines, prefixes, is_encoded, .. } = answer;
    let mut items = Vec::with_capacity(lines.len() + prefixes.len());

    for line in lines {
        match key(&line.name, is_encoded, prefix) {
            Name::Key(name) => items.push(entry(name, line)),
            Name::Own => {}
            Name::Unshowable(name) => items.push(Item { name, shown: Shown::Omitted }),
        }
    }

    for folded in prefixes {
        match key(&folded, is_encoded, prefix) {
            Name::Key(name) => items.push(Item { name, shown: Shown::Prefix }),
            Name::Own => {}
            Name::Unshowable(name) => items.push(Item { name, shown: Shown::Omitted }),
        }
    }
    items
}

fn entry(name: String, line: Line) -> Item {
    let Some(size) = line.size.filter(|size| *size <= OFFSET_MAX) else {
        return Item { name, shown: Shown::Omitted };
    };

    let mut entry = ListEntry::new(name.clone(), size);
    entry.etag = line.etag.filter(|etag| etag.len() <= VERSION_MAX_BYTES);
    entry.last_modified = line.last_modified;
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

/// What follows a complete answer.
enum Following {
    Nothing,
    /// The page at this token.
    Token(String),
    /// The page after the last name, since there is no usable token.
    LastName,
}

fn following(answer: &Answer, wanted: Wanted<'_>, what: &About) -> Result<Following, Error> {
    if !answer.is_truncated {
        return Ok(Following::Nothing);
    }

    let token = answer.token.as_deref().filter(|token| !token.is_empty());
    if token.is_some() && token == wanted.position.token() {
        return Err(Error::Protocol(format!("{what}: {} repeats the token of a page", wanted.store)));
    }
    // A longer one does not fit into the next request.
    let token = token.filter(|token| token.len() + MARK_BYTES <= TOKEN_MAX_BYTES);
    Ok(token.map_or(Following::LastName, |token| Following::Token(token.to_owned())))
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

/// Decodes `%XX`, and `+` for a space, as AWS and Google write it. A plus sign of the key is `%2B`. Returns `None` if the result is
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
    use super::*;

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
