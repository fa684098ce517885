//! Single requests to one bucket, and the cures for their failures.

use std::error::Error as StdError;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{EncodingType, RequestPayer};
use bytes::Bytes;
use tokio::time::Instant;

use super::client::Live;
use super::coding::Accepting;
use super::failure::{Asked, Cure, Failure, Subject};
use super::listing;
use super::mend::Mend;
use super::observe::{PROBE, observed};
use super::options::{Limits, Options};
use super::versions::Versions;
use super::witness::{Witness, is_listing};
use crate::position::Position;
use crate::ranged::{self, About, Ranged, Retry};
use crate::{Error, LIST_LIMIT_MAX, Observe, Observer};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo};

/// A bucket with a prefix.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    prefix: String,
    limits: Limits,
    observer: Observer,
    live: Live,
    requester_pays: bool,
    versions: Versions,
    accepting: Accepting,
    /// Whether S3 sent a whole object in answer to the latest request for a range.
    ignores_ranges: AtomicBool,
    /// When it was last confirmed that S3 answers at this address.
    vouched: Mutex<Option<Instant>>,
}

/// How long a confirmation is valid. A server that never identifies itself is asked this often.
const VOUCHED_FOR: Duration = Duration::from_secs(60);

impl Bucket {
    pub(super) async fn connect(options: Options) -> Result<Self, Error> {
        let (name, prefix, limits) = (options.bucket.clone(), options.prefix.clone(), options.limits.clone());
        let observer = Observer::clone(&options.observer);
        let requester_pays = options.requester_pays;
        let live = Live::connect(options).await?;
        Ok(Self {
            name,
            prefix,
            limits,
            observer,
            live,
            requester_pays,
            versions: Versions::default(),
            accepting: Accepting::default(),
            ignores_ranges: AtomicBool::new(false),
            vouched: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn observer(&self) -> &dyn Observe {
        &*self.observer
    }

    pub(super) const fn versions(&self) -> &Versions {
        &self.versions
    }

    pub(super) const fn accepting(&self) -> &Accepting {
        &self.accepting
    }

    /// Returns who pays for a request, if not the owner of the bucket.
    pub(super) fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Records whether S3 sent the range that was requested.
    pub(super) fn note_ranges(&self, is_honoured: bool) {
        self.ignores_ranges.store(!is_honoured, Ordering::Relaxed);
    }

    /// Names an object in messages to consumers.
    #[expect(clippy::unused_self, reason = "a counterpart to `what_bucket`")]
    pub(super) fn what(&self, key: &Key) -> About {
        ranged::about_key(key)
    }

    /// Names the bucket in messages to the operator.
    pub(super) fn what_bucket(&self) -> About {
        About::Operator(format!("bucket {:?}", self.name))
    }

    /// Returns the key under which S3 keeps the object.
    pub(super) fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Describes a request, to classify its failure.
    pub(super) fn asked_for<'a>(&'a self, about: &'a About, subject: Subject) -> Asked<'a> {
        Asked { about, subject, bucket: &self.name, outages: self.live.outages() }
    }

    fn asked_listing<'a>(&'a self, about: &'a About) -> Asked<'a> {
        self.asked_for(about, Subject::Listing)
    }

    /// Requests a page of keys once.
    pub(super) async fn list(&self, client: &Client, request: &ListRequest) -> Result<ListPage, Failure> {
        let asked = async {
            let what = About::Consumer("the listing".to_owned());
            let limit = request.limit.unwrap_or(LIST_LIMIT_MAX).clamp(1, LIST_LIMIT_MAX);
            let position = Position::of(request.token.as_deref());
            // A name that S3 folded stands for all keys that begin with it.
            let is_folded = |name: &str| !request.recursive && name.ends_with('/') && name != request.prefix;
            let is_after_folded = position.after().is_some_and(is_folded);

            let call = client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(format!("{}{}", self.prefix, request.prefix))
                .set_delimiter((!request.recursive).then(|| "/".to_owned()))
                .max_keys(i32::try_from(limit).unwrap_or(i32::MAX))
                .set_continuation_token(position.token().map(str::to_owned))
                .set_start_after(position.start_after(&self.prefix, is_after_folded))
                .encoding_type(EncodingType::Url)
                .set_request_payer(self.payer())
                .customize()
                .interceptor(Mend)
                .send();
            let asked = self.asked_listing(&what);
            let output = Box::pin(call).await.map_err(|error| Failure::of(&error, asked))?;

            let wanted = listing::wanted(&self.prefix, &position, limit as usize, self.lists_in_order());
            listing::page(&output, wanted, &what).map_err(Failure::is_final)
        };
        observed(&*self.observer, "list", asked).await
    }

    /// Returns whether a page can begin after any name. Directory buckets of AWS list names in no order.
    pub(super) fn lists_in_order(&self) -> bool {
        !self.name.ends_with("--x-s3")
    }

    /// Sends one request that requires no object, only permission to list or to read.
    pub(super) async fn probe(&self, client: &Client) -> Result<(), Failure> {
        observed(&*self.observer, PROBE, self.sign_of_life(client, &self.what_bucket(), true)).await
    }

    /// Sends one request that requires permission to list.
    pub(super) async fn probe_listing(&self, client: &Client) -> Result<(), Failure> {
        observed(&*self.observer, PROBE, self.sign_of_life(client, &self.what_bucket(), false)).await
    }

    /// Requests a listing, and accepts it whatever keys it contains: a user who may put an object must not be able to
    /// make the store unusable for others.
    async fn sign_of_life(&self, client: &Client, what: &About, accepts_denial: bool) -> Result<(), Failure> {
        let request = client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(&self.prefix)
            .max_keys(1)
            .encoding_type(EncodingType::Url)
            .set_request_payer(self.payer())
            .send();

        match Box::pin(request).await {
            Ok(_) => Ok(()),
            // S3 knows the credentials. Permission to list is not required for reading.
            Err(error) if accepts_denial && error.code() == Some("AccessDenied") => Ok(()),
            Err(SdkError::ServiceError(error))
                if error.raw().status().is_success() && error.raw().body().bytes().is_some_and(is_listing) =>
            {
                Ok(())
            }
            Err(error) => Err(Failure::of(&error, self.asked_listing(what))),
        }
    }

    /// Checks that an answer that looks like a web page comes from S3.
    pub(super) async fn vouch(&self, client: &Client, witness: &Witness, what: &About) -> Result<(), Failure> {
        let vouched = *self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        if !witness.doubts() || vouched.is_some_and(|at| at.elapsed() < VOUCHED_FOR) {
            return Ok(());
        }

        Box::pin(self.sign_of_life(client, what, true)).await?;
        *self.vouched.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// Repeats `request` while another attempt makes sense and the retry budget lasts.
    pub(super) async fn retry<T, F>(&self, what: &About, request: impl Fn(Arc<Client>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        ranged::retry(self, what, request).await
    }
}

impl Ranged for Bucket {
    const NAME: &'static str = "S3";

    type Client = Arc<Client>;
    type Body = ByteStream;
    type Cure = Cure;
    type Cures = Cures;

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn client(&self) -> Arc<Client> {
        self.live.client()
    }

    fn takes_ranges(&self) -> bool {
        !self.ignores_ranges.load(Ordering::Relaxed)
    }

    async fn get(&self, client: &Arc<Client>, object: &ObjectInfo, range: Range<u64>) -> Result<ByteStream, Failure> {
        Ok(self.get_more(client, object, range).await?.body)
    }

    fn silence(&self, about: &About) -> Failure {
        match self.live.outages().current() {
            None => Failure::passing(format!("{about}: S3 did not answer in time")),
            Some(outage) => Failure::outage(about, &outage),
        }
    }

    async fn next(body: &mut ByteStream) -> Option<Result<Bytes, Box<dyn StdError + Send + Sync>>> {
        body.next().await.map(|piece| piece.map_err(Into::into))
    }

    async fn cure(
        &self,
        used: &Arc<Client>,
        left: &mut Cures,
        failure: Failure,
        about: &About,
    ) -> Result<Failure, Failure> {
        let Retry::AfterCure(cure) = &failure.retry else { return Err(failure) };

        match cure {
            Cure::Region(region) if left.take_region() => {
                self.live.move_to(region);
                Ok(failure)
            }
            // S3 redirects requests for a newly created bucket for a while.
            Cure::Region(_) if failure.error.is_retryable() => Ok(Failure { retry: Retry::Later, ..failure }),
            Cure::Coding(used) if left.take_coding() => {
                self.accepting.change_from(*used);
                Ok(failure)
            }
            Cure::OtherKey if !self.live.has_key_files() => Err(failure),
            Cure::Credentials | Cure::OtherKey if left.take_credentials() => match self.live.reload(used).await {
                Ok(true) => Ok(failure),
                Ok(false) => Err(failure),
                Err(error) => Err(Failure::unreadable_keys(about, &error)),
            },
            Cure::Region(_) | Cure::Coding(_) | Cure::Credentials | Cure::OtherKey | Cure::Size => Err(failure),
        }
    }
}

/// The cures that have not been tried yet for one request.
#[derive(Debug)]
pub(crate) struct Cures {
    region: bool,
    coding: bool,
    credentials: bool,
}

impl Default for Cures {
    fn default() -> Self {
        Self { region: true, coding: true, credentials: true }
    }
}

impl Cures {
    fn take_region(&mut self) -> bool {
        std::mem::take(&mut self.region)
    }

    fn take_coding(&mut self) -> bool {
        std::mem::take(&mut self.coding)
    }

    fn take_credentials(&mut self) -> bool {
        std::mem::take(&mut self.credentials)
    }
}
