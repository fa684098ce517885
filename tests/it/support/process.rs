//! Child processes, which never outlive the test process.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::DEADLINE;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the path of a server from `make servers`: in `.dev`, or on PATH if that one is recent enough.
pub(crate) fn server(in_dev: &str) -> PathBuf {
    let ours = root().join(".dev").join(in_dev);
    if ours.exists() {
        return ours;
    }
    let name = Path::new(in_dev).file_name().unwrap_or_default();
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists()));
    match on_path {
        Some(file) if in_dev.starts_with("bin/") => file,
        _ => panic!("{in_dev} is missing: run `make servers` first"),
    }
}

/// Prepares a command supervised by `run.py`. The pid is the command's own. `grace` is the time between SIGTERM and
/// SIGKILL.
pub(crate) fn supervised(program: impl AsRef<OsStr>, grace: Duration) -> Command {
    let mut command = Command::new(python());
    // Without site packages, Python starts in a few milliseconds, which are part of the times that tests measure.
    command
        .args(["-I", "-S"])
        .arg(root().join("deploy/dev/run.py"))
        .arg("--grace")
        .arg(grace.as_secs_f64().to_string())
        .arg("--")
        .arg(program)
        .stdin(Stdio::piped());
    command
}

/// The Python interpreter itself: `python3` on PATH may be a slow wrapper.
pub(crate) fn python() -> &'static Path {
    static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
        let ask = std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        PathBuf::from(String::from_utf8(ask.expect("python3 is needed").stdout).unwrap().trim())
    });
    &PYTHON
}

/// A running supervised command. It ends when dropped, because its supervisor's pipe closes.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    lifeline: Option<ChildStdin>,
    pid: u32,
}

impl Process {
    /// Starts a command prepared by [`supervised`].
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("can't start {name}: {error}"));
        let lifeline = child.stdin.take();
        let pid = child.id().expect("a child that nobody waited for has a pid");
        Self { name: name.to_owned(), child, lifeline, pid }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Returns the exit status if the command has already ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the command to end by itself. Panics at the deadline.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        match timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} (pid {}) did not end within {DEADLINE:?}", self.name, self.pid),
        }
    }

    /// Sends SIGTERM, and SIGKILL after the grace, and waits for the end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.lifeline = None;
        self.wait().await
    }

    /// Ends the command with SIGKILL, and returns once it is gone.
    pub(crate) async fn kill(&mut self) -> ExitStatus {
        self.child.start_kill().unwrap();
        self.wait().await
    }

    /// Sends a signal by its name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid, name);
    }
}

/// Sends a signal by its name to a process that the test started.
pub(crate) fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    let sent = std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(sent.success(), "{kill} failed");
}

/// Returns whether a process is running. A zombie is not.
pub(crate) fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

/// Returns a running process's peak memory in bytes (in its first milliseconds, that of `run.py`).
pub(crate) fn peak_rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
