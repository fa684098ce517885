//! The scope of a signature: its day, region and service, and the access key.

use time::{Date, Month, OffsetDateTime, Time};

pub(super) const SERVICE: &str = "s3";
pub(super) const TERMINATOR: &str = "aws4_request";

/// `{access key}/{day}/{region}/s3/aws4_request`.
#[derive(Debug)]
pub(super) struct Credential {
    pub(super) access_key: String,
    pub(super) day: String,
    pub(super) region: String,
}

impl Credential {
    /// Returns `None` for another form, another service, or another day than that of `date`.
    pub(super) fn parse(text: &str, date: &str) -> Option<Self> {
        let mut fields = text.rsplitn(5, '/');
        let (terminator, service) = (fields.next()?, fields.next()?);
        let (region, day, access_key) = (fields.next()?, fields.next()?, fields.next()?);

        let is_valid = terminator == TERMINATOR && service == SERVICE && date.get(..8) == Some(day);
        is_valid.then(|| Self { access_key: access_key.to_owned(), day: day.to_owned(), region: region.to_owned() })
    }

    pub(super) fn scope(&self) -> String {
        format!("{}/{}/{SERVICE}/{TERMINATOR}", self.day, self.region)
    }
}

/// Parses `20250102T030405Z` to seconds since 1970.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let has_form = bytes.len() == 16
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !has_form {
        return None;
    }

    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<u8>().ok();
    let year = text.get(..4)?.parse().ok()?;
    let month = Month::try_from(part(4..6)?).ok()?;
    let date = Date::from_calendar_date(year, month, part(6..8)?).ok()?;
    let time = Time::from_hms(part(9..11)?, part(11..13)?, part(13..15)?).ok()?;
    Some(date.with_time(time).assume_utc().unix_timestamp())
}

/// The inverse of [`parse_date`].
pub(super) fn format_date(seconds: i64) -> Option<String> {
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    Some(format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    ))
}
