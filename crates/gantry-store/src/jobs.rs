//! Runs work on threads that may block.
//!
//! A network directory may hang, and a thread that waits for it can't be stopped. Each directory therefore has a
//! bounded number of threads for each kind of work, and nobody waits for one longer than a deadline. The threads of
//! other directories and of name resolution stay available.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::Error;

/// Default time for one piece of work, including the wait for a thread. A relay must answer `stat` and `list` within 15 s
/// ("Timers" in `docs/PROTOCOL.md`).
const DEADLINE: Duration = Duration::from_secs(14);

/// The threads of one directory.
#[derive(Debug)]
pub(crate) struct Jobs {
    threads: Arc<Semaphore>,
    /// Maximum time for one piece of work, including the wait for a thread.
    deadline: Duration,
    /// When a piece of work last started or ended.
    moved_at: Arc<Mutex<Instant>>,
    /// Files to close. Closing may block, too, on some file systems.
    closing: Arc<Mutex<Vec<File>>>,
}

/// A file that is closed on one of its directory's threads.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Present until this is dropped.
    file: Option<File>,
    jobs: Arc<Jobs>,
}

impl Handle {
    pub(crate) const fn new(file: File, jobs: Arc<Jobs>) -> Self {
        Self { file: Some(file), jobs }
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().expect("the file is present until the handle is dropped")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.jobs.closing.lock().unwrap_or_else(PoisonError::into_inner).extend(self.file.take());
        // Without a free thread, the next one that becomes free closes the file.
        if tokio::runtime::Handle::try_current().is_ok() {
            drop(self.jobs.try_start(|_| Ok(())));
        }
    }
}

/// Running work. Dropping it abandons the work.
#[derive(Debug)]
pub(crate) struct Job<T> {
    work: JoinHandle<Result<T, Error>>,
    until: Instant,
    deadline: Duration,
    abandoned: Abandoned,
}

/// Whether some work has been abandoned. Long work checks this from time to time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Jobs {
    /// Creates `threads` threads, each of which runs one piece of work at a time.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            deadline: DEADLINE,
            moved_at: Arc::new(Mutex::new(Instant::now())),
            closing: Arc::default(),
        }
    }

    /// Sets the maximum time for one piece of work, including the wait for a thread.
    #[cfg(feature = "cache")]
    pub(crate) const fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs `work` on a thread.
    ///
    /// # Errors
    /// Those of `work`, and [`Error::Unavailable`] if it does not end in time. Its thread then stays occupied until the
    /// work ends.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the work is abandoned.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Abandoned) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.is_stuck() {
            return Err(overdue(self.deadline));
        }

        let until = Instant::now() + self.deadline;
        let thread = timeout_at(until, Arc::clone(&self.threads).acquire_owned()).await;
        let thread = thread.map_err(|_| overdue(self.deadline))?.expect("the semaphore is never closed");
        self.start(thread, until, work).end().await
    }

    /// Starts `work`, unless it would have to wait for a thread.
    pub(crate) fn try_start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Abandoned) -> Result<T, Error> + Send + 'static,
    ) -> Option<Job<T>> {
        let thread = Arc::clone(&self.threads).try_acquire_owned().ok()?;
        Some(self.start(thread, Instant::now() + self.deadline, work))
    }

    fn start<T: Send + 'static>(
        &self,
        thread: OwnedSemaphorePermit,
        until: Instant,
        work: impl FnOnce(&Abandoned) -> Result<T, Error> + Send + 'static,
    ) -> Job<T> {
        let abandoned = Abandoned::default();
        let (seen, moved_at) = (abandoned.clone(), Arc::clone(&self.moved_at));
        let (threads, closing) = (Arc::clone(&self.threads), Arc::clone(&self.closing));
        note(&moved_at);

        let work = tokio::task::spawn_blocking(move || {
            let done = work(&seen);
            note(&moved_at);
            close_all(&closing, &threads, thread);
            done
        });
        Job { work, until, deadline: self.deadline, abandoned }
    }

    /// Returns whether all threads have been waiting for the directory for longer than any work may take.
    fn is_stuck(&self) -> bool {
        let moved_at = *self.moved_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.threads.available_permits() == 0 && moved_at.elapsed() >= self.deadline
    }
}

/// Closes all waiting files, and frees the thread.
fn close_all(closing: &Mutex<Vec<File>>, threads: &Arc<Semaphore>, thread: OwnedSemaphorePermit) {
    let next = || closing.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut thread = Some(thread);

    // A file may be added just before the thread is free. If another thread took its place, that one closes the file.
    while thread.is_some() {
        while let Some(file) = next() {
            drop(file);
        }
        drop(thread.take());
        if !closing.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            thread = Arc::clone(threads).try_acquire_owned().ok();
        }
    }
}

fn note(moved_at: &Mutex<Instant>) {
    *moved_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

impl<T> Job<T> {
    /// Waits until the work ends.
    ///
    /// # Errors
    /// Those of the work, and [`Error::Unavailable`] if it does not end in time.
    pub(crate) async fn end(mut self) -> Result<T, Error> {
        let Ok(ended) = timeout_at(self.until, &mut self.work).await else {
            return Err(overdue(self.deadline));
        };
        // It fails only if the work panicked or the runtime ends.
        ended.unwrap_or_else(|error| Err(Error::unavailable(format!("reading: {error}"))))
    }

    /// Returns whether the work has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.work.is_finished()
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.abandoned.0.store(true, Ordering::Relaxed);
    }
}

fn overdue(deadline: Duration) -> Error {
    Error::unavailable(format!("the directory has not answered for {} s", deadline.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    const THREADS: usize = 4;

    /// A directory that hangs until this is dropped.
    struct Hang {
        _released: mpsc::Sender<()>,
        waiting: Arc<Mutex<mpsc::Receiver<()>>>,
        begun: Arc<AtomicUsize>,
    }

    impl Hang {
        fn new() -> Self {
            let (released, waiting) = mpsc::channel();
            Self { _released: released, waiting: Arc::new(Mutex::new(waiting)), begun: Arc::default() }
        }

        fn work(&self) -> impl FnOnce(&Abandoned) -> Result<(), Error> + Send + use<> {
            let (waiting, begun) = (Arc::clone(&self.waiting), Arc::clone(&self.begun));
            move |_| {
                begun.fetch_add(1, Ordering::Relaxed);
                // It fails once the sender is dropped.
                waiting.lock().unwrap().recv().unwrap_err();
                Ok(())
            }
        }
    }

    /// Lets virtual time pass while threads work.
    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_hangs_occupies_a_bounded_number_of_threads() {
        let jobs = Jobs::new(THREADS);
        let hang = Hang::new();

        let requests = join_all((0..3 * THREADS).map(|_| jobs.run(hang.work())));
        tokio::pin!(requests);
        assert!((&mut requests).now_or_never().is_none());
        pass(DEADLINE).await;
        let answers = requests.await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Unavailable { .. }))));

        // The directory is known to hang by now, so the job fails at once.
        let answer = jobs.run(hang.work()).now_or_never();
        assert!(matches!(answer, Some(Err(Error::Unavailable { .. }))));
        assert!(hang.begun.load(Ordering::Relaxed) <= THREADS);

        drop(hang);
        while jobs.threads.available_permits() < THREADS {
            std::thread::yield_now();
        }
        assert_eq!(jobs.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_on_the_only_thread_waits_for_its_predecessor() {
        let jobs = Jobs::new(1);
        let hang = Hang::new();
        drop(jobs.run(hang.work()).now_or_never());

        assert!(jobs.run(hang.work()).now_or_never().is_none());
        assert!(jobs.try_start(hang.work()).is_none());
        drop(hang);
        jobs.run(|_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn abandoned_work_can_detect_it() {
        let jobs = Jobs::new(THREADS);
        let (ended, end) = tokio::sync::oneshot::channel();
        let work = move |abandoned: &Abandoned| {
            while !abandoned.is_set() {
                std::thread::yield_now();
            }
            ended.send(()).map_err(|()| Error::unavailable("nobody waits"))
        };

        let mut job = Box::pin(jobs.run(work));
        assert!((&mut job).now_or_never().is_none());
        sleep(Duration::from_millis(1)).await;
        drop(job);

        end.await.unwrap();
    }
}
