//! A bucket or container with a prefix, and the cures for failures of its requests.

use std::error::Error as StdError;
use std::ops::Range;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use object_store::client::HttpRequestBody;

use super::credentials::outage;
use super::failure::{Cure, Failure};
use super::{Cloud, without_credentials};
use crate::connections::{Connections, Pool};
use crate::ranged::{About, Limits, Ranged, Retry};
use crate::{Error, Observer};
use gantry_proto::ObjectInfo;

/// A bucket or container with a prefix.
#[derive(Debug)]
pub(crate) struct Bucket<C> {
    pub(super) cloud: C,
    pub(super) prefix: String,
    pub(super) limits: Limits,
    pub(super) observer: Observer,
    pub(super) pool: Pool<HttpRequestBody>,
}

impl<C: Cloud> Bucket<C> {
    /// # Errors
    /// [`Error::Invalid`] if a limit is 0.
    pub(crate) fn new(
        cloud: C,
        prefix: String,
        limits: Limits,
        observer: Observer,
        connections: &Connections,
    ) -> Result<Self, Error> {
        if limits.range_bytes == 0 || limits.concurrency_max == 0 || limits.attempts_max == 0 {
            return Err(Error::Invalid("range size, concurrency and attempts must be at least 1".to_owned()));
        }
        let pool = connections.pool(limits.connect_timeout);
        Ok(Self { cloud, prefix, limits, observer, pool })
    }
}

/// Whether fresh credentials have not been tried yet for one request.
#[derive(Debug)]
pub(crate) struct Cures {
    credentials: bool,
}

impl Default for Cures {
    fn default() -> Self {
        Self { credentials: true }
    }
}

impl<C: Cloud> Ranged for Bucket<C> {
    const NAME: &'static str = C::NAME;

    /// The number of the credentials.
    type Client = u64;
    type Body = Incoming;
    type Cure = Cure;
    type Cures = Cures;

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn client(&self) -> u64 {
        self.cloud.credentials()
    }

    fn takes_ranges(&self) -> bool {
        true
    }

    async fn get(&self, _: &u64, object: &ObjectInfo, range: Range<u64>) -> Result<Incoming, Failure> {
        self.get_more(object, range).await
    }

    fn silence(&self, about: &About) -> Failure {
        match self.cloud.awaits() {
            None => Failure::passing(format!("{about}: {} did not answer in time", C::NAME)),
            Some(service) => Failure::by_kind(outage(C::NAME, about, &format!("{service} did not answer in time"))),
        }
    }

    async fn next(body: &mut Incoming) -> Option<Result<Bytes, Box<dyn StdError + Send + Sync>>> {
        loop {
            match body.frame().await? {
                Ok(frame) => {
                    if let Ok(piece) = frame.into_data() {
                        return Some(Ok(piece));
                    }
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    async fn cure(&self, used: &u64, left: &mut Cures, failure: Failure, about: &About) -> Result<Failure, Failure> {
        let Retry::AfterCure(cure) = &failure.retry else { return Err(failure) };
        if *cure == Cure::Size || !std::mem::take(&mut left.credentials) {
            return Err(failure);
        }

        match self.cloud.reload(*used, *cure == Cure::OtherKey) {
            Ok(true) => Ok(failure),
            Ok(false) => Err(failure),
            Err(error) => {
                let text = format!("the relay's credentials for {} can't be read", C::NAME);
                let message = about.with_cause(&text, &error.to_string());
                Err(Failure::is_final(without_credentials(message)))
            }
        }
    }
}
