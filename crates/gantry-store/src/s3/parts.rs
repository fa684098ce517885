//! The sizes of the parts that an object was uploaded in, without which a composite checksum can't be checked.
//!
//! They are taken from the store only, never inferred from the size of one part: a wrong guess would call good bytes
//! wrong. Where they can't be had in time the checksum is handed on without them, and proves nothing.

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
use super::object;
use super::observe::observed;
use crate::ranged::Ranged as _;
use gantry_proto::{ChecksumKind, ObjectInfo, PartRun};

/// How long a transfer may wait for the sizes.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Beyond so many parts they are not asked for one by one.
const HEADS_MAX: u32 = 64;

/// How many are asked for at once.
const HEADS_CONCURRENCY: usize = 8;

/// An upload has at most 10,000 parts, and a page holds 1000.
const PAGES_MAX: usize = 10;

/// Beyond so many changes of size from part to part, the description would not fit into a message.
const RUNS_MAX: usize = 256;

/// How many objects are looked up at once. One request of a consumer costs S3 up to 65 here.
const LOOKUPS_MAX: usize = 4;

/// How long a lookup may take that nobody waits for any longer: its result serves the next one.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// For how many objects the sizes are remembered. Each takes 4 KiB at the most.
const REMEMBERED_MAX: usize = 256;

/// How long it is remembered that they can't be learned.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The sizes that are known, and the lookups under way.
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
    /// The sizes; `None` when they can't be learned.
    runs: Arc<OnceCell<Option<Vec<PartRun>>>>,
    begun: Instant,
}

impl Default for Parts {
    fn default() -> Self {
        Self { known: Mutex::default(), turns: Semaphore::new(LOOKUPS_MAX) }
    }
}

impl Parts {
    /// Returns the lookup for an object, which may be over, under way or yet to begin.
    fn lookup(&self, object: &ObjectInfo) -> Arc<OnceCell<Option<Vec<PartRun>>>> {
        let version = Version {
            key: object.key.as_str().to_owned(),
            etag: object.etag.clone(),
            version_id: object.version_id.clone(),
        };
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

/// Adds the part sizes to an object's composite checksum, if it has one and they can be learned.
pub(super) async fn learn(bucket: &Arc<Bucket>, object: &mut ObjectInfo) {
    if !object.checksum.as_ref().is_some_and(|checksum| checksum.kind == ChecksumKind::Composite) {
        return;
    }
    let lookup = bucket.parts().lookup(object);
    let asked = (Arc::clone(bucket), object.clone());
    // On a task of its own: a consumer that leaves at once must not be able to have the same requests made again.
    let task = tokio::spawn(
        async move {
            let (bucket, object) = asked;
            lookup.get_or_init(|| look_up(&bucket, &object)).await.clone()
        }
        .in_current_span(),
    );
    let runs = timeout(LOOKUP_TIMEOUT, task).await.ok().and_then(Result::ok).flatten();
    match (runs, &mut object.checksum) {
        (Some(runs), Some(checksum)) => checksum.parts = runs,
        _ => tracing::debug!("the part sizes of an object with a composite checksum can't be learned"),
    }
}

async fn look_up(bucket: &Bucket, object: &ObjectInfo) -> Option<Vec<PartRun>> {
    let _turn = bucket.parts().turns.acquire().await.ok()?;
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

/// Asks for all sizes at once. AWS answers to those who may read attributes; few others know the request.
async fn attributes(bucket: &Bucket, client: &Client, object: &ObjectInfo) -> Option<Vec<u64>> {
    let mut sizes = Vec::new();
    let mut marker = None;
    let what = bucket.what(&object.key);
    for _ in 0..PAGES_MAX {
        let request = client
            .get_object_attributes()
            .bucket(bucket.name())
            .key(bucket.full(&object.key))
            .set_version_id(object.version_id.clone())
            .object_attributes(ObjectAttributes::Etag)
            .object_attributes(ObjectAttributes::ObjectParts)
            .set_part_number_marker(marker)
            .send();
        let asked = async { Box::pin(request).await.map_err(|error| Failure::of(&error, &what)) };
        let output = observed(bucket.observer(), "attributes", asked).await.ok()?;
        // This answer has the ETag without its quotes.
        if object::quoted(output.e_tag()?) != object.etag {
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

/// Asks for each part. Without `If-Match`, which several stores refuse here; the `ETag` is compared.
async fn one_by_one(bucket: &Bucket, client: &Client, object: &ObjectInfo) -> Option<Vec<u64>> {
    let what = bucket.what(&object.key);
    let part = async |number: u32| {
        let request = client
            .head_object()
            .bucket(bucket.name())
            .key(bucket.full(&object.key))
            .set_version_id(object.version_id.clone())
            .part_number(i32::try_from(number).ok()?)
            .send();
        let asked = async { Box::pin(request).await.map_err(|error| Failure::of(&error, &what)) };
        let output = observed(bucket.observer(), "part", asked).await.ok()?;
        let size = u64::try_from(output.content_length()?).ok()?;
        (object::quoted(output.e_tag()?) == object.etag).then_some((size, output.parts_count()))
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

/// Codes the sizes by run length; `None` when they don't add up to the object or are too many.
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
    fn sizes_are_used_only_when_they_add_up() {
        let run = |count, size| PartRun { count, size };
        assert_eq!(runs(&[5, 5, 5, 2], 17), Some(vec![run(3, 5), run(1, 2)]));
        assert_eq!(runs(&[5, 5, 5, 2], 18), None);
        assert_eq!(runs(&[u64::MAX, 1], 0), None);
        assert_eq!(runs(&(0..=256).collect::<Vec<_>>(), 257 * 128), None);
    }
}
