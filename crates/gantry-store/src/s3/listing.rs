//! What S3 says in a listing, whatever keys are in the bucket.
//!
//! A key may hold characters that XML can't. `encoding-type=url` has them written as `%XX`; a server that ignores it
//! sends XML that no parser takes, and one such key would hide all others. So the XML is mended before it is parsed.
//! A key that was mended can't be told, and is counted as omitted.

use std::borrow::Cow;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::SdkBody;
use aws_sdk_s3::types::EncodingType;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;

use super::object::rfc3339;
use gantry_proto::{Key, ListEntry, ListPage};

/// The longest answer that is read, in bytes. A page of 1000 keys of 1024 bytes, each byte written as `%XX`, is 3 MiB.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Stands for what XML can't hold. It may also stand in a key of its own right, which is then not shown by a server that
/// ignores `encoding-type=url`: the two can't be told apart.
const MENDED: char = char::REPLACEMENT_CHARACTER;

/// Reads a page of keys; `prefix` is the store's and is taken off.
///
/// The object that stands for the prefix itself has no key, and is left out. Keys that can't be shown are counted.
pub(super) fn page(output: &ListObjectsV2Output, prefix: &str) -> ListPage {
    let is_encoded = output.encoding_type() == Some(&EncodingType::Url);
    let mut page = ListPage {
        next: output.next_continuation_token().filter(|_| output.is_truncated() == Some(true)).map(str::to_owned),
        ..ListPage::default()
    };

    for object in output.contents() {
        let Some(name) = object.key() else { continue };
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        match (key(name, is_encoded, prefix), size) {
            (Name::Key(key), Some(size)) => page.entries.push(ListEntry {
                key,
                size,
                etag: object.e_tag().map(str::to_owned),
                last_modified: object.last_modified().and_then(rfc3339),
            }),
            (Name::Own, _) => {}
            (Name::Unshowable, _) | (_, None) => page.omitted += 1,
        }
    }

    for folded in output.common_prefixes() {
        let Some(name) = folded.prefix() else { continue };
        match key(name, is_encoded, prefix) {
            Name::Key(key) => page.prefixes.push(key),
            Name::Own => {}
            Name::Unshowable => page.omitted += 1,
        }
    }
    page
}

/// What a name in a listing is to the store.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Key(String),
    /// The store's prefix itself, or what is not below it.
    Own,
    /// It can't be a key, or can't be told.
    Unshowable,
}

fn key(name: &str, is_encoded: bool, prefix: &str) -> Name {
    let name = if is_encoded { decoded(name) } else { Some(name.to_owned()).filter(|name| !name.contains(MENDED)) };
    let Some(name) = name else { return Name::Unshowable };
    match name.strip_prefix(prefix) {
        None | Some("") => Name::Own,
        Some(key) => Key::try_from(key.to_owned()).map_or(Name::Unshowable, |key| Name::Key(key.into())),
    }
}

/// Decodes `%XX`, and `+` for a space as AWS writes it; a plus sign of the key is `%2B`. `None` if that is not UTF-8.
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

/// Mends the XML of an answer on its way to the parser.
#[derive(Debug)]
pub(super) struct Mend;

impl Intercept for Mend {
    fn name(&self) -> &'static str {
        "Mend"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = std::mem::replace(context.response_mut().body_mut(), SdkBody::taken());
        let mended = async move {
            let whole = Limited::new(body, ANSWER_MAX_BYTES).collect().await?.to_bytes();
            Ok::<_, BoxError>(Frame::data(match mended(&whole) {
                Cow::Borrowed(_) => whole,
                Cow::Owned(text) => text.into(),
            }))
        };
        let mended = StreamBody::new(futures_util::stream::once(mended));
        *context.response_mut().body_mut() = SdkBody::from_body_1_x(mended);
        Ok(())
    }
}

/// Replaces every character that XML 1.0 can't hold, written out or as a reference, by [`MENDED`].
fn mended(body: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(body);
    if !text.contains(|c| !is_xml(c)) && !text.contains("&#") {
        return text;
    }

    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        if let Some((referred, after)) = reference(rest) {
            match referred.filter(|c| is_xml(*c)) {
                Some(_) => out.push_str(&rest[..rest.len() - after.len()]),
                None => out.push(MENDED),
            }
            rest = after;
            continue;
        }
        out.push(if is_xml(c) { c } else { MENDED });
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

/// Reads a numeric reference at the start of a text: the character, if it is one, and what follows.
fn reference(text: &str) -> Option<(Option<char>, &str)> {
    let (number, after) = text.strip_prefix("&#")?.split_once(';')?;
    let (digits, radix) = number.strip_prefix(['x', 'X']).map_or((number, 10), |hex| (hex, 16));
    if digits.is_empty() || digits.len() > 8 || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    Some((u32::from_str_radix(digits, radix).ok().and_then(char::from_u32), after))
}

const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_only_where_the_answer_says_so() {
        let shown = |key: &str| Name::Key(key.to_owned());
        for (name, is_encoded, expected) in [
            ("p/a%20b+c%2Bd%01", true, shown("a b c+d\u{1}")),
            ("p/a%20b+c", false, shown("a%20b+c")),
            ("p/%EF%BF%BE", true, shown("\u{fffe}")),
            ("p/%EF%BF%BD", true, shown("\u{fffd}")),
            ("p/\u{fffd}", false, Name::Unshowable),
            ("p/a%0Ab", true, Name::Unshowable),
            ("p/a%ff", true, Name::Unshowable),
            ("p/a%+1", true, Name::Unshowable),
            ("p/a%2", true, Name::Unshowable),
            ("p/", true, Name::Own),
            ("other", false, Name::Own),
        ] {
            assert_eq!(key(name, is_encoded, "p/"), expected, "{name:?}");
        }
        assert_eq!(key(&"k".repeat(1025), false, ""), Name::Unshowable);
    }

    #[test]
    fn what_xml_cannot_hold_is_mended_and_all_else_stays() {
        for (body, expected) in [
            ("<Key>a&amp;b &#38; &#x26; caf\u{e9}</Key>", "<Key>a&amp;b &#38; &#x26; caf\u{e9}</Key>"),
            ("a\u{1}b\u{fffe}c\u{ffff}d", "a\u{fffd}b\u{fffd}c\u{fffd}d"),
            ("a&#1;b&#x1f;c&#xFFFE;d&#xd800;e", "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e"),
            ("&#13;\t\n &#;&#x;&#", "&#13;\t\n &#;&#x;&#"),
        ] {
            assert_eq!(mended(body.as_bytes()), expected);
        }
        assert_eq!(mended(b"a\xffb"), "a\u{fffd}b");
    }
}
