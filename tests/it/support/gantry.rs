//! The built binary: relays, which keep running, and commands, which end.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::process::{Process, peak_rss_bytes, supervised};
use super::s3::Keys;
use super::{DEADLINE, Nats, POLL, S3, data, until};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gantry");

/// The name of the relay's service in the NATS services API.
const SERVICE: &str = "gantry";

/// The time limit for a command. The command's own deadlines must be shorter.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// Prepares `gantry ARGS…` in an environment without this machine's configuration.
pub(crate) fn gantry<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    Command {
        args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
        wrapper: Vec::new(),
        env: Vec::new(),
        folder: data::folder(),
        current_dir: None,
        stdout_file: None,
        deadline: COMMAND_DEADLINE,
    }
}

/// A `gantry` command before it runs.
#[derive(Debug)]
pub(crate) struct Command {
    args: Vec<OsString>,
    wrapper: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: TempDir,
    current_dir: Option<PathBuf>,
    stdout_file: Option<PathBuf>,
    deadline: Duration,
}

impl Command {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets `NATS_URL`.
    pub(crate) fn nats(self, nats: &Nats) -> Self {
        self.env("NATS_URL", nats.url())
    }

    /// Runs the command through this program, such as `setpriv`, which receives the binary and its arguments.
    pub(crate) fn through<A: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = wrapper.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// Sets the working folder.
    pub(crate) fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.current_dir = Some(folder.as_ref().to_owned());
        self
    }

    /// Redirects standard output to a file, for output that is too large to collect.
    pub(crate) fn stdout_to(mut self, file: impl AsRef<Path>) -> Self {
        self.stdout_file = Some(file.as_ref().to_owned());
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the command to its end.
    pub(crate) async fn run(self) -> Output {
        self.spawn().output().await
    }

    /// Starts the command and leaves it running.
    pub(crate) fn spawn(self) -> Running {
        let mut words = self.wrapper.iter().map(OsString::as_os_str).chain([OsStr::new(BINARY)]);
        let program = words.next().expect("the binary is the last word");
        let mut command = supervised(program, Duration::from_secs(3));
        isolate(&mut command, self.folder.path());
        command.args(words).args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));

        if let Some(folder) = &self.current_dir {
            command.current_dir(folder);
        }
        command.stderr(Stdio::piped());

        match &self.stdout_file {
            Some(file) => command.stdout(std::fs::File::create(file).unwrap()),
            None => command.stdout(Stdio::piped()),
        };

        let line = self.args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let begun = Instant::now();
        let mut process = Process::start(&format!("gantry {line}"), &mut command);
        let stdout = process.child_mut().stdout.take().map(collect);
        let stderr = process.child_mut().stderr.take().map(collect).expect("standard error is piped");

        Running { process, line, stdout, stderr, begun, deadline: self.deadline, _folder: self.folder }
    }
}

/// A running `gantry` command. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    line: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: JoinHandle<Vec<u8>>,
    begun: Instant,
    deadline: Duration,
    _folder: TempDir,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal by its name, such as `INT`, `KILL` or `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Returns the exit status if the command has already ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits for the end. Panics with the command's output at the deadline.
    pub(crate) async fn output(mut self) -> Output {
        let mut peak_rss = 0;
        let pid = self.pid();
        let end = async {
            loop {
                // The peak only grows, so the last sample before the end misses at most one interval. The first sample
                // may be of the interpreter that became the command.
                peak_rss = peak_rss_bytes(pid).unwrap_or(peak_rss);
                if let Ok(status) = timeout(POLL, self.process.child_mut().wait()).await {
                    return status.unwrap();
                }
            }
        };
        let status = timeout(self.deadline, end).await.ok();
        let elapsed = self.begun.elapsed();

        if status.is_none() {
            self.process.kill().await;
        }
        let stdout = match self.stdout {
            Some(task) => task.await.unwrap(),
            None => Vec::new(),
        };
        let stderr = String::from_utf8_lossy(&self.stderr.await.unwrap()).into_owned();
        let Some(status) = status else {
            panic!("gantry {} did not end within {:?}; it printed:\n{stderr}", self.line, self.deadline);
        };

        Output { code: status.code(), stdout, stderr, elapsed, peak_rss_bytes: peak_rss }
    }
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit code; `None` if a signal ended the command.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
    pub(crate) peak_rss_bytes: u64,
}

impl Output {
    /// Asserts the exit code, and panics with the complete output otherwise.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout_text(), self.stderr);
        self
    }

    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the last line of standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let text = self.stdout_text();
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {text}\nstderr:\n{}", self.stderr))
    }
}

/// Prepares a relay: stores, environment and configuration, then [`RelayBuilder::start`].
#[derive(Debug)]
pub(crate) struct RelayBuilder {
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    config: Option<String>,
    url: String,
    probe: Option<async_nats::Client>,
}

impl RelayBuilder {
    /// Adds `--store NAME=URL`.
    pub(crate) fn store(self, name: &str, url: impl std::fmt::Display) -> Self {
        self.arg("--store").arg(format!("{name}={url}"))
    }

    /// Configures the SDK for this S3 server, as its administrator.
    pub(crate) fn s3(self, s3: &S3) -> Self {
        self.s3_as(s3, s3.admin())
    }

    /// Configures the SDK for this S3 server, as the user with these keys.
    pub(crate) fn s3_as(self, s3: &S3, user: &Keys) -> Self {
        s3.env(user).into_iter().fold(self, |relay, (name, value)| relay.env(name, value))
    }

    /// Adds an argument to `gantry serve`.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes this TOML as `--config`.
    pub(crate) fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// Sets the connection that looks for the relay, if a plain one would be refused or belong to another account.
    pub(crate) fn probe(mut self, client: async_nats::Client) -> Self {
        self.probe = Some(client);
        self
    }

    /// Starts the relay and waits until it answers as a service. Panics with its output if it does not.
    pub(crate) async fn start(self) -> Relay {
        let folder = data::folder();
        let stderr = folder.path().join("stderr.log");
        let mut command = supervised(BINARY, Duration::from_secs(5));
        isolate(&mut command, folder.path());
        command.arg("serve");
        if let Some(toml) = &self.config {
            let file = folder.path().join("gantry.toml");
            std::fs::write(&file, toml).unwrap();
            command.arg("--config").arg(file);
        }
        command.args(&self.args).env("NATS_URL", &self.url);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&stderr).unwrap());

        let probe = match self.probe {
            Some(client) => client,
            None => async_nats::connect(&self.url).await.unwrap(),
        };
        let before = instances(&probe, |_| false).await;
        let process = Process::start("gantry serve", &mut command);
        let mut relay = Relay { process, folder, stderr, id: String::new() };
        let search = timeout(DEADLINE, async {
            loop {
                relay.assert_running();
                let all = instances(&probe, |id| !before.contains(id)).await;
                if let Some(id) = all.difference(&before).next() {
                    return id.clone();
                }
                tokio::time::sleep(POLL).await;
            }
        });
        let found = search.await;
        relay.id = found.unwrap_or_else(|_| panic!("no relay within {DEADLINE:?}; it printed:\n{}", relay.stderr()));
        relay
    }
}

/// A running relay. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Process,
    folder: TempDir,
    stderr: PathBuf,
    id: String,
}

impl Relay {
    /// Prepares `gantry serve` for a server, without stores.
    pub(crate) fn on(nats: &Nats) -> RelayBuilder {
        Self::at(nats.url())
    }

    /// Prepares `gantry serve` for these server URLs.
    pub(crate) fn at(url: impl Into<String>) -> RelayBuilder {
        RelayBuilder { args: Vec::new(), env: Vec::new(), config: None, url: url.into(), probe: None }
    }

    /// Returns the relay's id in the services API.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the log so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Waits until the log contains this text.
    pub(crate) async fn logged(&self, text: &str) {
        until(&format!("{text:?} in the relay's log"), async || self.stderr().contains(text).then_some(())).await;
    }

    /// Returns the peak memory.
    pub(crate) fn peak_rss_bytes(&self) -> u64 {
        peak_rss_bytes(self.pid()).expect("the relay runs")
    }

    /// Sends a signal by its name: `TERM` makes the relay drain, `STOP` and `CONT` freeze and resume it.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for the end, after a signal.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// Ends it with SIGKILL, and returns when it is gone.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.process.ended() {
            panic!("gantry serve ended with {status}; it printed:\n{}", self.stderr());
        }
    }
}

/// Returns the ids of the relays that answer, up to and including the first one that `enough` accepts.
async fn instances(client: &async_nats::Client, enough: impl Fn(&str) -> bool) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Pong {
        id: String,
    }

    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(format!("$SRV.PING.{SERVICE}"), inbox, "".into()).await.unwrap();
    let mut ids = BTreeSet::new();
    // Each instance answers separately, so only silence marks the end. A loopback answer takes about a millisecond.
    while let Ok(Some(message)) = timeout(Duration::from_millis(100), answers.next()).await {
        if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            break;
        }
        let Ok(pong) = serde_json::from_slice::<Pong>(&message.payload) else { continue };
        let done = enough(&pong.id);
        ids.insert(pong.id);
        if done {
            break;
        }
    }
    ids
}

/// Hides this machine's configuration and a cloud's metadata service from the command.
fn isolate(command: &mut tokio::process::Command, home: &Path) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["AWS_", "NATS_", "GANTRY_", "XDG_", "RUST_LOG", "OTEL_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true");
}

/// Reads a stream to its end in the background, so that a full pipe never blocks its writer.
fn collect(mut stream: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        // A reset pipe counts as closed: the output is what arrived before.
        drop(stream.read_to_end(&mut bytes).await);
        bytes
    })
}
