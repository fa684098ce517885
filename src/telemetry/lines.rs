//! Writes lines to stderr. A relay's lines go through a bounded queue, so that a slow reader of stderr delays nothing. So
//! do the lines of an access log on stdout.

use std::io::{self, Write};
use std::iter;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing_subscriber::fmt::MakeWriter;

use gantry_proto::printable;

/// The size limit of the queue, in bytes: a few thousand lines, or minutes of a relay's log at INFO.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// The memory for a queued line, in addition to its text.
const LINE_OVERHEAD_BYTES: usize = 64;

/// The time limit for writing the last lines when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long lines are gathered after a write. The thread sleeps meanwhile, because waking it for each line costs a busy
/// relay two system calls per line.
const GATHER_TIME: Duration = Duration::from_millis(10);

/// The minimum interval of reports about dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The queue of this process, if its lines are queued.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Queues the lines of this process from now on. If no thread can be started, lines are still written directly.
pub(super) fn start_queue() {
    match Queue::start(io::stderr(), "stderr") {
        Ok(queue) => drop(QUEUE.set(queue)),
        Err(error) => write_directly(&format!("gantry: logging may block: can't start a thread for it: {error}\n")),
    }
}

/// Writes a line to stderr. Failures are ignored, since there is nowhere to report them.
pub fn print(line: &str) {
    put(format!("{line}\n"));
}

/// Returns the number of dropped lines.
#[must_use]
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.state.dropped.load(Ordering::Relaxed))
}

/// Waits until all lines so far are written, for at most one second.
pub async fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush().await;
    }
}

fn put(line: String) {
    match QUEUE.get() {
        Some(queue) => queue.push(line),
        None => write_directly(&line),
    }
}

fn write_directly(text: &str) {
    // There is nowhere to report it.
    drop(io::stderr().write_all(text.as_bytes()));
}

/// Lines for stdout. They are queued, and dropped while nothing reads stdout.
#[derive(Debug)]
pub struct Lines(Queue);

impl Lines {
    /// Starts a queue.
    ///
    /// # Errors
    /// If its thread can't be started.
    pub fn to_stdout() -> io::Result<Self> {
        Queue::start(io::stdout(), "stdout").map(Self)
    }

    /// Adds a line, without its end.
    pub fn push(&self, line: String) {
        self.0.push(line + "\n");
    }
}

/// The destination of the log. Each call of `write` is one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stderr {
    pub(super) is_colored: bool,
    pub(super) is_json: bool,
}

impl Stderr {
    /// Escapes control characters, except for the end of the line and the log's own colors.
    fn escaped(self, event: &str) -> String {
        let line = event.strip_suffix('\n').unwrap_or(event);
        let safe = if self.is_json {
            printable::json(line).into_owned()
        } else if self.is_colored {
            // tracing-subscriber has escaped the values already, so the remaining sequences are its own.
            let parts: Vec<_> = line.split('\u{1b}').map(printable::text).collect();
            parts.join("\u{1b}")
        } else {
            printable::text(line).into_owned()
        };
        safe + "\n"
    }
}

impl Write for Stderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // The check for valid UTF-8 is faster than `from_utf8_lossy`.
        match str::from_utf8(event) {
            Ok(line) => put(self.escaped(line)),
            Err(_) => put(self.escaped(&String::from_utf8_lossy(event))),
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// A queue of lines, and the thread that writes them.
#[derive(Debug)]
struct Queue {
    // `Sender` is unbounded. `State::waiting` bounds its contents.
    entries: Sender<Entry>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The size of the queued lines, in bytes.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    /// Answered once everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Queue {
    fn start(to: impl Write + Send + 'static, name: &'static str) -> io::Result<Self> {
        let (entries, queued) = mpsc::channel();
        let state = Arc::<State>::default();
        let writing = Arc::clone(&state);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&queued, &writing, to, name))?;
        Ok(Self { entries, state })
    }

    fn push(&self, line: String) {
        let size = line.len() + LINE_OVERHEAD_BYTES;
        let fits = |waiting: usize| waiting.checked_add(size).filter(|waiting| *waiting <= WAITING_BYTES_MAX);

        let state = &self.state;
        let has_room = state.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if !has_room || self.entries.send(Entry::Line(line)).is_err() {
            state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.entries.send(Entry::Flush(done)).is_ok() {
            // A reader that is slower than this loses the rest.
            drop(timeout(FLUSH_TIMEOUT, written).await);
        }
    }
}

/// Writes the queued lines until the queue is dropped.
#[expect(clippy::disallowed_methods, reason = "it has a thread of its own, which has nothing else to do")]
fn write_all(queued: &Receiver<Entry>, state: &State, mut to: impl Write, name: &str) {
    let mut reported = (0, None::<Instant>);
    while let Ok(first) = queued.recv() {
        let mut is_writable = false;
        for entry in iter::once(first).chain(queued.try_iter()) {
            match entry {
                Entry::Line(line) => is_writable = write_line(&line, state, &mut to),
                // An error means that the receiver has timed out.
                Entry::Flush(done) => drop(done.send(())),
            }
        }

        if is_writable {
            report(state, &mut reported, name);
        }
        thread::sleep(GATHER_TIME);
    }
}

/// Writes one line. Returns whether it was written.
fn write_line(line: &str, state: &State, to: &mut impl Write) -> bool {
    state.waiting.fetch_sub(line.len() + LINE_OVERHEAD_BYTES, Ordering::Relaxed);
    let is_written = to.write_all(line.as_bytes()).is_ok();
    if !is_written {
        state.dropped.fetch_add(1, Ordering::Relaxed);
    }
    is_written
}

/// Reports dropped lines once a line could be written again.
fn report(state: &State, (count, at): &mut (u64, Option<Instant>), name: &str) {
    let dropped = state.dropped.load(Ordering::Relaxed);
    if dropped > *count && at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
        tracing::warn!(lines = dropped - *count, "log lines were dropped: nothing reads {name}, or not fast enough");
        *count = dropped;
        *at = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A pipe without a reader until it is opened.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Ends>);

    #[derive(Default)]
    struct Ends {
        /// Whether there is a reader, and the bytes read.
        state: Mutex<(bool, Vec<u8>)>,
        opened: Condvar,
    }

    impl Pipe {
        fn open(&self) {
            self.0.state.lock().unwrap().0 = true;
            self.0.opened.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.state.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.state.lock().unwrap();
            let mut state = self.0.opened.wait_while(state, |(is_open, _)| !*is_open).unwrap();
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drops_lines_without_blocking_while_nothing_reads() {
        let pipe = Pipe::default();
        let queue = Queue::start(pipe.clone(), "stderr").unwrap();
        let line = format!("{:01000}\n", 7);
        for _ in 0..5000 {
            queue.push(line.clone());
        }

        assert!(queue.state.waiting.load(Ordering::Relaxed) <= WAITING_BYTES_MAX);
        let dropped = queue.state.dropped.load(Ordering::Relaxed);
        assert!(dropped > 3000, "{dropped}");

        // With paused time, this returns at its time limit.
        queue.flush().await;
        assert_eq!(pipe.text(), "");
        pipe.open();
    }

    #[tokio::test]
    async fn flush_writes_all_queued_lines() {
        let pipe = Pipe::default();
        pipe.open();
        let queue = Queue::start(pipe.clone(), "stderr").unwrap();
        for n in 0..100 {
            queue.push(format!("{n}\n"));
        }
        queue.flush().await;
        assert_eq!(pipe.text().lines().count(), 100);
        assert_eq!(queue.state.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn counts_lines_that_stderr_rejects() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::start(Full, "stderr").unwrap();
        queue.push("a\n".to_owned());
        queue.push("b\n".to_owned());
        queue.flush().await;
        assert_eq!(queue.state.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn event_is_one_line_without_foreign_escapes() {
        let plain = Stderr { is_colored: false, is_json: false };
        assert_eq!(plain.escaped("INFO key=a\u{1b}[2J\nb\u{202e}\n"), "INFO key=a\\u{1b}[2J\\nb\\u{202e}\n");
        let colored = Stderr { is_colored: true, is_json: false };
        assert_eq!(colored.escaped("\u{1b}[32mINFO\u{1b}[0m a\nb\u{9b}\n"), "\u{1b}[32mINFO\u{1b}[0m a\\nb\\u{9b}\n");
        let json = Stderr { is_colored: false, is_json: true };
        assert_eq!(json.escaped("{\"key\":\"a\u{9b}\"}\n"), "{\"key\":\"a\\u009b\"}\n");
    }
}
