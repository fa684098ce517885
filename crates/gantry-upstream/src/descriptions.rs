//! The descriptions of objects, kept for a short time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

use gantry_client::Error;
use gantry_proto::{Key, ObjectInfo, PartRun, StoreName};

use crate::counts::Counting;

/// The memory that a description takes besides its texts and parts, in bytes.
const OVERHEAD_BYTES: usize = 512;

/// An object, in its current version or in a certain one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    pub(crate) store: StoreName,
    pub(crate) key: Key,
    pub(crate) version_id: Option<String>,
}

/// The answer of a relay, which several callers share.
pub(crate) type Answer = Result<Arc<ObjectInfo>, Arc<Error>>;

type Asking = Shared<BoxFuture<'static, Answer>>;

/// The descriptions that were obtained a short time ago. Identical questions are asked once.
#[derive(Debug)]
pub(crate) struct Descriptions {
    age_max: Duration,
    bytes_max: usize,
    counting: Arc<Counting>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Subject, Known>,
    /// The subjects of `known`, the oldest first.
    order: BTreeMap<u64, Subject>,
    /// The memory that `known` takes.
    bytes: usize,
    asked: HashMap<Subject, Asked>,
    next_number: u64,
}

#[derive(Debug)]
struct Known {
    object: Arc<ObjectInfo>,
    confirmed: Instant,
    number: u64,
    bytes: usize,
}

/// A question that awaits its answer, unless all its callers have left.
#[derive(Debug)]
struct Asked {
    number: u64,
    asking: WeakShared<BoxFuture<'static, Answer>>,
}

impl Descriptions {
    pub(crate) fn new(age_max: Duration, bytes_max: usize, counting: Arc<Counting>) -> Self {
        Self { age_max, bytes_max, counting, state: Mutex::default() }
    }

    /// Returns a description that is recent enough.
    pub(crate) fn known(&self, subject: &Subject) -> Option<Arc<ObjectInfo>> {
        if self.age_max.is_zero() {
            return None;
        }
        let state = self.state();
        let known = state.known.get(subject)?;

        let age = known.confirmed.elapsed();
        (age <= self.age_max).then(|| aged(&known.object, age))
    }

    /// Returns the description, from memory or from a relay. `ask` asks a relay.
    ///
    /// Dropping the future abandons the question if no other caller waits for it.
    pub(crate) async fn describe(
        self: &Arc<Self>,
        subject: &Subject,
        ask: impl FnOnce() -> BoxFuture<'static, Result<ObjectInfo, Error>>,
    ) -> Answer {
        if let Some(object) = self.known(subject) {
            Counting::add(&self.counting.descriptions_known, 1);
            return Ok(object);
        }

        self.join_or_ask(subject, ask).await
    }

    /// Records that an object has this description now.
    pub(crate) fn confirm(&self, subject: Subject, object: &ObjectInfo) {
        if self.age_max.is_zero() {
            return;
        }
        let stale_s = object.stale_s;
        let mut state = self.state();

        // A description of a transfer may lack what one from a question contains.
        let known = state.known.get(&subject).map(|known| Arc::clone(&known.object));
        let same = known.filter(|known| known.pin() == object.pin() && known.size == object.size);

        let mut object = same.unwrap_or_else(|| Arc::new(object.clone()));
        if object.stale_s != stale_s {
            Arc::make_mut(&mut object).stale_s = stale_s;
        }
        state.insert(subject, object, self.bytes_max);
    }

    /// Forgets the description of an object that has changed. Answers that are under way are not kept either.
    pub(crate) fn forget(&self, subject: &Subject) {
        let mut state = self.state();

        state.remove(subject);
        state.asked.remove(subject);
    }

    fn join_or_ask(
        self: &Arc<Self>,
        subject: &Subject,
        ask: impl FnOnce() -> BoxFuture<'static, Result<ObjectInfo, Error>>,
    ) -> Asking {
        let mut state = self.state();
        let joined = state.asked.get(subject).and_then(|asked| asked.asking.upgrade());
        if let Some(joined) = joined {
            Counting::add(&self.counting.descriptions_known, 1);
            return joined;
        }

        let number = state.next_number();
        let asking = self.asking(subject.clone(), number, ask()).shared();

        // Questions that all callers have abandoned.
        state.asked.retain(|_, asked| asked.asking.upgrade().is_some());
        if let Some(weak) = asking.downgrade() {
            state.asked.insert(subject.clone(), Asked { number, asking: weak });
        }
        Counting::add(&self.counting.descriptions_asked, 1);
        asking
    }

    fn asking(
        self: &Arc<Self>,
        subject: Subject,
        number: u64,
        ask: BoxFuture<'static, Result<ObjectInfo, Error>>,
    ) -> BoxFuture<'static, Answer> {
        let descriptions = Arc::clone(self);

        async move {
            let answer = ask.await.map(Arc::new).map_err(Arc::new);
            descriptions.finish(subject, number, &answer);
            answer
        }
        .boxed()
    }

    /// Keeps an answer, unless the object was forgotten since the question.
    fn finish(&self, subject: Subject, number: u64, answer: &Answer) {
        let mut state = self.state();
        if state.asked.get(&subject).is_none_or(|asked| asked.number != number) {
            return;
        }

        state.asked.remove(&subject);
        match answer {
            Ok(object) => state.insert(subject, Arc::clone(object), self.bytes_max),
            Err(_) => state.remove(&subject),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Adds a description, and drops the oldest ones until all fit into `bytes_max`.
    fn insert(&mut self, subject: Subject, object: Arc<ObjectInfo>, bytes_max: usize) {
        self.remove(&subject);

        let bytes = memory_of(&subject, &object);
        let number = self.next_number();
        self.order.insert(number, subject.clone());
        self.known.insert(subject, Known { object, confirmed: Instant::now(), number, bytes });
        self.bytes += bytes;

        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, subject: &Subject) {
        if let Some(known) = self.known.remove(subject) {
            self.order.remove(&known.number);
            self.bytes -= known.bytes;
        }
    }
}

/// Returns a description that was kept for this long. A version that a cache could not confirm has become older meanwhile.
fn aged(object: &Arc<ObjectInfo>, age: Duration) -> Arc<ObjectInfo> {
    let Some(stale_s) = object.stale_s.filter(|_| age.as_secs() > 0) else { return Arc::clone(object) };
    let mut object = ObjectInfo::clone(object);
    object.stale_s = Some(stale_s.saturating_add(age.as_secs()));
    Arc::new(object)
}

/// Returns about how much memory a description takes, in bytes.
fn memory_of(subject: &Subject, object: &ObjectInfo) -> usize {
    let metadata = object.metadata.iter().chain(&object.headers);
    let metadata: usize = metadata.map(|(name, value)| name.len() + value.len() + 64).sum();
    let checksums = [&object.checksum, &object.other_checksum];
    let parts: usize = checksums.into_iter().flatten().map(|checksum| checksum.parts.len()).sum();
    let texts = [&object.content_type, &object.version_id, &object.last_modified, &subject.version_id];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();

    // The key is in the description, and twice in the tables.
    OVERHEAD_BYTES
        + metadata
        + parts * size_of::<PartRun>()
        + texts
        + object.etag.len()
        + 3 * subject.key.as_str().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(key: &str) -> Subject {
        Subject { store: "s".parse().unwrap(), key: key.parse().unwrap(), version_id: None }
    }

    fn object(key: &str, etag: &str) -> ObjectInfo {
        ObjectInfo::new(key.parse().unwrap(), 1, etag.to_owned())
    }

    fn descriptions(bytes_max: usize) -> Arc<Descriptions> {
        Arc::new(Descriptions::new(Duration::from_secs(2), bytes_max, Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn descriptions_expire() {
        let descriptions = descriptions(1 << 20);

        descriptions.confirm(subject("k"), &object("k", "1"));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(descriptions.known(&subject("k")).is_some());

        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(descriptions.known(&subject("k")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_a_version_that_could_not_be_confirmed_grows() {
        let descriptions = Arc::new(Descriptions::new(Duration::from_secs(60), 1 << 20, Arc::default()));
        let known = || descriptions.known(&subject("k")).unwrap().stale_s;
        let mut stale = object("k", "1");
        stale.stale_s = Some(100);

        descriptions.confirm(subject("k"), &stale);
        assert_eq!(known(), Some(100));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(known(), Some(107));

        // A transfer states the age of its own moment, or that the version is current.
        stale.stale_s = Some(110);
        descriptions.confirm(subject("k"), &stale);
        assert_eq!(known(), Some(110));
        descriptions.confirm(subject("k"), &object("k", "1"));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(known(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_oldest_leave_first() {
        let descriptions = descriptions(100 * 1024);

        for number in 0..1000 {
            let key = format!("{number}");
            let mut object = object(&key, "1");
            object.metadata.insert("m".to_owned(), "x".repeat(1000));
            descriptions.confirm(subject(&key), &object);
        }

        let state = descriptions.state();
        assert!(state.bytes <= 100 * 1024 && state.known.len() > 50, "{} {}", state.bytes, state.known.len());
        assert_eq!(state.known.len(), state.order.len());
        assert!(state.known.contains_key(&subject("999")) && !state.known.contains_key(&subject("0")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_a_change_is_not_kept() {
        let descriptions = descriptions(1 << 20);
        let (answer, answered) = tokio::sync::oneshot::channel();

        let asking = descriptions.join_or_ask(&subject("k"), || async { answered.await.unwrap() }.boxed());
        descriptions.forget(&subject("k"));
        answer.send(Ok(object("k", "old"))).unwrap();

        assert_eq!(asking.await.unwrap().etag, "old");
        assert!(descriptions.known(&subject("k")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_questions_leave_nothing_behind() {
        let descriptions = descriptions(1 << 20);

        for number in 0..100 {
            let subject = subject(&format!("{number}"));
            drop(descriptions.join_or_ask(&subject, || std::future::pending().boxed()));
        }

        assert!(descriptions.state().asked.len() <= 1);
    }
}
