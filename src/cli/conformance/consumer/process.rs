//! The consumer under test, as a process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The longest excerpt of what a consumer printed, in characters.
const EXCERPT_MAX: usize = 300;

/// The end of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It ended with this exit code, or by a signal.
    Exited { code: Option<i32>, printed: String },
    /// It was still running at the time limit.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// The values of a command's placeholders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) url: &'a str,
    pub(super) store: &'a str,
    pub(super) key: &'a str,
    pub(super) file: &'a Path,
}

/// Runs a command until it ends. After `patience` it is killed.
///
/// # Cancel safety
/// The process is killed if the future is dropped.
pub(super) async fn run(command: &[String], names: Names<'_>, patience: Duration) -> Ended {
    let mut words = command.iter().map(|word| names.fill(word));
    let Some(program) = words.next() else { return Ended::NotStarted("no command".to_owned()) };

    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error.to_string()),
    };

    match timeout(patience, child.wait_with_output()).await {
        Ok(Ok(output)) => Ended::Exited { code: output.status.code(), printed: tail(&output.stderr) },
        Ok(Err(error)) => Ended::NotStarted(error.to_string()),
        Err(_) => Ended::TimedOut,
    }
}

impl Names<'_> {
    /// Replaces the placeholders in one word.
    fn fill(&self, word: &str) -> String {
        let file = self.file.display().to_string();
        [("{url}", self.url), ("{store}", self.store), ("{file}", &file), ("{key}", self.key)]
            .iter()
            .fold(word.to_owned(), |word, (placeholder, value)| word.replace(placeholder, value))
    }
}

/// Returns the end of what was printed, on one line.
fn tail(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let line: Vec<char> = text.trim().replace(char::is_control, " ").chars().collect();
    line[line.len().saturating_sub(EXCERPT_MAX)..].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names<'static> {
        Names { url: "nats://a", store: "s", key: "{file} b", file: Path::new("/tmp/f") }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn placeholders_are_replaced_once_each() {
        assert_eq!(names().fill("{store}/{key}>{file}"), "s/{file} b>/tmp/f");
    }

    #[tokio::test]
    async fn the_exit_code_and_the_end_of_the_messages_are_reported() {
        let ended = run(&words(&["sh", "-c", "echo why >&2; exit 3"]), names(), Duration::from_secs(10)).await;
        assert_eq!(ended, Ended::Exited { code: Some(3), printed: "why".to_owned() });
    }

    #[tokio::test]
    async fn a_process_that_hangs_is_killed() {
        let ended = run(&words(&["sleep", "60"]), names(), Duration::from_millis(10)).await;
        assert_eq!(ended, Ended::TimedOut);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_reported() {
        let ended = run(&words(&["/nonexistent"]), names(), Duration::from_secs(10)).await;
        assert!(matches!(ended, Ended::NotStarted(_)), "{ended:?}");
    }
}
