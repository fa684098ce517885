//! Dates: RFC 3339 in descriptions, HTTP's and S3's forms in responses.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The date of objects and stores for which none is known, because some S3 clients fail without a date.
pub(crate) const UNKNOWN: &str = "1970-01-01T00:00:00.000Z";

/// Returns the seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "signatures and dates of objects are in wall-clock time")]
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or_default()
}

/// Parses a store's date. Returns `None` for one before 1970, which HTTP's dates need not represent.
pub(crate) fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().filter(|date| date.unix_timestamp() >= 0 && date.year() <= 9999)
}

/// Returns the date in HTTP's form, to the second.
pub(crate) fn http(date: OffsetDateTime) -> String {
    let seconds = u64::try_from(date.unix_timestamp()).unwrap_or_default();
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Parses a date in any of HTTP's forms to seconds since 1970. Source: RFC 9110, section 5.6.7.
pub(crate) fn parse_http(text: &str) -> Option<i64> {
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// Returns a store's date in the form of S3's XML, to the millisecond.
pub(crate) fn s3(text: Option<&str>) -> String {
    let Some(date) = text.and_then(parse).map(|date| date.to_offset(time::UtcOffset::UTC)) else {
        return UNKNOWN.to_owned();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second(),
        date.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_converted() {
        let text = "2025-01-02T03:04:05.678+01:00";
        assert_eq!(s3(Some(text)), "2025-01-02T02:04:05.678Z");
        assert_eq!(http(parse(text).unwrap()), "Thu, 02 Jan 2025 02:04:05 GMT");
        assert_eq!(parse_http("Thu, 02 Jan 2025 02:04:05 GMT"), Some(parse(text).unwrap().unix_timestamp()));
        assert_eq!(s3(Some("yesterday")), UNKNOWN);
        assert_eq!(parse("1969-12-31T23:59:59Z"), None);
    }
}
