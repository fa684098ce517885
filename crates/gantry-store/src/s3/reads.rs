//! Single requests for one object: its bytes, a range of them, its description.

use std::ops::Range;
use std::sync::atomic::Ordering;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;

use super::bucket::Bucket;
use super::failure::{Cure, Failure};
use super::object;
use super::observe::observed;
use super::witness::Witness;
use crate::Error;
use crate::ranged::Retry;
use gantry_proto::{Key, ObjectInfo, Pin};

/// The head of an answer to a GET, and its body.
pub(super) struct Answer {
    /// The version that the body belongs to. It has a checksum only if the whole object was requested.
    pub(super) object: ObjectInfo,
    /// The bytes that the body must yield. The end is exclusive.
    pub(super) range: Range<u64>,
    pub(super) body: ByteStream,
}

impl Bucket {
    /// Requests a whole object, and the checksum that is stored with it, once.
    pub(super) async fn get_whole(&self, client: &Client, key: &Key, pin: &Pin) -> Result<Answer, Failure> {
        let asked = async {
            let what = self.what(key);
            let witness = Witness::with_checksum();
            let request = client
                .get_object()
                .bucket(self.name())
                .key(self.full(key))
                .set_if_match(pin.if_match.as_deref().map(object::quoted))
                .set_version_id(pin.version_id.clone())
                .customize()
                .interceptor(witness.clone())
                .send();

            let output = Box::pin(request).await.map_err(|error| Failure::of(&error, &what))?;
            self.vouch(client, &witness, &what).await?;

            let object = object::of_whole(key, pin, &output, &what).map_err(Failure::is_final)?;
            Ok(Answer { range: 0..object.size, object, body: output.body })
        };
        observed(self.observer(), "get", asked).await
    }

    /// Requests a range once. The end is exclusive; `None` is the object's end.
    pub(super) async fn get_range(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        (start, end): (u64, Option<u64>),
    ) -> Result<Answer, Failure> {
        let asked = async {
            let what = self.what(key);
            let witness = Witness::default();
            let last = end.map_or_else(String::new, |end| (end - 1).to_string());
            let request = client
                .get_object()
                .bucket(self.name())
                .key(self.full(key))
                .set_if_match(pin.if_match.as_deref().map(object::quoted))
                .set_version_id(pin.version_id.clone())
                .range(format!("bytes={start}-{last}"))
                .customize()
                .interceptor(witness.clone())
                .send();

            let output = Box::pin(request).await.map_err(|error| Failure::of(&error, &what))?;
            self.vouch(client, &witness, &what).await?;

            if output.content_range().is_none() && output.content_length() == Some(0) {
                // Some stores answer so for an empty object. Others report an invalid range.
                let error = Error::Protocol(format!("{what}: S3 sends no bytes for a range"));
                return Err(Failure { error, retry: Retry::AfterCure(Cure::Size) });
            }
            self.ignores_ranges.store(output.content_range().is_none(), Ordering::Relaxed);

            let (object, range) = object::of_range(key, pin, (start, end), &output, &what).map_err(Failure::by_kind)?;
            Ok(Answer { object, range, body: output.body })
        };
        observed(self.observer(), "get", asked).await
    }

    /// Requests an object's description with its checksum, once.
    ///
    /// The pinned `ETag` is compared here instead of being sent, because some stores reject their own `ETag` on a HEAD.
    pub(super) async fn head(&self, client: &Client, key: &Key, pin: &Pin) -> Result<ObjectInfo, Failure> {
        let asked = async {
            let what = self.what(key);
            let witness = Witness::default();
            let request = client
                .head_object()
                .bucket(self.name())
                .key(self.full(key))
                .set_version_id(pin.version_id.clone())
                .checksum_mode(ChecksumMode::Enabled)
                .customize()
                .interceptor(witness.clone())
                .send();

            let output = Box::pin(request).await.map_err(|error| Failure::of(&error, &what))?;
            self.vouch(client, &witness, &what).await?;

            object::of_head(key, pin, &output, &what).map_err(Failure::is_final)
        };
        observed(self.observer(), "head", asked).await
    }
}
