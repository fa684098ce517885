//! What tests put into an account, which may be a real one.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Mutex;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

/// The names of the objects that tests have put.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<BTreeSet<String>>);

impl Written {
    /// Records an object that is about to be put.
    pub(super) fn add(&self, name: &str) {
        self.0.lock().unwrap().insert(name.to_owned());
    }

    /// Records that an object was deleted.
    pub(super) fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }

    /// Runs tests, then deletes each object, whatever has failed. `delete` must accept objects that do not exist.
    pub(super) async fn deleted_after(&self, tests: LocalBoxFuture<'_, ()>, delete: impl AsyncFn(&str)) {
        let passed = AssertUnwindSafe(tests).catch_unwind().await;

        let written = std::mem::take(&mut *self.0.lock().unwrap());
        let mut left = Vec::new();
        for name in written {
            if AssertUnwindSafe(Box::pin(delete(&name))).catch_unwind().await.is_err() {
                left.push(name);
            }
        }

        if let Err(panic) = passed {
            resume_unwind(panic);
        }
        assert!(left.is_empty(), "not deleted: {left:?}");
    }
}
