//! How lines reach stderr: of a relay through a bounded queue, so that nothing that serves waits for whoever reads them.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing_subscriber::fmt::MakeWriter;

use gantry_proto::printable;

/// How much may wait to be written, in bytes: a few thousand lines, and minutes of a relay's log at INFO.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// What a waiting line takes beside its text.
const LINE_OVERHEAD_BYTES: usize = 64;

/// How long the last lines may take to be written when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How often lost lines are reported at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The queue of this process, if its lines are queued.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Makes this process queue its lines from now on. Without a thread for that they are written directly, as before.
pub(super) fn begin_queue() {
    match Queue::start(io::stderr()) {
        Ok(queue) => drop(QUEUE.set(queue)),
        Err(error) => write_directly(&format!("gantry: logging may block, there is no thread for it: {error}\n")),
    }
}

/// Writes a line to stderr. Nobody hears when that fails.
pub fn print(line: &str) {
    put(format!("{line}\n"));
}

/// Returns how many lines were lost since nobody took them.
#[must_use]
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.state.dropped.load(Ordering::Relaxed))
}

/// Waits until all lines so far are written, but no longer than a second.
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

/// Where the log goes. One call of `write` is one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stderr {
    pub(super) is_colored: bool,
    pub(super) is_json: bool,
}

impl Stderr {
    /// Escapes what a terminal would act on, but for the end of the line and the colors that the log itself sets.
    fn escaped(self, event: &str) -> String {
        let line = event.strip_suffix('\n').unwrap_or(event);
        let safe = if self.is_json {
            printable::json(line).into_owned()
        } else if self.is_colored {
            // tracing-subscriber has escaped what stood in a value by now: what is left are its own sequences.
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
        put(self.escaped(&String::from_utf8_lossy(event)));
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

/// Lines on their way to a thread that writes them.
#[derive(Debug)]
struct Queue {
    // `Sender` is unbounded; what waits in it is bounded by `State::waiting`.
    entries: Sender<Entry>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The size of what waits, in bytes.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    /// Everything before it has been written once this is answered.
    Flush(oneshot::Sender<()>),
}

impl Queue {
    fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, queued) = mpsc::channel();
        let state = Arc::<State>::default();
        let writing = Arc::clone(&state);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&queued, &writing, to))?;
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
            // Whoever does not read by then does not want to.
            drop(timeout(FLUSH_TIMEOUT, written).await);
        }
    }
}

/// Writes what is queued until nobody can queue any more.
fn write_all(queued: &Receiver<Entry>, state: &State, mut to: impl Write) {
    let mut reported = (0, None::<Instant>);
    for entry in queued {
        let line = match entry {
            Entry::Line(line) => line,
            Entry::Flush(done) => {
                // Whoever waited has given up, then.
                done.send(()).ok();
                continue;
            }
        };
        state.waiting.fetch_sub(line.len() + LINE_OVERHEAD_BYTES, Ordering::Relaxed);
        if to.write_all(line.as_bytes()).is_err() {
            state.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        report(state, &mut reported);
    }
}

/// Reports lost lines once some line could be written again.
fn report(state: &State, (count, at): &mut (u64, Option<Instant>)) {
    let dropped = state.dropped.load(Ordering::Relaxed);
    if dropped > *count && at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
        tracing::warn!(lines = dropped - *count, "log lines were dropped: nobody took them from stderr in time");
        (*count, *at) = (dropped, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A pipe that nobody reads until it is opened.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Ends>);

    #[derive(Default)]
    struct Ends {
        /// Whether somebody reads, and what was read.
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
    async fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
        let pipe = Pipe::default();
        let queue = Queue::start(pipe.clone()).unwrap();
        let line = format!("{:01000}\n", 7);
        for _ in 0..5000 {
            queue.push(line.clone());
        }
        assert!(queue.state.waiting.load(Ordering::Relaxed) <= WAITING_BYTES_MAX);
        let dropped = queue.state.dropped.load(Ordering::Relaxed);
        assert!(dropped > 3000, "{dropped}");
        // On paused time this waits for no longer than it says.
        queue.flush().await;
        assert_eq!(pipe.text(), "");
        pipe.open();
    }

    #[tokio::test]
    async fn what_is_queued_is_written_by_the_end() {
        let pipe = Pipe::default();
        pipe.open();
        let queue = Queue::start(pipe.clone()).unwrap();
        for n in 0..100 {
            queue.push(format!("{n}\n"));
        }
        queue.flush().await;
        assert_eq!(pipe.text().lines().count(), 100);
        assert_eq!(queue.state.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_stderr_that_fails_is_counted_and_harms_nobody() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::start(Full).unwrap();
        queue.push("a\n".to_owned());
        queue.push("b\n".to_owned());
        queue.flush().await;
        assert_eq!(queue.state.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn an_event_is_one_line_without_escapes_of_strangers() {
        let plain = Stderr { is_colored: false, is_json: false };
        assert_eq!(plain.escaped("INFO key=a\u{1b}[2J\nb\u{202e}\n"), "INFO key=a\\u{1b}[2J\\nb\\u{202e}\n");
        let colored = Stderr { is_colored: true, is_json: false };
        assert_eq!(colored.escaped("\u{1b}[32mINFO\u{1b}[0m a\nb\u{9b}\n"), "\u{1b}[32mINFO\u{1b}[0m a\\nb\\u{9b}\n");
        let json = Stderr { is_colored: false, is_json: true };
        assert_eq!(json.escaped("{\"key\":\"a\u{9b}\"}\n"), "{\"key\":\"a\\u009b\"}\n");
    }
}
