//! The access log: one line on stdout for each response.

use std::time::SystemTime;

use gantry_http::Finished;
use gantry_proto::printable;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::metrics::name_of;
use crate::config;
use crate::telemetry::Lines;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Writes a line for each response. Lines are dropped while nobody reads stdout.
#[derive(Debug)]
pub(super) struct AccessLog {
    lines: Lines,
    format: config::AccessLog,
}

/// A line of the log as JSON.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    time: String,
    peer: String,
    method: &'a str,
    target: &'a str,
    version: &'a str,
    store: Option<&'a str>,
    access_key: Option<&'a str>,
    user_agent: Option<&'a str>,
    referer: Option<&'a str>,
    status: u16,
    bytes: u64,
    first_byte_ms: u128,
    duration_ms: u128,
    proof: Option<&'static str>,
    aborted: Option<&'static str>,
}

impl AccessLog {
    /// Starts a log on stdout.
    ///
    /// # Errors
    /// If its thread can't be started.
    pub(super) fn start(format: config::AccessLog) -> std::io::Result<Self> {
        Ok(Self { lines: Lines::to_stdout()?, format })
    }

    #[expect(clippy::disallowed_methods, reason = "a log states the time of day")]
    pub(super) fn write(&self, finished: &Finished) {
        let now = OffsetDateTime::from(SystemTime::now());
        let line = match self.format {
            config::AccessLog::Common => common(finished, now),
            config::AccessLog::Json => json(finished, now),
        };
        self.lines.push(line);
    }
}

/// Returns a line in the common log format, whose last fields are the referer and the client's name.
fn common(finished: &Finished, now: OffsetDateTime) -> String {
    let user = finished.access_key.as_deref().map_or_else(|| "-".to_owned(), |key| quoted(key).replace(' ', "_"));
    let date = common_date(now);
    let or_dash = |text: Option<&str>| quoted(text.unwrap_or("-"));
    let request = format!("{} {} {}", finished.method, finished.target, finished.version);

    format!(
        "{} - {user} [{date}] \"{}\" {} {} \"{}\" \"{}\"",
        finished.peer,
        quoted(&request),
        finished.status,
        finished.bytes,
        or_dash(finished.referer.as_deref()),
        or_dash(finished.user_agent.as_deref()),
    )
}

/// Returns a date of the common log format. Source: Apache's `mod_log_config`, `%t`.
fn common_date(date: OffsetDateTime) -> String {
    let month = MONTHS[usize::from(u8::from(date.month())) - 1];
    let (hour, minute, second) = date.to_hms();
    format!("{:02}/{month}/{}:{hour:02}:{minute:02}:{second:02} +0000", date.day(), date.year())
}

/// Escapes what would end a field or a line early.
fn quoted(text: &str) -> String {
    printable::text(text).replace('\\', "\\\\").replace('"', "\\\"")
}

fn json(finished: &Finished, now: OffsetDateTime) -> String {
    let entry = Entry {
        time: now.format(&Rfc3339).unwrap_or_default(),
        peer: finished.peer.to_string(),
        method: &finished.method,
        target: &finished.target,
        version: finished.version,
        store: finished.store.as_deref(),
        access_key: finished.access_key.as_deref(),
        user_agent: finished.user_agent.as_deref(),
        referer: finished.referer.as_deref(),
        status: finished.status,
        bytes: finished.bytes,
        first_byte_ms: finished.first_byte.as_millis(),
        duration_ms: finished.duration.as_millis(),
        proof: finished.proof.as_ref().map(name_of),
        aborted: finished.aborted.map(gantry_http::Aborted::name),
    };
    let line = serde_json::to_string(&entry).unwrap_or_default();
    printable::json(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_of_a_request_ends_its_field_or_line() {
        for (text, escaped) in [("a b", "a b"), ("a\"b\\c", "a\\\"b\\\\c")] {
            assert_eq!(quoted(text), escaped);
        }
        assert!(!quoted("a\r\nb\u{1b}[0m").contains(['\r', '\n', '\u{1b}']));
    }

    #[test]
    fn the_date_is_that_of_the_common_log_format() {
        let date = OffsetDateTime::from_unix_timestamp(971_211_336).unwrap();
        assert_eq!(common_date(date), "10/Oct/2000:20:55:36 +0000");
    }
}
