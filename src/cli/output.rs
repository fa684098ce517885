//! What goes where: results to stdout, everything else to stderr, sizes and times for people.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::telemetry;
use gantry_proto::printable;

/// Writes a text to stdout, and ends its last line. What a terminal would act on is escaped.
///
/// Line breaks are kept: text from the other side passes through [`printable::text`] or [`printable::name`] before.
///
/// # Errors
/// When stdout does not take it; quietly when its reader went away.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    write(&printable::lines(text))
}

/// Writes a JSON object to stdout, on a line of its own.
///
/// # Errors
/// When stdout does not take it; quietly when its reader went away.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    write(&to_json(value))
}

fn write(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|error| stdout_failure(&error))
}

/// Writes one line to stderr, with all that is not printable escaped. Nobody hears when that fails.
pub(super) fn note(text: &str) {
    telemetry::print(&printable::text(text));
}

/// Returns whether a person watches stderr.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Tells of a failure, as JSON too if the command was asked for JSON.
pub(super) fn failure(failure: &Failure, form: Form) {
    let object = serde_json::json!({ "error": failure });
    match form {
        Form::Text => {}
        // The exit code tells of the failure when nobody reads this.
        Form::Json => drop(json(&object)),
        Form::JsonToStderr => return telemetry::print(&to_json(&object)),
    }
    for line in failure.lines() {
        note(&line);
    }
}

/// Tells of a failure in the log, unless that is off: it must not hide why the relay ended.
pub(super) fn logged_failure(told: &Failure) {
    if !tracing::enabled!(tracing::Level::ERROR) {
        return failure(told, Form::Text);
    }
    for line in told.message_lines() {
        tracing::error!(code = told.exit.name(), "{line}");
    }
}

/// How a command reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines for people.
    Text,
    /// One JSON object on stdout.
    Json,
    /// One JSON object on stderr, because stdout carries the data.
    JsonToStderr,
}

/// Makes the failure of a write to stdout.
pub(super) fn stdout_failure(error: &io::Error) -> Failure {
    let gone = error.kind() == io::ErrorKind::BrokenPipe;
    let message = if gone { String::new() } else { format!("stdout: {error}") };
    Failure::new(Exit::Failed, message)
}

/// Returns a value as JSON on one line. Characters that are not printable stand there as `\uXXXX`.
pub(super) fn to_json(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => printable::json(&json).into_owned(),
        Err(error) => format!("{{\"error\":{{\"message\":\"{error}\"}}}}"),
    }
}

/// Writes a duration in seconds with a digit that matters: `0.004 s`, `1.2 s`, `75 s`.
pub(super) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1.0 => format!("{s:.3} s"),
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// Writes a rate in MiB/s.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn rate(bytes: u64, duration: Duration) -> String {
    let rate = bytes as f64 / f64::from(1 << 20) / duration.as_secs_f64().max(1e-6);
    if rate < 10.0 { format!("{rate:.1} MiB/s") } else { format!("{rate:.0} MiB/s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_show_digits_that_matter() {
        assert_eq!(seconds(Duration::from_millis(4)), "0.004 s");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(75)), "75 s");
        assert_eq!(rate(256 << 20, Duration::from_millis(1200)), "213 MiB/s");
        assert_eq!(rate(1 << 20, Duration::from_secs(2)), "0.5 MiB/s");
    }
}
