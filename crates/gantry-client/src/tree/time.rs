//! Modification times: as stores state them, and as file systems keep them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A modification time, since the Unix epoch. Earlier times do not exist in stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Modified {
    seconds: i64,
    nanos: u32,
}

impl Modified {
    pub(super) const fn new(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos }
    }

    /// Parses RFC 3339. Returns `None` if the text is anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Self { seconds: time.unix_timestamp(), nanos: time.nanosecond() })
    }

    /// Returns whether a file with this time may be a copy of an object with the time `other`.
    ///
    /// Many stores and file systems keep whole seconds, and S3 states one object's time with and without a fraction.
    /// Fractions are therefore compared only if both times have one.
    pub(super) const fn matches(self, other: Self) -> bool {
        let has_both_fractions = self.nanos != 0 && other.nanos != 0;
        self.seconds == other.seconds && (!has_both_fractions || self.nanos == other.nanos)
    }

    /// Returns the time for the file system, or `None` if it can't hold it.
    pub(super) fn system_time(self) -> Option<SystemTime> {
        let seconds = Duration::from_secs(u64::try_from(self.seconds).ok()?);
        UNIX_EPOCH.checked_add(seconds)?.checked_add(Duration::from_nanos(u64::from(self.nanos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_match_at_the_resolution_that_both_have() {
        let time = |text: &str| Modified::parse(text).unwrap();
        let whole = time("2026-11-23T07:36:25Z");
        for (other, is_match) in [
            ("2026-11-23T07:36:25Z", true),
            ("2026-11-23T08:36:25+01:00", true),
            ("2026-11-23T07:36:25.365339137Z", true),
            ("2026-11-23T07:36:26Z", false),
            ("2026-11-23T07:36:24.999Z", false),
        ] {
            assert_eq!(whole.matches(time(other)), is_match, "{other}");
        }
        assert!(!time("2026-11-23T07:36:25.1Z").matches(time("2026-11-23T07:36:25.2Z")));
    }

    #[test]
    fn other_texts_are_not_times() {
        for text in ["", "yesterday", "2026-11-23", "Mon, 23 Nov 2026 07:36:25 GMT", "2026-13-01T00:00:00Z"] {
            assert_eq!(Modified::parse(text), None, "{text}");
        }
        assert_eq!(Modified::parse("1969-12-31T23:59:59Z").unwrap().system_time(), None);
    }
}
