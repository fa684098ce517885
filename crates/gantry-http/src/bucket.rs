//! Requests about stores that S3 clients send besides listings.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use gantry_proto::StoreName;
use gantry_store::Store;

use crate::content::Content;
use crate::date;
use crate::fault::Fault;
use crate::reply::Reply;
use crate::xml::Xml;

/// The region for which S3 states no location.
const DEFAULT_REGION: &str = "us-east-1";

/// S3's `ListBuckets`.
pub(crate) fn list(names: &[StoreName]) -> Reply {
    let xml = Xml::root("ListAllMyBucketsResult", |xml| {
        xml.group("Owner", |xml| {
            xml.text("ID", "gantry");
            xml.text("DisplayName", "gantry");
        });
        xml.group("Buckets", |xml| {
            for name in names {
                xml.group("Bucket", |xml| {
                    xml.text("Name", name.as_str());
                    xml.text("CreationDate", date::UNKNOWN);
                });
            }
        });
    });
    Reply::ok("application/xml", xml)
}

/// S3's `HeadBucket`.
///
/// # Errors
/// 404 if the store's place does not exist, and what else its probe reports.
pub(crate) async fn head(store: Arc<dyn Store>, name: &StoreName, region: &str) -> Result<Reply, Fault> {
    store.probe().await.map_err(|error| Fault::of_bucket(&error, name.as_str()))?;

    let reply = Reply::new(StatusCode::OK, Content::EMPTY);
    Ok(match HeaderValue::from_str(region) {
        Ok(region) => reply.with(HeaderName::from_static("x-amz-bucket-region"), region),
        Err(_) => reply,
    })
}

/// S3's `GetBucketLocation`.
///
/// # Errors
/// Those of [`head`].
pub(crate) async fn location(store: Arc<dyn Store>, name: &StoreName, region: &str) -> Result<Reply, Fault> {
    store.probe().await.map_err(|error| Fault::of_bucket(&error, name.as_str()))?;

    let region = if region == DEFAULT_REGION { "" } else { region };
    let mut xml = Xml::new();
    xml.text_in_namespace("LocationConstraint", region);
    Ok(Reply::ok("application/xml", xml.finish()))
}
