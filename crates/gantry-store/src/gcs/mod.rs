//! Objects from Google Cloud Storage, by its XML API.
//!
//! A version is a *generation*. The checksum is the stored CRC-32C, or the MD5 if there is none.

mod credentials;
mod external;
mod options;

use std::fmt;

use futures_util::future::BoxFuture;
use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderValue};
use object_store::client::HttpRequest;
use object_store::gcp::GcpCredential;

use self::credentials::credentials;
pub use self::options::{Credentials, Limits, Options};
use crate::cloud::{
    self, Answer, Bucket, Checksums, Cloud, CloudStore, Cure, Failure, PageRequest, Query, Refusal, Subject,
    check_endpoint, encoded, header,
};
use crate::connections::Connections;
use crate::listing::{self, Line};
use crate::ranged::{About, Retry};
use crate::{Budget, Error, Opened, Store, UnavailableKind};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

/// Google's own address.
const ENDPOINT: &str = "https://storage.googleapis.com";

/// The permission to read objects. A refusal that names it means that no object can be read.
pub const PERMISSION_TO_READ: &str = "storage.objects.get";

/// The permission to list objects. Without it, Google also refuses a request for a missing object.
pub const PERMISSION_TO_LIST: &str = "storage.objects.list";

/// A bucket, or the objects below a prefix in it.
pub struct GcsStore(CloudStore<Gcs>);

impl fmt::Debug for GcsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GcsStore").field(&self.0).finish()
    }
}

impl GcsStore {
    /// Reads the credentials. No request is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is invalid, or [`Error::Unavailable`] if the credentials can't be read.
    pub fn connect(options: Options, budget: Budget) -> Result<Self, Error> {
        let endpoint = check_endpoint(options.endpoint_url.as_deref().unwrap_or(ENDPOINT))?;
        let project = options.billing_project.as_deref().map(HeaderValue::try_from).transpose();
        let project = project.map_err(|_| Error::Invalid("the billing project has an invalid character".to_owned()))?;
        let connections = Connections::new(options.tls_ca_file.as_deref(), &options.observer)?;

        let fingerprint = crate::fingerprint("gcs", &[&endpoint, &options.bucket, &options.prefix]);
        let credentials = credentials(options.credentials)?;
        let gcs = Gcs { url: format!("{endpoint}/{}", options.bucket), bucket: options.bucket, project, credentials };
        let bucket = Bucket::new(gcs, options.prefix, options.limits, options.observer, &connections)?;
        Ok(Self(CloudStore::new(bucket, budget, fingerprint)))
    }
}

impl Store for GcsStore {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        self.0.open(key, pin, span)
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        self.0.stat(key, pin)
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        self.0.list(request)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.0.probe()
    }

    fn probe_listing(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.0.probe_listing()
    }

    fn token_after(&self, name: &str) -> Option<String> {
        self.0.token_after(name)
    }

    fn fingerprint(&self) -> Option<String> {
        self.0.fingerprint()
    }
}

/// A bucket of Google Cloud Storage.
#[derive(Debug)]
struct Gcs {
    url: String,
    bucket: String,
    /// The project that pays for requests.
    project: Option<HeaderValue>,
    /// `None` for anonymous requests.
    credentials: Option<cloud::Credentials<GcpCredential>>,
}

impl Cloud for Gcs {
    const NAME: &'static str = "Google Cloud Storage";
    const PLACE: &'static str = "bucket";
    const VERSION: &'static str = "x-goog-generation";
    const METADATA: &'static str = "x-goog-meta-";
    const OWN: &'static str = "x-goog-generation";
    const STARTS_AFTER_NAMES: bool = true;

    fn place(&self) -> &str {
        &self.bucket
    }

    fn object_url(&self, name: &str, version: Option<&str>) -> Option<String> {
        let url = format!("{}/{}", self.url, encoded(name)?);
        Some(Query::default().with_some("generation", version).append_to(url))
    }

    fn listing_url(&self, page: PageRequest<'_>) -> String {
        Query::default()
            .with("list-type", "2")
            .with("encoding-type", "url")
            .with("max-keys", &page.limit.to_string())
            .with("prefix", page.prefix)
            .with_some("delimiter", page.is_folded.then_some("/"))
            .with_some("continuation-token", page.token)
            .with_some("start-after", page.start_after)
            .append_to(self.url.clone())
    }

    fn prepare(&self, headers: &mut HeaderMap, subject: Subject) {
        // Google decompresses an object that is stored compressed, unless the request accepts gzip. It may compress a
        // listing for such a request.
        let coding = if subject == Subject::Listing { "identity" } else { "gzip" };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding));
        if let Some(project) = &self.project {
            headers.insert("x-goog-user-project", project.clone());
        }
    }

    async fn authorize(&self, request: &mut HttpRequest, about: &About) -> Result<(), Failure> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let credential = credentials.get(Self::NAME, about).await?;

        let invalid = |_| Failure::is_final(cloud::without_credentials(format!("{about}: the token is not valid")));
        let mut token = HeaderValue::try_from(format!("Bearer {}", credential.bearer)).map_err(invalid)?;
        token.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, token);
        Ok(())
    }

    fn credentials(&self) -> u64 {
        self.credentials.as_ref().map_or(0, cloud::Credentials::number)
    }

    fn awaits(&self) -> Option<String> {
        self.credentials.as_ref().and_then(cloud::Credentials::awaited)
    }

    fn reload(&self, used: u64, only_other: bool) -> Result<bool, Error> {
        self.credentials.as_ref().map_or(Ok(false), |credentials| credentials.reload(used, only_other))
    }

    fn is_version(text: &str) -> bool {
        // Google rejects larger numbers, and answers a HEAD for them without a code.
        text.parse::<i64>().is_ok_and(|number| number > 0) && text.bytes().all(|byte| byte.is_ascii_digit())
    }

    fn checksums(headers: &HeaderMap, _: bool) -> Checksums {
        // Even the answer to a request for a range has those of the whole object. A header may have several.
        let hashes = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
        let hashes: Vec<_> = hashes.flat_map(|text| text.split(',')).map(str::trim).collect();

        let hash = |prefix, algorithm| {
            let value = hashes.iter().find_map(|hash| hash.strip_prefix(prefix))?;
            Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value: value.to_owned(), parts: Vec::new() })
        };
        Checksums {
            checksum: hash("crc32c=", ChecksumAlgorithm::Crc32c),
            other_checksum: hash("md5=", ChecksumAlgorithm::Md5),
        }
    }

    fn check_head(headers: &HeaderMap) -> Result<(), Refusal> {
        let is_gzip = |name: &str| header(headers, name).is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
        let is_decompressed = is_gzip("x-goog-stored-content-encoding") && !is_gzip(CONTENT_ENCODING.as_str());
        if is_decompressed { Err(Refusal::OtherEncoding) } else { Ok(()) }
    }

    fn refusal(&self, answer: &Answer<'_>) -> Option<(Error, Retry<Cure>)> {
        if let Some(error) = self.lack(answer) {
            return Some((error, Retry::AfterCure(Cure::OtherKey)));
        }

        match (answer.status.as_u16(), answer.code()) {
            (404, "NoSuchBucket") => Some((cloud::no_place::<Self>(answer), Retry::Never)),
            // Google answers 401 to an anonymous request for what is not public.
            (401, _) if self.credentials.is_none() => Some((cloud::denied(answer), Retry::Never)),
            // Nothing can be read, neither by this relay nor by another one.
            (403, "AccountProblem") => {
                let text = "the account of the bucket's project has a problem, such as billing that is disabled";
                Some((of_place(answer, UnavailableKind::AccountDisabled, text), Retry::Never))
            }
            (403, "UserProjectAccountProblem") => {
                let text = "the account of `billing_project` has a problem, such as billing that is disabled";
                Some((of_place(answer, UnavailableKind::NoBillingProject, text), Retry::Never))
            }
            (403, "UserProjectAccessDenied") => {
                let text = "the relay may not bill `billing_project`, which requires serviceusage.services.use";
                Some((of_place(answer, UnavailableKind::NoBillingProject, text), Retry::AfterCure(Cure::OtherKey)))
            }
            // Source: Google, "Troubleshoot VPC Service Controls".
            (403, "SecurityPolicyViolated") => {
                let text = "a perimeter of VPC Service Controls excludes the relay";
                Some((of_place(answer, UnavailableKind::NetworkRules, text), Retry::AfterCure(Cure::OtherKey)))
            }
            // Source: Google, "HTTP status and error codes for XML".
            (412, "OrgPolicyConstraintFailed") => {
                let text = "a policy of the organisation forbids the request";
                let message = format!("{}: {text} ({})", answer.about, answer.reason());
                Some((of_kind(answer, UnavailableKind::OrganisationPolicy, message), Retry::AfterCure(Cure::OtherKey)))
            }
            (400, "RequestTimeout") => Some((cloud::busy::<Self>(answer), Retry::Later)),
            (400, code @ ("UserProjectMissing" | "UserProjectInvalid")) => {
                let text = match code {
                    "UserProjectMissing" => "the bucket bills the requester, and no project is set",
                    _ => "`billing_project` is not a project that requests can be billed to",
                };
                Some((of_place(answer, UnavailableKind::NoBillingProject, text), Retry::Never))
            }
            // The name of a version that can't exist.
            (400, "InvalidArgument")
                if matches!(answer.subject, Subject::Object { has_version: true, .. }) && names_generation(answer) =>
            {
                Some((cloud::missing(answer), Retry::Never))
            }
            _ => None,
        }
    }

    fn page(body: &[u8]) -> Result<listing::Answer, String> {
        let root = cloud::parse(body)?;
        if root.name != "ListBucketResult" {
            return Err(format!("its root element is {}", root.name));
        }

        let lines = root.all("Contents").map(|object| Line {
            name: object.text_of("Key").unwrap_or_default().to_owned(),
            size: object.text_of("Size").and_then(|size| size.parse().ok()),
            etag: object.text_of("ETag").map(crate::headers::quoted),
            last_modified: object.text_of("LastModified").map(str::to_owned),
        });
        let prefixes = root.all("CommonPrefixes").filter_map(|folded| folded.text_of("Prefix").map(str::to_owned));

        Ok(listing::Answer {
            lines: lines.collect(),
            prefixes: prefixes.collect(),
            is_encoded: root.text_of("EncodingType") == Some("url"),
            is_truncated: root.text_of("IsTruncated") == Some("true"),
            token: root.text_of("NextContinuationToken").map(str::to_owned),
        })
    }
}

impl Gcs {
    /// Returns the error for an object if an answer names the permission that is missing. For a missing object, that is the
    /// one to list. The answer itself also names the identity, which a consumer must not learn.
    fn lack(&self, answer: &Answer<'_>) -> Option<Error> {
        let status = answer.status.as_u16();
        let is_refused = status == 403 || (status == 401 && self.credentials.is_none());
        if !is_refused || answer.subject == Subject::Listing {
            return None;
        }

        let said =
            ["Details", "Message"].into_iter().filter_map(|name| answer.text(name)).collect::<Vec<_>>().join(" ");
        let permission = [PERMISSION_TO_READ, PERMISSION_TO_LIST].into_iter().find(|name| said.contains(name))?;
        let text = format!("access denied, the permission {permission} is missing");
        Some(Error::Denied(format!("{}: {text} ({})", answer.about, answer.label())))
    }
}

/// Returns the error for a bucket of which nothing can be read. The operator learns the kind of the problem, a consumer
/// that access is denied.
fn of_place(answer: &Answer<'_>, kind: UnavailableKind, text: &str) -> Error {
    of_kind(answer, kind, format!("{}: {text} ({})", answer.about, answer.label()))
}

fn of_kind(answer: &Answer<'_>, kind: UnavailableKind, message: String) -> Error {
    match answer.subject {
        Subject::Listing => Error::unavailable_because(kind, message),
        Subject::Object { .. } => Error::Denied(message),
    }
}

/// Returns whether an answer is about the generation that the request names.
fn names_generation(answer: &Answer<'_>) -> bool {
    let texts = ["Details", "Message"].into_iter().filter_map(|name| answer.text(name));
    texts.map(str::to_ascii_lowercase).any(|text| text.contains("generation"))
}

#[cfg(test)]
mod tests;
