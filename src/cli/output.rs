//! Output: results to stdout, everything else to stderr. Also formats durations and rates.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::telemetry;
use gantry_proto::printable;

/// Writes text and a line break to stdout. Control characters are escaped.
///
/// Line breaks are kept. Escape text from a peer with [`printable::text`] or [`printable::name`] first.
///
/// # Errors
/// If stdout can't be written to. The failure has no message if the reader has closed the pipe.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    write(&printable::lines(text))
}

/// Writes a JSON object to stdout, on one line.
///
/// # Errors
/// As for [`line`].
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    write(&to_json(value))
}

fn write(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|error| stdout_failure(&error))
}

/// Writes one line to stderr. Control characters and line breaks are escaped. Failures are ignored.
pub(super) fn note(text: &str) {
    telemetry::print(&printable::text(text));
}

/// Returns whether stderr is a terminal.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Prints a failure, also as JSON if the command prints JSON.
pub(super) fn failure(failure: &Failure, form: Form) {
    let object = serde_json::json!({ "error": failure });
    match form {
        Form::Text => {}
        // If stdout can't be written to, the exit code still reports the failure.
        Form::Json => drop(json(&object)),
        Form::JsonToStderr => return telemetry::print(&to_json(&object)),
    }
    for line in failure.lines() {
        note(&line);
    }
}

/// Logs a failure. If the log is off, prints it, so that the reason why the relay ended is never hidden.
pub(super) fn logged_failure(failed: &Failure) {
    if !tracing::enabled!(tracing::Level::ERROR) {
        return failure(failed, Form::Text);
    }
    for line in failed.message_lines() {
        tracing::error!(code = failed.exit.name(), "{line}");
    }
}

/// The form of a command's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines for people.
    Text,
    /// One JSON object on stdout.
    Json,
    /// One JSON object on stderr, since stdout carries the bytes.
    JsonToStderr,
}

/// Returns the failure of a write to stdout. It has no message if the reader has closed the pipe.
pub(super) fn stdout_failure(error: &io::Error) -> Failure {
    let is_closed = error.kind() == io::ErrorKind::BrokenPipe;
    let message = if is_closed { String::new() } else { format!("can't write to stdout: {error}") };
    Failure::new(Exit::Failed, message)
}

/// Returns a value as JSON on one line. Control characters are escaped as `\uXXXX`.
pub(super) fn to_json(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => printable::json(&json).into_owned(),
        Err(error) => format!("{{\"error\":{{\"message\":\"{error}\"}}}}"),
    }
}

/// Formats a duration in seconds: `0.004 s`, `1.2 s`, `75 s`.
pub(super) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1.0 => format!("{s:.3} s"),
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// Formats a rate in MiB/s.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn rate(bytes: u64, duration: Duration) -> String {
    let rate = bytes as f64 / f64::from(1 << 20) / duration.as_secs_f64().max(1e-6);
    if rate < 10.0 { format!("{rate:.1} MiB/s") } else { format!("{rate:.0} MiB/s") }
}

/// Formats a size with three digits and a unit: `43.2 MiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", units[unit])
}

/// Returns whether bytes would confuse a terminal: text has no other control characters than tabs and line ends.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| matches!(byte, 0..=8 | 11 | 14..=31 | 127))
}

pub(super) fn binary_failure() -> Failure {
    Failure::usage("the object is not text, and stdout is a terminal: redirect stdout, or add -o with a file name")
}

/// Reports on stderr how many names are missing in the listing.
pub(super) fn warn_of_omitted(omitted: u64) {
    let names = match omitted {
        0 => return,
        1 => "1 name is".to_owned(),
        count => format!("{count} names are"),
    };
    note(&format!("{names} not listed: unreadable, or not valid as a key"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates_have_two_to_four_digits() {
        assert_eq!(seconds(Duration::from_millis(4)), "0.004 s");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(75)), "75 s");
        assert_eq!(rate(256 << 20, Duration::from_millis(1200)), "213 MiB/s");
        assert_eq!(rate(1 << 20, Duration::from_secs(2)), "0.5 MiB/s");
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_240, "10.0 KiB"),
            (1_048_575, "1.00 MiB"),
            (45_256_540, "43.2 MiB"),
            (104_857_600, "100 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn text_is_not_binary() {
        assert!(!is_binary("line\ttab\r\nü\u{c}".as_bytes()));
        for bytes in [&b"a\0b"[..], b"\x1b[31m", b"\x07"] {
            assert!(is_binary(bytes));
        }
    }
}
