//! S3's listings: `ListObjectsV2`, and `ListObjects`, which is V1.

mod page;
mod places;
mod wanted;

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use gantry_proto::{Key, StoreName};
use gantry_store::{LIST_LIMIT_MAX, Store};

use crate::date;
use crate::fault::Fault;
use crate::reply::Reply;
use crate::target::Query;
use crate::xml::Xml;

pub(crate) use self::page::{Page, read as read_page};
pub(crate) use self::places::Places;
pub(crate) use self::wanted::{Start, Wanted};

/// The characters without an escape with `encoding-type=url`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The longest start, in bytes. Longer ones can't be keys.
const START_MAX_BYTES: usize = Key::MAX_BYTES;

/// A listing that a client requests.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) name: &'a StoreName,
    pub(crate) query: &'a Query,
    pub(crate) places: &'a Places,
}

impl Listing<'_> {
    pub(crate) async fn answer(&self) -> Result<Reply, Fault> {
        let is_v2 = match self.query.value("list-type") {
            Some("2") => true,
            None | Some("" | "1") => false,
            Some(_) => return Err(Fault::invalid_argument("`list-type` must be 2")),
        };
        let encoding = match self.query.value("encoding-type") {
            Some("url") => Encoding::Url,
            None | Some("") => Encoding::None,
            Some(_) => return Err(Fault::invalid_argument("`encoding-type` must be `url`")),
        };

        let wanted = self.wanted(is_v2)?;
        let page = self.page(&wanted).await?;
        Ok(Reply::ok("application/xml", self.xml(is_v2, encoding, &wanted, &page)))
    }

    fn wanted(&self, is_v2: bool) -> Result<Wanted, Fault> {
        let text = |name| self.query.value(name).unwrap_or_default();
        let is_recursive = match text("delimiter") {
            "" => true,
            "/" => false,
            _ => return Err(Fault::not_implemented("the only delimiter is `/`")),
        };

        let prefix = text("prefix");
        if prefix.len() > Key::MAX_BYTES || prefix.contains(['\0', '\r', '\n']) {
            return Err(Fault::invalid_argument("`prefix` is over 1024 bytes or contains a NUL, CR or LF"));
        }

        let limit = self.query.number("max-keys")?.unwrap_or(u64::MAX).min(u64::from(LIST_LIMIT_MAX));
        let limit = u32::try_from(limit).unwrap_or(LIST_LIMIT_MAX);

        let after = if is_v2 { text("start-after") } else { text("marker") };
        if after.len() > START_MAX_BYTES {
            return Err(Fault::invalid_argument("the start is over 1024 bytes"));
        }
        let start = match self.query.value("continuation-token").filter(|token| is_v2 && !token.is_empty()) {
            Some(token) => Start::of_token(token)
                .ok_or_else(|| Fault::invalid_argument("`continuation-token` is not one of this server"))?,
            None => Start::after(after),
        };

        Ok(Wanted { prefix: prefix.to_owned(), is_recursive, limit, start })
    }

    async fn page(&self, wanted: &Wanted) -> Result<Page, Fault> {
        if wanted.limit == 0 {
            return Ok(Page::default());
        }
        page::read(self.store.as_ref(), self.name, wanted, self.places)
            .await
            .map_err(|error| Fault::of_bucket(&error, self.name.as_str()))
    }

    fn xml(&self, is_v2: bool, encoding: Encoding, wanted: &Wanted, page: &Page) -> String {
        let query = |name| self.query.value(name);
        Xml::root("ListBucketResult", |xml| {
            xml.text("Name", self.name.as_str());
            xml.text("Prefix", &encoding.apply(&wanted.prefix));
            if is_v2 {
                xml.number("KeyCount", (page.entries.len() + page.prefixes.len()) as u64);
                if let Some(token) = query("continuation-token") {
                    xml.text("ContinuationToken", token);
                }
                if let Some(after) = query("start-after") {
                    xml.text("StartAfter", &encoding.apply(after));
                }
            } else {
                xml.text("Marker", &encoding.apply(query("marker").unwrap_or_default()));
            }

            xml.number("MaxKeys", u64::from(wanted.limit));
            if let Some(delimiter) = query("delimiter").filter(|delimiter| !delimiter.is_empty()) {
                xml.text("Delimiter", &encoding.apply(delimiter));
            }
            if matches!(encoding, Encoding::Url) {
                xml.text("EncodingType", "url");
            }

            xml.text("IsTruncated", if page.next.is_some() { "true" } else { "false" });
            match &page.next {
                Some(next) if is_v2 => xml.text("NextContinuationToken", &next.token()),
                Some(_) => xml.text("NextMarker", &encoding.apply(&page.marker)),
                None => {}
            }
            contents(xml, encoding, page);
        })
    }
}

fn contents(xml: &mut Xml, encoding: Encoding, page: &Page) {
    for entry in &page.entries {
        xml.group("Contents", |xml| {
            xml.text("Key", &encoding.apply(&entry.key));
            xml.text("LastModified", &date::s3(entry.last_modified.as_deref()));
            if let Some(etag) = &entry.etag {
                xml.text("ETag", &crate::etag::EntityTag::of_store(etag).text());
            }
            xml.number("Size", entry.size);
            xml.text("StorageClass", "STANDARD");
        });
    }
    for prefix in &page.prefixes {
        xml.group("CommonPrefixes", |xml| xml.text("Prefix", &encoding.apply(prefix)));
    }
}

/// How names are written.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    None,
    Url,
}

impl Encoding {
    fn apply(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::None => Cow::Borrowed(name),
            Self::Url => utf8_percent_encode(name, ENCODED).into(),
        }
    }
}
