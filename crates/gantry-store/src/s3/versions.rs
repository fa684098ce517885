//! Decides whether requests may name a version.
//!
//! Naming one requires a permission of its own (`s3:GetObjectVersion`). Without it, a request is for the current version,
//! which must be the wanted one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Cure, Failure};
use crate::Error;
use crate::ranged::Retry;
use gantry_proto::Pin;

/// How long a refusal is remembered. The permission may be granted in the meantime.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Remembers that naming a version was refused.
#[derive(Debug, Default)]
pub(super) struct Versions {
    refused_at: Mutex<Option<Instant>>,
}

impl Versions {
    /// Returns the version to name in a request. Without an `ETag`, only the name identifies it.
    pub(super) fn named<'a>(&self, pin: &'a Pin) -> Option<&'a str> {
        let refused_at = *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refused = refused_at.is_some_and(|at| at.elapsed() < REMEMBERED_FOR);

        if is_refused && pin.if_match.is_some() { None } else { pin.version_id.as_deref() }
    }

    /// Decides between the refusal of a request that names a version, and the result of the same request without it.
    pub(super) fn decide<T>(&self, pin: &Pin, refusal: Failure, unnamed: Result<T, Failure>) -> Result<T, Failure> {
        match unnamed {
            Ok(answer) => {
                tracing::debug!("requests may not name a version: s3:GetObjectVersion is not permitted");
                *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                Ok(answer)
            }
            // Another version is current.
            Err(failure) if pin.if_match.is_some() && matches!(failure.error, Error::Changed(_)) => Err(failure),
            Err(_) => Err(refusal),
        }
    }
}

/// Returns whether a failure may mean that the permission to name a version is missing.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure { error: Error::Denied(_), retry: Retry::AfterCure(Cure::OtherKey) })
}
