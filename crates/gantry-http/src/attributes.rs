//! S3's `GetObjectAttributes`.

use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};

use gantry_proto::{Checksum, ChecksumKind, Key, ObjectInfo, Span};
use gantry_store::Store;

use crate::describe;
use crate::etag::EntityTag;
use crate::fault::Fault;
use crate::reply::Reply;
use crate::target::Query;
use crate::version;
use crate::xml::Xml;

/// The maximum number of parts in an answer. Source: S3's `x-amz-max-parts`.
const PARTS_MAX: u64 = 1000;

/// The attributes that objects have, in lower case. Source: S3's `x-amz-object-attributes`.
const NAMES: [&str; 5] = ["checksum", "etag", "objectparts", "objectsize", "storageclass"];

/// Answers with the attributes that the header `x-amz-object-attributes` lists.
///
/// # Errors
/// 400 if the header is missing, and those of the store.
pub(crate) async fn answer(
    store: Arc<dyn Store>,
    key: &Key,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Reply, Fault> {
    let wanted = Wanted::of(headers)?;
    let pin = version::pin(query);
    let has_version = pin.version_id.is_some();

    // Opening reveals the sizes of the parts, which a description may lack.
    let nothing = Span { start: 0, end: Some(0) };
    let opened =
        version::open(&*store, key, &pin, nothing).await.map_err(|error| Fault::of_store(&error, has_version))?;

    let object = opened.object;
    let mut reply =
        Reply::ok("application/xml", Xml::root("GetObjectAttributesResponse", |xml| wanted.write(&object, xml)));
    for name in [LAST_MODIFIED, HeaderName::from_static("x-amz-version-id")] {
        if let Some(value) = describe::version(&object).get(&name) {
            reply.headers.insert(name, value.clone());
        }
    }
    Ok(reply)
}

/// What a client wants to know.
#[derive(Debug)]
struct Wanted {
    names: Vec<String>,
    parts_max: u64,
    parts_after: u64,
}

impl Wanted {
    fn of(headers: &HeaderMap) -> Result<Self, Fault> {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let lists: Vec<_> = headers.get_all("x-amz-object-attributes").iter().map(text).collect();
        let names: Vec<_> =
            lists.iter().flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
        if names.is_empty() {
            return Err(Fault::invalid_argument("the header x-amz-object-attributes is missing"));
        }
        if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(Fault::invalid_argument(format!("the attribute {unknown:?} is unknown")));
        }

        let number = |name: &'static str, default: u64| match headers.get(name) {
            None => Ok(default),
            Some(value) => text(value).parse().map_err(|_| Fault::invalid_argument(format!("{name} must be a number"))),
        };
        Ok(Self {
            names,
            parts_max: number("x-amz-max-parts", PARTS_MAX)?.min(PARTS_MAX),
            parts_after: number("x-amz-part-number-marker", 0)?,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| wanted == name)
    }

    fn write(&self, object: &ObjectInfo, xml: &mut Xml) {
        if self.has("etag") {
            // Without quotes, unlike everywhere else in S3.
            xml.text("ETag", EntityTag::of_store(&object.etag).text().trim_matches('"'));
        }
        if self.has("checksum")
            && let Some((name, value, kind)) = describe::stored_checksum(object)
        {
            let value = value.split('-').next().unwrap_or_default();
            xml.group("Checksum", |xml| {
                if let Some(element) = element(name) {
                    xml.text(element, value);
                }
                xml.text("ChecksumType", kind);
            });
        }
        if self.has("objectparts")
            && let Some(checksum) = object.stated_checksum().filter(|checksum| !checksum.parts.is_empty())
        {
            xml.group("ObjectParts", |xml| self.write_parts(checksum, xml));
        }
        if self.has("storageclass") {
            xml.text("StorageClass", "STANDARD");
        }
        if self.has("objectsize") {
            xml.number("ObjectSize", object.size);
        }
    }

    fn write_parts(&self, checksum: &Checksum, xml: &mut Xml) {
        let count = checksum.parts.iter().fold(0_u64, |sum, run| sum.saturating_add(run.count));
        let first = self.parts_after.saturating_add(1);
        let end = first.saturating_add(self.parts_max).min(count.saturating_add(1));
        let is_truncated = end <= count;

        xml.text("IsTruncated", if is_truncated { "true" } else { "false" });
        xml.number("MaxParts", self.parts_max);
        if is_truncated {
            xml.number("NextPartNumberMarker", end.saturating_sub(1));
        }
        xml.number("PartNumberMarker", self.parts_after);
        xml.number("PartsCount", count);

        // S3 lists the parts only if it has their checksums, and Gantry's stores have only their sizes.
        if checksum.kind != ChecksumKind::Composite {
            return;
        }
        for number in first..end {
            if let Some(size) = part_size(checksum, number) {
                xml.group("Part", |xml| {
                    xml.number("PartNumber", number);
                    xml.number("Size", size);
                });
            }
        }
    }
}

/// Returns the size of a part.
fn part_size(checksum: &Checksum, number: u64) -> Option<u64> {
    let mut before = 0_u64;
    for run in &checksum.parts {
        before = before.saturating_add(run.count);
        if number <= before {
            return Some(run.size);
        }
    }
    None
}

/// Returns the element of an algorithm's value.
fn element(name: &str) -> Option<&'static str> {
    Some(match name {
        "CRC64NVME" => "ChecksumCRC64NVME",
        "CRC32" => "ChecksumCRC32",
        "CRC32C" => "ChecksumCRC32C",
        "SHA1" => "ChecksumSHA1",
        "SHA256" => "ChecksumSHA256",
        "SHA512" => "ChecksumSHA512",
        "MD5" => "ChecksumMD5",
        "XXHASH64" => "ChecksumXXHASH64",
        "XXHASH3" => "ChecksumXXHASH3",
        "XXHASH128" => "ChecksumXXHASH128",
        _ => return None,
    })
}
