//! One request for the description of an object, for all that ask at about the same time.
//!
//! A description is never older than the request that it answers: only a request to the store that had not been sent
//! yet when a caller arrived answers that caller. So while one is in flight, all callers that arrive share the next one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::time::timeout;

use crate::{Error, Store};
use gantry_proto::{Key, ObjectInfo, Pin};

/// How long a request waits for the one before it. If the store takes longer to answer, it is asked this often.
const PATIENCE: Duration = Duration::from_millis(100);

type Answer = BoxFuture<'static, Result<Arc<ObjectInfo>, Error>>;

/// The object, the `ETag` and the version id that are asked for.
type Question = (Key, Option<String>, Option<String>);

/// The requests for descriptions that are waiting or in flight.
#[derive(Debug, Default)]
pub(crate) struct Descriptions(Mutex<HashMap<Question, Asked>>);

/// The last request for a description.
#[derive(Debug)]
struct Asked {
    answer: WeakShared<Answer>,
    /// Whether it may have been sent.
    is_sent: Arc<AtomicBool>,
}

impl Descriptions {
    /// Describes an object as it is now, or a moment later.
    ///
    /// # Errors
    /// Those of [`Store::stat`].
    ///
    /// # Cancel safety
    /// Other callers get their answer if the future is dropped before it is ready.
    pub(crate) async fn describe(
        &self,
        store: &Arc<dyn Store>,
        key: &Key,
        pin: &Pin,
    ) -> Result<Arc<ObjectInfo>, Error> {
        let question = (key.clone(), pin.if_match.clone(), pin.version_id.clone());
        let answer = self.ask(store, key, pin, &question);
        let _forgets = Forgets { descriptions: self, question: &question };
        answer.await
    }

    fn ask(&self, store: &Arc<dyn Store>, key: &Key, pin: &Pin, question: &Question) -> Shared<Answer> {
        let mut all = self.lock();
        let last = all.get(question).and_then(|asked| Some((asked.answer.upgrade()?, &asked.is_sent)));
        if let Some((answer, is_sent)) = &last
            && !is_sent.load(Ordering::SeqCst)
        {
            return answer.clone();
        }

        let previous = last.map(|(answer, _)| answer);
        let is_sent = Arc::new(AtomicBool::new(false));
        let (store, key, pin, sent) = (Arc::clone(store), key.clone(), pin.clone(), Arc::clone(&is_sent));
        let answer = async move {
            if let Some(previous) = previous {
                // Its answer belongs to callers that came before.
                drop(timeout(PATIENCE, previous).await);
            }
            sent.store(true, Ordering::SeqCst);
            store.stat(&key, &pin).await.map(Arc::new)
        };

        let answer = answer.boxed().shared();
        if let Some(weak) = answer.downgrade() {
            all.insert(question.clone(), Asked { answer: weak, is_sent });
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a request when its last caller has left.
struct Forgets<'a> {
    descriptions: &'a Descriptions,
    question: &'a Question,
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        let mut all = self.descriptions.lock();
        if all.get(self.question).is_some_and(|asked| asked.answer.upgrade().is_none()) {
            all.remove(self.question);
        }
    }
}

/// Returns whether two descriptions are of the same version.
///
/// The date is compared, too: on some servers, a copy of an object onto itself has the same `ETag` and other metadata.
pub(crate) fn is_same(one: &ObjectInfo, other: &ObjectInfo) -> bool {
    (&one.etag, &one.version_id, one.size, &one.last_modified)
        == (&other.etag, &other.version_id, other.size, &other.last_modified)
        && !one.contradicts(other)
}
