//! The consumer under test, as a process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
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
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = match command.process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error.to_string()),
    };
    // A script does not pass a signal on to the programs that it has started.
    let _group = Group::of(&child);

    match timeout(patience, child.wait_with_output()).await {
        Ok(Ok(output)) => Ended::Exited { code: output.status.code(), printed: tail(&output.stderr) },
        Ok(Err(error)) => Ended::NotStarted(error.to_string()),
        Err(_) => Ended::TimedOut,
    }
}

/// Kills a process and those that it has started, when dropped.
struct Group(Option<Pid>);

impl Group {
    /// `child` leads a process group.
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // All of them have ended in most cases.
            kill_process_group(leader, Signal::KILL).ok();
        }
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
    async fn what_a_script_has_started_is_killed_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {0}.new && mv {0}.new {0}; wait", pid.display());
        let ended = run(&words(&["sh", "-c", &script]), names(), Duration::from_secs(1)).await;
        assert_eq!(ended, Ended::TimedOut);

        let pid = std::fs::read_to_string(pid).unwrap();
        let status = format!("/proc/{}/stat", pid.trim());
        while std::fs::read_to_string(&status).is_ok_and(|status| !status.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_reported() {
        let ended = run(&words(&["/nonexistent"]), names(), Duration::from_secs(10)).await;
        assert!(matches!(ended, Ended::NotStarted(_)), "{ended:?}");
    }
}
