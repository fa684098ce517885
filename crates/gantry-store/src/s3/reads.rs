//! Single requests for one object: its bytes, a range of them, its description.

use std::ops::Range;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;

use super::bucket::Bucket;
use super::coding::{Accepted, is_gzip};
use super::failure::{Asked, Cure, Failure, Subject};
use super::object;
use super::observe::observed;
use super::versions::is_refusal;
use super::witness::Witness;
use crate::Error;
use crate::headers::quoted;
use crate::ranged::{About, Retry};
use gantry_proto::{Key, ObjectInfo, Pin};

/// The head of an answer to a GET, and its body.
pub(super) struct Answer {
    /// The version that the body belongs to. It has a checksum only if the whole object was requested.
    pub(super) object: ObjectInfo,
    /// The bytes that the body must yield. The end is exclusive.
    pub(super) range: Range<u64>,
    pub(super) body: ByteStream,
}

/// The requested part of an object.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// All, and the checksum that is stored with the object.
    Whole,
    /// A range. The end is exclusive; `None` is the object's end.
    Range { start: u64, end: Option<u64> },
    /// A range of a version that was described before.
    Continued { start: u64, end: u64 },
}

impl Part {
    /// Returns the range, or `None` for the whole object.
    const fn span(self) -> Option<(u64, Option<u64>)> {
        match self {
            Self::Whole => None,
            Self::Range { start, end } => Some((start, end)),
            Self::Continued { start, end } => Some((start, Some(end))),
        }
    }

    /// Returns the value of the header `Range`, whose end is inclusive.
    fn header(self) -> Option<String> {
        let (start, end) = self.span()?;
        let last = end.map_or_else(String::new, |end| (end - 1).to_string());
        Some(format!("bytes={start}-{last}"))
    }
}

/// An object, and whether it is stored compressed.
struct Described {
    object: ObjectInfo,
    is_gzip: bool,
}

/// Returns the error for a range that S3 describes, but does not send. SeaweedFS was seen to answer so for a moment.
pub(super) fn contradicted(error: &Error) -> Error {
    Error::unavailable(error.to_string())
}

impl Bucket {
    /// Requests a whole object, and the checksum that is stored with it, once.
    pub(super) async fn get_whole(&self, client: &Client, key: &Key, pin: &Pin) -> Result<Answer, Failure> {
        self.get_part(client, key, pin, Part::Whole).await
    }

    /// Requests a range once. The end is exclusive; `None` is the object's end.
    pub(super) async fn get_range(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        (start, end): (u64, Option<u64>),
    ) -> Result<Answer, Failure> {
        self.get_part(client, key, pin, Part::Range { start, end }).await
    }

    /// Requests a range of a version that was described before, once.
    pub(super) async fn get_more(
        &self,
        client: &Client,
        object: &ObjectInfo,
        Range { start, end }: Range<u64>,
    ) -> Result<Answer, Failure> {
        let answer = match self.get_part(client, &object.key, &object.pin(), Part::Continued { start, end }).await {
            Err(Failure { retry: Retry::AfterCure(Cure::Size), error }) => {
                return Err(Failure::by_kind(contradicted(&error)));
            }
            answer => answer?,
        };
        if answer.object.size != object.size {
            let error = Error::Changed(format!("{}: has another size", self.what(&object.key)));
            return Err(Failure::is_final(error));
        }
        Ok(answer)
    }

    async fn get_part(&self, client: &Client, key: &Key, pin: &Pin, part: Part) -> Result<Answer, Failure> {
        let named = self.versions().named(pin);
        match self.get_once(client, key, pin, named, part).await {
            Err(refusal) if named.is_some() && is_refusal(&refusal) => {
                let unnamed = Box::pin(self.get_once(client, key, pin, None, part)).await;
                self.versions().decide(pin, refusal, unnamed)
            }
            answer => answer,
        }
    }

    async fn get_once(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        version: Option<&str>,
        part: Part,
    ) -> Result<Answer, Failure> {
        let asked = async {
            let what = self.what(key);
            let asks_for_checksum = matches!(part, Part::Whole);
            let witness = Witness::new(self.accepting().now()).asking_for_checksum(asks_for_checksum);

            let request = client
                .get_object()
                .bucket(self.name())
                .key(self.full(key))
                .set_if_match(pin.if_match.as_deref().map(quoted))
                .set_version_id(version.map(str::to_owned))
                .set_request_payer(self.payer())
                .set_range(part.header())
                .customize()
                .interceptor(witness.clone())
                .send();

            let asked = self.asked(&what, pin, version, false);
            let output = Box::pin(request).await.map_err(|error| Failure::of(&error, asked))?;
            self.vouch(client, &witness, &what).await?;
            self.answer(client, key, pin, part, &witness, output).await
        };
        observed(self.observer(), "get", asked).await
    }

    /// Reads the head of an answer to a GET.
    async fn answer(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        part: Part,
        witness: &Witness,
        output: GetObjectOutput,
    ) -> Result<Answer, Failure> {
        let what = self.what(key);

        let Some(asked) = part.span() else {
            let object = match self.confirmed(client, key, pin, witness, &output).await? {
                Some(described) => described,
                None => object::of_whole(key, pin, &output, &what).map_err(Failure::is_final)?,
            };
            return Ok(Answer { range: 0..object.size, object, body: output.body });
        };

        if output.content_range().is_none() && output.content_length() == Some(0) {
            // Some stores answer so for an empty object. Others report an invalid range.
            let error = Error::Protocol(format!("{what}: S3 sends no bytes for a range"));
            return Err(Failure { error, retry: Retry::AfterCure(Cure::Size) });
        }
        if !matches!(part, Part::Continued { .. }) {
            self.confirmed(client, key, pin, witness, &output).await?;
        }
        self.note_ranges(output.content_range().is_some());

        let (object, range) = object::of_range(key, pin, asked, &output, &what).map_err(Failure::by_kind)?;
        Ok(Answer { object, range, body: output.body })
    }

    /// Checks that the body of an answer is the stored one, and returns the object's description if it had to be
    /// requested. The answer itself is sufficient if it states the object's size and is not compressed.
    async fn confirmed(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        witness: &Witness,
        output: &GetObjectOutput,
    ) -> Result<Option<ObjectInfo>, Failure> {
        let is_sent_gzip = is_gzip(output.content_encoding());
        let has_size = output.content_length().is_some() || output.content_range().is_some();
        let changed = || {
            let error = Error::Protocol(format!("{}: S3 sends the object in another encoding", self.what(key)));
            Err(Failure { error, retry: Retry::AfterCure(Cure::Coding(witness.accepted())) })
        };

        match witness.is_stored_gzip() {
            Some(is_stored_gzip) if is_stored_gzip != is_sent_gzip => return changed(),
            Some(_) if has_size => return Ok(None),
            None if has_size && !is_sent_gzip => return Ok(None),
            Some(_) | None => {}
        }

        // In a box, as is every rare request: otherwise the future of each GET would contain it, and be moved with it.
        let described = match Box::pin(self.describe_once(client, key, pin)).await {
            // A policy may permit only GET.
            Err(Failure { error: Error::Denied(_) | Error::Invalid(_), .. }) if has_size => return Ok(None),
            described => described?,
        };

        if described.is_gzip != is_sent_gzip {
            return changed();
        }
        if output.e_tag().map(quoted).as_ref() != Some(&described.object.etag) {
            return Err(Failure::passing(format!("{}: was replaced while it was requested", self.what(key))));
        }
        Ok(Some(described.object))
    }

    /// Requests an object's description with its checksum, once.
    ///
    /// The pinned `ETag` is compared here instead of being sent, because some stores reject their own `ETag` on a HEAD.
    pub(super) async fn head(&self, client: &Client, key: &Key, pin: &Pin) -> Result<ObjectInfo, Failure> {
        Ok(self.describe_once(client, key, pin).await?.object)
    }

    async fn describe_once(&self, client: &Client, key: &Key, pin: &Pin) -> Result<Described, Failure> {
        let named = self.versions().named(pin);
        match self.head_once(client, key, pin, named).await {
            Err(refusal) if named.is_some() && is_refusal(&refusal) => {
                let unnamed = self.head_once(client, key, pin, None).await;
                self.versions().decide(pin, refusal, unnamed)
            }
            described => described,
        }
    }

    async fn head_once(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        version: Option<&str>,
    ) -> Result<Described, Failure> {
        let (mut output, mut witness) = self.send_head(client, key, pin, version, Accepted::Identity).await?;

        // A server that decompresses the object describes the decompressed form.
        let is_changed = witness.is_stored_gzip().is_some_and(|stored| stored != is_gzip(output.content_encoding()));
        if is_changed || output.content_length().is_none() {
            (output, witness) = self.send_head(client, key, pin, version, Accepted::Gzip).await?;
        }

        let is_gzip = witness.is_stored_gzip().unwrap_or_else(|| is_gzip(output.content_encoding()));
        let object = object::of_head(key, pin, &output, &self.what(key)).map_err(Failure::is_final)?;
        Ok(Described { object, is_gzip })
    }

    async fn send_head(
        &self,
        client: &Client,
        key: &Key,
        pin: &Pin,
        version: Option<&str>,
        accepted: Accepted,
    ) -> Result<(HeadObjectOutput, Witness), Failure> {
        let asked = async {
            let what = self.what(key);
            let witness = Witness::new(accepted);

            let request = client
                .head_object()
                .bucket(self.name())
                .key(self.full(key))
                .set_version_id(version.map(str::to_owned))
                .set_request_payer(self.payer())
                .checksum_mode(ChecksumMode::Enabled)
                .customize()
                .interceptor(witness.clone())
                .send();

            let asked = self.asked(&what, pin, version, true);
            let output = Box::pin(request).await.map_err(|error| Failure::of(&error, asked))?;
            self.vouch(client, &witness, &what).await?;
            Ok((output, witness))
        };
        observed(self.observer(), "head", asked).await
    }

    /// Requests an object's description once. If S3 refuses, a GET requests the reason, which an answer to a HEAD can't
    /// contain: whether the object, its version or the bucket is missing, or what is wrong with the request.
    pub(super) async fn head_or_reason(&self, client: &Client, key: &Key, pin: &Pin) -> Result<ObjectInfo, Failure> {
        let failure = match self.head(client, key, pin).await {
            Err(failure) if matches!(failure.error, Error::NotFound(_) | Error::Invalid(_)) => failure,
            described => return described,
        };

        match self.get_range(client, key, pin, (0, Some(1))).await {
            Err(Failure { retry: Retry::AfterCure(Cure::Size), .. }) | Ok(_) => Err(failure),
            Err(reason) => Err(reason),
        }
    }

    /// Describes a request for an object to [`Failure::of`].
    pub(super) fn asked<'a>(&'a self, about: &'a About, pin: &Pin, version: Option<&str>, is_head: bool) -> Asked<'a> {
        let is_pinned = pin.if_match.is_some();
        let subject = Subject::Object { is_pinned, has_version: version.is_some(), is_head };
        self.asked_for(about, subject)
    }
}
