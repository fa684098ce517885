//! Which parameters of a query the server understands.
//!
//! S3 selects most of its requests by a parameter. A client that asks for a bucket's policy or an object's tags must not
//! get a listing or the object instead, so what is unknown is refused rather than ignored.

use crate::fault::Fault;
use crate::target::{Place, Query};

/// What S3's `ListBuckets` has.
const OF_SERVICE: [&str; 3] = ["bucket-region", "max-buckets", "prefix"];

/// What S3's requests of a bucket and the index pages have.
const OF_STORE: [&str; 11] = [
    "continuation-token",
    "continue",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "list-type",
    "location",
    "marker",
    "max-keys",
    "prefix",
    "start-after",
];

/// What S3's requests of an object have, besides `response-*`.
const OF_OBJECT: [&str; 4] = ["attributes", "download", "partNumber", "versionId"];

/// What any request may have: signatures of version 2, and the name of the operation, which SDKs send.
const OF_ALL: [&str; 4] = ["AWSAccessKeyId", "Expires", "Signature", "x-id"];

/// Selects a request of S3 by its value, and not by its presence alone.
const SELECTS_BY_VALUE: &str = "uploadId";

/// Checks that the server understands all parameters.
///
/// Programs that do not speak S3 append parameters of their own to a URL, such as `?v=2`. These have a value and are
/// ignored, as by every web server. Without a value, a parameter has the form in which S3 selects a request.
///
/// # Errors
/// 501 for a parameter that is unknown.
pub(crate) fn check(place: &Place, query: &Query, is_s3_client: bool) -> Result<(), Fault> {
    let unknown = query.pairs().find(|(name, value)| {
        let may_be_s3 = is_s3_client || value.is_empty() || *name == SELECTS_BY_VALUE;
        may_be_s3 && !is_known(place, name)
    });

    match unknown {
        Some((name, _)) => Err(Fault::not_implemented(format!("the server does not implement the parameter {name:?}"))),
        None => Ok(()),
    }
}

/// Returns the first parameter that overrides a header of the response.
pub(crate) fn overrides(query: &Query) -> Option<&str> {
    query.pairs().map(|(name, _)| name).find(|name| name.starts_with("response-"))
}

fn is_known(place: &Place, name: &str) -> bool {
    // Presigned URLs contain the signature, and headers that would be sent otherwise.
    let is_signature = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"));
    let of_place: &[&str] = match place {
        Place::Service => &OF_SERVICE,
        Place::Store(_) => &OF_STORE,
        Place::Object(..) => &OF_OBJECT,
    };

    is_signature || OF_ALL.contains(&name) || of_place.contains(&name) || is_override(place, name)
}

fn is_override(place: &Place, name: &str) -> bool {
    let is_object = matches!(place, Place::Object(..));
    is_object && crate::describe::OVERRIDES.iter().any(|(parameter, _)| *parameter == name)
}
