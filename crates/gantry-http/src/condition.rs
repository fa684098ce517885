//! Conditional requests. Source: RFC 9110, section 13.

use hyper::header::{HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};

use crate::date;
use crate::etag::{EntityTag, Tags};

/// How long a version must have been unchanged before its date identifies it, in seconds. Source: RFC 9110, section
/// 8.8.2.2, demands one second by the same clock, and RFC 7232 demanded 60, since the clocks of server and store differ.
const STRONG_AFTER: i64 = 60;

/// What a version is compared by.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    pub(crate) etag: EntityTag,
    /// Seconds since 1970.
    pub(crate) modified: Option<i64>,
}

/// The result of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request is answered as if it had no conditions.
    Proceed,
    /// 304: the client has this version.
    NotModified,
    /// 412: this condition is not met.
    Failed(&'static str),
}

/// Returns whether there are conditions other than `If-Range`.
pub(crate) fn has_any(headers: &HeaderMap) -> bool {
    [IF_MATCH, IF_UNMODIFIED_SINCE, IF_NONE_MATCH, IF_MODIFIED_SINCE].iter().any(|name| headers.contains_key(name))
}

/// Evaluates the conditions of a GET or HEAD, in the order of RFC 9110, section 13.2.2.
pub(crate) fn evaluate(headers: &HeaderMap, version: &Validators) -> Verdict {
    if let Some(tags) = tags(headers, &IF_MATCH) {
        if !tags.any(|tag| tag.matches_strongly(&version.etag)) {
            return Verdict::Failed("If-Match");
        }
    } else if let Some(limit) = seconds(headers, &IF_UNMODIFIED_SINCE)
        && version.modified.is_some_and(|modified| modified > limit)
    {
        return Verdict::Failed("If-Unmodified-Since");
    }

    if let Some(tags) = tags(headers, &IF_NONE_MATCH) {
        if tags.any(|tag| tag.matches_weakly(&version.etag)) {
            return Verdict::NotModified;
        }
    } else if let Some(limit) = seconds(headers, &IF_MODIFIED_SINCE)
        && version.modified.is_some_and(|modified| modified <= limit)
    {
        return Verdict::NotModified;
    }

    Verdict::Proceed
}

/// Returns whether `Range` applies to this version at `now`, in seconds since 1970: there is no `If-Range`, or it names
/// this version.
pub(crate) fn applies_to_range(headers: &HeaderMap, version: &Validators, now: i64) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    // Two conditions contradict each other, so neither can be relied on.
    if headers.get_all(IF_RANGE).iter().count() > 1 {
        return false;
    }

    let Ok(text) = value.to_str() else { return false };
    if text.starts_with(['"', 'W']) && text.contains('"') {
        return EntityTag::parse(text).is_some_and(|tag| tag.matches_strongly(&version.etag));
    }
    // An exact match, and of a strong date: section 13.1.5. Within its second, several versions may have the same date.
    let is_strong = |date: i64| now >= date.saturating_add(STRONG_AFTER);
    date::parse_http(text).is_some_and(|date| version.modified == Some(date) && is_strong(date))
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Tags> {
    if !headers.contains_key(name) {
        return None;
    }

    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    Some(Tags::parse(&values.join(",")))
}

/// Returns the seconds since 1970, or `None` for a header that is missing, invalid or repeated, which is ignored.
fn seconds(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() { None } else { date::parse_http(value) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const AT: &str = "Thu, 02 Jan 2025 02:04:05 GMT";
    const BEFORE: &str = "Thu, 02 Jan 2025 02:04:04 GMT";
    const AFTER: &str = "Thu, 02 Jan 2025 02:04:06 GMT";

    fn version() -> Validators {
        Validators { etag: EntityTag::of_store("\"a\""), modified: date::parse_http(AT) }
    }

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn conditions_are_evaluated_in_the_order_of_rfc_9110() {
        use Verdict::{Failed, NotModified, Proceed};
        for (list, expected) in [
            (&[][..], Proceed),
            (&[(IF_MATCH, "\"a\"")], Proceed),
            (&[(IF_MATCH, "*")], Proceed),
            (&[(IF_MATCH, "\"b\"")], Failed("If-Match")),
            (&[(IF_MATCH, "W/\"a\"")], Failed("If-Match")),
            (&[(IF_MATCH, "\"b\""), (IF_MATCH, "\"a\"")], Proceed),
            (&[(IF_MATCH, "")], Failed("If-Match")),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], Failed("If-Unmodified-Since")),
            (&[(IF_UNMODIFIED_SINCE, AT)], Proceed),
            (&[(IF_UNMODIFIED_SINCE, "never")], Proceed),
            // If-Match decides alone.
            (&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, BEFORE)], Proceed),
            (&[(IF_NONE_MATCH, "\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "W/\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (&[(IF_NONE_MATCH, "\"b\", \"c\"")], Proceed),
            (&[(IF_MODIFIED_SINCE, AT)], NotModified),
            (&[(IF_MODIFIED_SINCE, AFTER)], NotModified),
            (&[(IF_MODIFIED_SINCE, BEFORE)], Proceed),
            (&[(IF_MODIFIED_SINCE, "never")], Proceed),
            (&[(IF_MODIFIED_SINCE, AT), (IF_MODIFIED_SINCE, AT)], Proceed),
            // If-None-Match decides alone.
            (&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, AT)], Proceed),
            // 412 comes before 304.
            (&[(IF_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")], Failed("If-Match")),
            (&[(IF_MATCH, "\"a\""), (IF_NONE_MATCH, "\"a\"")], NotModified),
        ] {
            assert_eq!(evaluate(&headers(list), &version()), expected, "{list:?}");
        }
    }

    #[test]
    fn without_a_date_conditions_on_dates_do_not_apply() {
        let undated = Validators { modified: None, ..version() };
        for name in [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
            assert_eq!(evaluate(&headers(&[(name, BEFORE)]), &undated), Verdict::Proceed);
        }
    }

    fn applies(list: &[(HeaderName, &str)], now: i64) -> bool {
        applies_to_range(&headers(list), &version(), now)
    }

    #[test]
    fn a_date_identifies_a_version_once_it_is_old_enough() {
        let modified = date::parse_http(AT).unwrap();
        for (age, is_strong) in [(-1, false), (0, false), (59, false), (60, true), (100_000, true)] {
            assert_eq!(applies(&[(IF_RANGE, AT)], modified + age), is_strong, "{age}");
            assert!(applies(&[(IF_RANGE, "\"a\"")], modified + age));
        }
    }

    #[test]
    fn a_range_applies_to_exactly_the_version_of_if_range() {
        let later = date::parse_http(AT).unwrap() + 3600;
        for (value, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", false),
            ("\"b\"", false),
            (AT, true),
            (AFTER, false),
            (BEFORE, false),
            ("a", false),
        ] {
            assert_eq!(applies(&[(IF_RANGE, value)], later), expected, "{value}");
        }
        assert!(applies(&[], later));
        assert!(!applies(&[(IF_RANGE, "\"a\""), (IF_RANGE, "\"a\"")], later));
    }
}
