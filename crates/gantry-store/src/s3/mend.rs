//! Repairs the XML of listings, so that one object does not hide all others.
//!
//! A key may contain characters that XML can't represent. With `encoding-type=url`, S3 writes them as `%XX`. A server
//! that ignores this parameter sends XML that no parser accepts. A repaired key is unknown, and is counted as omitted.
//!
//! The SDK's parser also fails a whole page because of one date or number in another format than S3's.

use std::borrow::Cow;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat, SdkBody};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;

use super::body_limit::ANSWER_MAX_BYTES;
use crate::listing::MENDED;

/// Repairs the XML of an answer before the parser reads it.
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
            Ok::<_, BoxError>(Frame::data(match typed(mended(&whole)) {
                Cow::Borrowed(_) => whole,
                Cow::Owned(text) => text.into(),
            }))
        };

        let mended = StreamBody::new(futures_util::stream::once(mended));
        *context.response_mut().body_mut() = SdkBody::from_body_1_x(mended);
        Ok(())
    }
}

/// Replaces every character that XML 1.0 can't represent, literal or as a reference, by [`MENDED`].
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

/// Reads a numeric reference at the start of a text. Returns the character, if it is valid, and the rest of the text.
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

/// Elements that the SDK does not parse as text, and their formats.
const TYPED: [(&str, Form); 7] = [
    ("LastModified", Form::Date),
    ("RestoreExpiryDate", Form::Date),
    ("Size", Form::Integer),
    ("MaxKeys", Form::Count),
    ("KeyCount", Form::Count),
    ("IsTruncated", Form::Switch),
    ("IsRestoreInProgress", Form::Switch),
];

#[derive(Clone, Copy)]
enum Form {
    Date,
    Integer,
    Count,
    Switch,
}

impl Form {
    /// Returns a text in the format that the SDK parses, or `None` if it has no such form.
    fn of(self, text: &str) -> Option<Cow<'_, str>> {
        let text = text.trim();
        match self {
            Self::Date if DateTime::from_str(text, DateTimeFormat::DateTimeWithOffset).is_ok() => Some(text.into()),
            Self::Date => {
                let time = DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?;
                Some(time.fmt(DateTimeFormat::DateTime).ok()?.into())
            }
            Self::Count => text.parse::<i32>().is_ok().then_some(text.into()),
            Self::Integer => text.parse::<i64>().is_ok().then_some(text.into()),
            Self::Switch => {
                let is = |value: &'static str| text.eq_ignore_ascii_case(value).then_some(Cow::Borrowed(value));
                is("true").or_else(|| is("false"))
            }
        }
    }
}

/// Rewrites the elements whose text has another format than the SDK expects, and removes those whose text is invalid.
/// The element that states whether other pages follow is never removed.
fn typed(text: Cow<'_, str>) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;

    while let Some(found) = text[at..].find('<') {
        let start = at + found;
        at = start + 1;
        let Some((inner, end, name, form)) = element(&text, start) else { continue };

        at = end;
        let replacement = match form.of(inner) {
            Some(value) if value == inner => continue,
            Some(value) => format!("<{name}>{value}</{name}>"),
            None if name == "IsTruncated" => continue,
            None => String::new(),
        };

        out.push_str(&text[copied..start]);
        out.push_str(&replacement);
        copied = end;
    }

    if copied == 0 {
        return text;
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Returns the text of the typed element that starts at a position, the position after it, its name and its form.
fn element(text: &str, start: usize) -> Option<(&str, usize, &'static str, Form)> {
    let rest = &text[start + 1..];
    let (name, form) =
        TYPED.into_iter().find(|(name, _)| rest.strip_prefix(name).is_some_and(|after| after.starts_with('>')))?;

    let inner = &rest[name.len() + 1..];
    let len = inner.find('<')?;
    inner[len..].strip_prefix("</")?.strip_prefix(name)?.strip_prefix('>')?;
    Some((&inner[..len], start + 2 + name.len() + len + 3 + name.len(), name, form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_xml_cannot_represent_are_mended() {
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

    #[test]
    fn elements_of_another_form_are_rewritten_or_removed() {
        for (body, expected) in [
            ("<Key>a</Key><Size>1</Size>", "<Key>a</Key><Size>1</Size>"),
            ("<Key>a</Key><Size>many</Size>", "<Key>a</Key>"),
            ("<Size>5000000000</Size><Size> 7 </Size><Size/>", "<Size>5000000000</Size><Size>7</Size><Size/>"),
            ("<LastModified>yesterday</LastModified><Key>b</Key>", "<Key>b</Key>"),
            (
                "<LastModified>Wed, 01 Jan 2025 00:00:00 GMT</LastModified>",
                "<LastModified>2025-01-01T00:00:00Z</LastModified>",
            ),
            (
                "<LastModified>2025-01-01T00:00:00+02:00</LastModified>",
                "<LastModified>2025-01-01T00:00:00+02:00</LastModified>",
            ),
            ("<IsTruncated>True</IsTruncated>", "<IsTruncated>true</IsTruncated>"),
            ("<IsTruncated>maybe</IsTruncated>", "<IsTruncated>maybe</IsTruncated>"),
            ("<MaxKeys></MaxKeys><KeyCount>x</KeyCount>", ""),
            ("<Key>&lt;Size&gt;</Key><Size>1", "<Key>&lt;Size&gt;</Key><Size>1"),
        ] {
            assert_eq!(typed(body.into()), expected);
        }
    }
}
