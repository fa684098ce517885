//! Mends the XML of listings, so that one key does not hide all others.
//!
//! A key may contain characters that XML can't represent. With `encoding-type=url`, S3 writes them as `%XX`. A server
//! that ignores this parameter sends XML that no parser accepts. A key that was mended is unknown, and is counted as
//! omitted.

use std::borrow::Cow;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;

use super::body_limit::ANSWER_MAX_BYTES;

/// Stands for what XML can't represent. It may also be part of a key. A server that ignores `encoding-type=url` then
/// does not show that key, because the two can't be distinguished.
pub(super) const MENDED: char = char::REPLACEMENT_CHARACTER;

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
}
