//! The sizes of an object's upload parts, which are required to verify a composite checksum.
//!
//! They are requested from S3, never inferred from the size of one part: with a wrong guess, correct bytes would fail the
//! check. If they are not known in time, the checksum is passed on without them, and can't be verified.
//!
//! Only opening an object requests them, once for each version. `SEMANTICS.md`, "Known limitations", states the cost.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::ObjectAttributes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::bucket::Bucket;
use super::failure::Failure;
use super::observe::observed;
use crate::headers::quoted;
use crate::ranged::Ranged as _;
use gantry_proto::{Checksum, ChecksumKind, ObjectInfo, PartRun};

/// Maximum time that a transfer waits for the sizes.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of parts whose sizes are requested one by one.
const HEADS_MAX: u32 = 64;

/// Maximum number of such requests at once.
const HEADS_CONCURRENCY: usize = 8;

/// Maximum number of pages. An upload has at most 10,000 parts, and a page has 1000. Source: S3's limits.
const PAGES_MAX: usize = 10;

/// Maximum number of runs of equal sizes. A longer description would not fit into a message.
const RUNS_MAX: usize = 256;

/// Maximum number of objects that are looked up at once. One request of a consumer can cost S3 up to 74 requests here.
const LOOKUPS_MAX: usize = 4;

/// Maximum duration of a lookup, also if no transfer waits for it any more. Its result serves the next one.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of objects whose sizes are cached. Each takes 7 KiB at most.
const REMEMBERED_MAX: usize = 256;

/// How long a failed lookup is cached.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The known sizes, and the lookups in progress.
#[derive(Debug)]
pub(super) struct Parts {
    known: Mutex<Known>,
    turns: Semaphore,
}

#[derive(Debug, Default)]
struct Known {
    by_version: HashMap<Version, Lookup>,
    /// In the order of their first lookup.
    order: VecDeque<Version>,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Version {
    key: String,
    etag: String,
    version_id: Option<String>,
}

#[derive(Clone, Debug)]
struct Lookup {
    /// The sizes, or `None` if the lookup failed.
    runs: Arc<OnceCell<Option<Vec<PartRun>>>>,
    begun: Instant,
}

impl Default for Parts {
    fn default() -> Self {
        Self { known: Mutex::default(), turns: Semaphore::new(LOOKUPS_MAX) }
    }
}

impl Version {
    fn of(object: &ObjectInfo) -> Self {
        Self { key: object.key.as_str().to_owned(), etag: object.etag.clone(), version_id: object.version_id.clone() }
    }
}

impl Parts {
    /// Adds the part sizes to an object's composite checksum if they are known. Makes no request.
    pub(super) fn recall(&self, object: &mut ObjectInfo) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let lookup = known.by_version.get(&Version::of(object));
        let runs = lookup.and_then(|lookup| lookup.runs.get().cloned().flatten());

        if let (Some(runs), Some(checksum)) = (runs, composite(object)) {
            checksum.parts = runs;
        }
    }

    /// Returns the lookup for an object, which may be finished, in progress or not started.
    fn lookup(&self, object: &ObjectInfo) -> Arc<OnceCell<Option<Vec<PartRun>>>> {
        let version = Version::of(object);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = known.by_version.get(&version) {
            let has_failed = lookup.runs.get().is_some_and(Option::is_none);
            if !has_failed || lookup.begun.elapsed() < FORGET_AFTER {
                return Arc::clone(&lookup.runs);
            }
        }

        let runs = Arc::new(OnceCell::new());
        let lookup = Lookup { runs: Arc::clone(&runs), begun: Instant::now() };
        if known.by_version.insert(version.clone(), lookup).is_none() {
            known.order.push_back(version);
        }

        if known.order.len() > REMEMBERED_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_version.remove(&oldest);
        }
        runs
    }
}

/// Adds the part sizes to an object's composite checksum, if it has one, and requests them if they are unknown.
pub(super) async fn learn(parts: &Arc<Parts>, bucket: &Arc<Bucket>, object: &mut ObjectInfo) {
    if composite(object).is_none() {
        return;
    }

    let (parts, bucket, asked) = (Arc::clone(parts), Arc::clone(bucket), object.clone());
    let lookup = parts.lookup(object);
    // A separate task: a consumer that leaves at once must not cause the same requests again.
    let task = tokio::spawn(
        async move { lookup.get_or_init(|| look_up(&parts, &bucket, &asked)).await.clone() }.in_current_span(),
    );

    let runs = timeout(LOOKUP_TIMEOUT, task).await.ok().and_then(Result::ok).flatten();
    match (runs, composite(object)) {
        (Some(runs), Some(checksum)) => checksum.parts = runs,
        _ => tracing::debug!("the part sizes of an object with a composite checksum are unknown"),
    }
}

fn composite(object: &mut ObjectInfo) -> Option<&mut Checksum> {
    object.checksum.as_mut().filter(|checksum| checksum.kind == ChecksumKind::Composite)
}

async fn look_up(parts: &Parts, bucket: &Bucket, object: &ObjectInfo) -> Option<Vec<PartRun>> {
    let _turn = parts.turns.acquire().await.ok()?;
    let client = bucket.client();

    let lookup = async {
        match attributes(bucket, &client, object).await {
            Some(sizes) => Some(sizes),
            None => one_by_one(bucket, &client, object).await,
        }
    };

    let sizes = timeout(LOOKUP_LIMIT, Box::pin(lookup)).await.ok().flatten()?;
    runs(&sizes, object.size)
}

/// Requests all sizes at once. AWS answers if reading attributes is permitted. Few other servers know this request.
async fn attributes(bucket: &Bucket, client: &Client, object: &ObjectInfo) -> Option<Vec<u64>> {
    let mut sizes = Vec::new();
    let mut marker = None;
    let (what, pin) = (bucket.what(&object.key), object.pin());
    let version = bucket.versions().named(&pin);

    for _ in 0..PAGES_MAX {
        let request = client
            .get_object_attributes()
            .bucket(bucket.name())
            .key(bucket.full(&object.key))
            .set_version_id(version.map(str::to_owned))
            .set_request_payer(bucket.payer())
            .object_attributes(ObjectAttributes::Etag)
            .object_attributes(ObjectAttributes::ObjectParts)
            .set_part_number_marker(marker)
            .send();

        let asked = bucket.asked(&what, &pin, version, false);
        let sent = async { Box::pin(request).await.map_err(|error| Failure::of(&error, asked)) };
        let output = observed(bucket.observer(), "attributes", sent).await.ok()?;
        // This answer contains the ETag without its quotes.
        if quoted(output.e_tag()?) != object.etag {
            return None;
        }

        let page = output.object_parts()?;
        for part in page.parts() {
            sizes.push(u64::try_from(part.size()?).ok()?);
        }

        if page.is_truncated() != Some(true) {
            return (!sizes.is_empty()).then_some(sizes);
        }
        marker = Some(page.next_part_number_marker()?.to_owned());
    }
    None
}

/// Requests each part's size. There is no `If-Match`, which several stores reject here; the `ETag` is compared.
async fn one_by_one(bucket: &Bucket, client: &Client, object: &ObjectInfo) -> Option<Vec<u64>> {
    let (what, pin) = (bucket.what(&object.key), object.pin());
    let version = bucket.versions().named(&pin);
    let part = async |number: u32| {
        let request = client
            .head_object()
            .bucket(bucket.name())
            .key(bucket.full(&object.key))
            .set_version_id(version.map(str::to_owned))
            .set_request_payer(bucket.payer())
            .part_number(i32::try_from(number).ok()?)
            .send();

        let asked = bucket.asked(&what, &pin, version, true);
        let sent = async { Box::pin(request).await.map_err(|error| Failure::of(&error, asked)) };
        let output = observed(bucket.observer(), "part", sent).await.ok()?;
        let size = u64::try_from(output.content_length()?).ok()?;
        (quoted(output.e_tag()?) == object.etag).then_some((size, output.parts_count()))
    };

    let (first, count) = part(1).await?;
    let count = u32::try_from(count?).ok().filter(|count| *count <= HEADS_MAX)?;

    let mut sizes = vec![first];
    let others: Vec<_> = (2..=count).map(part).collect();
    let mut others = stream::iter(others).buffered(HEADS_CONCURRENCY).map(|part| part.ok_or(()));
    while let Some((size, _)) = others.try_next().await.ok()? {
        sizes.push(size);
    }
    Some(sizes)
}

/// Encodes the sizes by run length. Returns `None` if they do not add up to the object's size, or are too many runs.
fn runs(sizes: &[u64], total: u64) -> Option<Vec<PartRun>> {
    let mut runs: Vec<PartRun> = Vec::new();
    let mut sum = 0_u64;
    for &size in sizes {
        sum = sum.checked_add(size)?;
        match runs.last_mut() {
            Some(run) if run.size == size => run.count += 1,
            _ => runs.push(PartRun { count: 1, size }),
        }
    }
    (sum == total && runs.len() <= RUNS_MAX).then_some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_used_only_if_they_add_up() {
        let run = |count, size| PartRun { count, size };
        assert_eq!(runs(&[5, 5, 5, 2], 17), Some(vec![run(3, 5), run(1, 2)]));
        assert_eq!(runs(&[5, 5, 5, 2], 18), None);
        assert_eq!(runs(&[u64::MAX, 1], 0), None);
        assert_eq!(runs(&(0..=256).collect::<Vec<_>>(), 257 * 128), None);
    }
}
