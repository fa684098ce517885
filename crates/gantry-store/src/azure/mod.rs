//! Objects from Azure Blob Storage.
//!
//! Snapshots and deleted blobs are never requested. A folder is not an object, neither of a hierarchical namespace nor
//! as a blob that marks one.

mod cli;
mod credentials;
mod options;
mod sas;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, HeaderValue};
use object_store::azure::{AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequest;

use self::credentials::{Accounts, credentials};
pub use self::options::{Credentials, Limits, Options};
use crate::cloud::{
    self, Answer, Bucket, Checksums, Cloud, CloudStore, Cure, Element, Failure, PageRequest, Query, Refusal, Subject,
    check_endpoint, encoded, header,
};
use crate::connections::{Connections, innermost};
use crate::headers::quoted;
use crate::listing::{self, Line};
use crate::ranged::{About, Retry};
use crate::{Budget, Error, Opened, Store, UnavailableKind};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

/// The version of Azure's protocol. Listings of this version encode names that XML can't represent.
const PROTOCOL: HeaderValue = HeaderValue::from_static("2023-11-03");

/// The metadata of an empty blob that stands for a folder. Hadoop's drivers and others write one for each folder, with
/// the folder's name without a slash, so that the name would otherwise be both a file and a folder.
const FOLDER_MARK: &str = "hdi_isfolder";

/// A container, or the blobs below a prefix in it.
pub struct AzureStore(CloudStore<Azure>);

impl fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AzureStore").field(&self.0).finish()
    }
}

impl AzureStore {
    /// Reads the credentials. No request is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is invalid, or [`Error::Unavailable`] if the credentials can't be read.
    pub fn connect(options: Options, budget: Budget) -> Result<Self, Error> {
        let of_account = || format!("https://{}.blob.core.windows.net", options.account);
        let endpoint = check_endpoint(&options.endpoint_url.clone().unwrap_or_else(of_account))?;
        let connections = Connections::new(options.tls_ca_file.as_deref(), &options.observer)?;

        // Only emulators have the account in the path.
        let is_emulator = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        let accounts = if is_emulator { Accounts::OfEmulator } else { Accounts::OfAzure };

        let fingerprint = crate::fingerprint("azure", &[&endpoint, &options.container, &options.prefix]);
        let azure = Azure {
            url: format!("{endpoint}/{}", options.container),
            container: options.container,
            account: options.account,
            credentials: credentials(options.credentials, accounts)?,
        };
        let bucket = Bucket::new(azure, options.prefix, options.limits, options.observer, &connections)?;
        Ok(Self(CloudStore::new(bucket, budget, fingerprint)))
    }
}

impl Store for AzureStore {
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

/// A container of Azure Blob Storage.
#[derive(Debug)]
struct Azure {
    url: String,
    container: String,
    account: String,
    /// `None` for anonymous requests.
    credentials: Option<cloud::Credentials<AzureCredential>>,
}

impl Cloud for Azure {
    const NAME: &'static str = "Azure Blob Storage";
    const PLACE: &'static str = "container";
    const VERSION: &'static str = "x-ms-version-id";
    const METADATA: &'static str = "x-ms-meta-";
    const OWN: &'static str = "x-ms-blob-type";
    const STARTS_AFTER_NAMES: bool = false;

    fn place(&self) -> &str {
        &self.container
    }

    fn object_url(&self, name: &str, version: Option<&str>) -> Option<String> {
        let url = format!("{}/{}", self.url, encoded(name)?);
        Some(Query::default().with_some("versionid", version).append_to(url))
    }

    fn listing_url(&self, page: PageRequest<'_>) -> String {
        Query::default()
            .with("restype", "container")
            .with("comp", "list")
            // Marks folders.
            .with("include", "metadata")
            .with("maxresults", &page.limit.to_string())
            .with_some("prefix", Some(page.prefix).filter(|prefix| !prefix.is_empty()))
            .with_some("delimiter", page.is_folded.then_some("/"))
            .with_some("marker", page.token)
            .append_to(self.url.clone())
    }

    fn prepare(&self, headers: &mut HeaderMap, _: Subject) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert("x-ms-version", PROTOCOL);
    }

    async fn authorize(&self, request: &mut HttpRequest, about: &About) -> Result<(), Failure> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let credential = credentials.get(Self::NAME, about).await?;
        let authorizer = AzureAuthorizer::new(&credential, &self.account);
        authorizer.try_authorize(request).map_err(|error| {
            let text = about.with_cause("the request can't be signed", &innermost(&error));
            Failure::is_final(cloud::without_credentials(text))
        })
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

    /// A version is named by its time, as in `2026-11-28T21:30:12.7969990Z`.
    fn is_version(text: &str) -> bool {
        text.ends_with('Z') && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.TZ".contains(&byte))
    }

    fn checksums(headers: &HeaderMap, is_part: bool) -> Checksums {
        // In an answer to a request for a range, Content-MD5 covers the range.
        let value = header(headers, if is_part { "x-ms-blob-content-md5" } else { "content-md5" });
        let (algorithm, kind) = (ChecksumAlgorithm::Md5, ChecksumKind::FullObject);
        let md5 = value.map(|value| Checksum { algorithm, kind, value: value.to_owned(), parts: Vec::new() });
        Checksums { checksum: None, other_checksum: md5 }
    }

    fn check_head(headers: &HeaderMap) -> Result<(), Refusal> {
        let is_folder = header(headers, "x-ms-resource-type") == Some("directory")
            || header(headers, &format!("{}{FOLDER_MARK}", Self::METADATA)).is_some_and(is_true);
        if is_folder { Err(Refusal::Folder) } else { Ok(()) }
    }

    /// Source: "Blob Storage error codes" and "Common REST API error codes" in Azure's reference.
    fn refusal(&self, answer: &Answer<'_>) -> Option<(Error, Retry<Cure>)> {
        let about = answer.about;
        let denied = |text: &str| Error::Denied(format!("{about}: {text} ({})", answer.label()));
        if let Some((kind, text, retry)) = unreadable(answer) {
            let message = format!("{about}: {text} ({})", answer.label());
            // The operator learns the kind of the problem, a consumer that access is denied.
            let error = match answer.subject {
                Subject::Listing => Error::unavailable_because(kind, message),
                Subject::Object { .. } => Error::Denied(message),
            };
            return Some((error, retry));
        }

        Some(match (answer.status.as_u16(), answer.code()) {
            (404, "ContainerNotFound") => (cloud::no_place::<Self>(answer), Retry::Never),
            (404 | 409, "ContainerBeingDeleted") => {
                let text = "no such container, it is being deleted";
                (Error::NoBucket(format!("{about}: {text} ({})", answer.label())), Retry::Never)
            }
            (409, "BlobArchived" | "BlobBeingRehydrated") => {
                let text = "archived, it must be rehydrated first";
                (Error::Archived(format!("{about}: {text} ({})", answer.label())), Retry::Never)
            }
            (409, "BlobUsesCustomerSpecifiedEncryption") => {
                (denied("encrypted with a key of the customer, which the relay does not have"), Retry::Never)
            }
            (401, _) if self.credentials.is_none() => (not_public(answer), Retry::Never),
            // Azure does not tell a private container from a missing one. A container whose blobs are public, but not
            // their listing, also answers so to a listing. A blob that is missing in it is a `BlobNotFound`.
            (404, "ResourceNotFound") if self.credentials.is_none() => {
                let text = match answer.subject {
                    Subject::Listing => "the container or its listing is not public, or there is no such container",
                    Subject::Object { .. } => "the container is not public, or there is no such container",
                };
                (denied(text), Retry::Never)
            }
            (403, "AuthenticationFailed") => (self.unknown(answer), Retry::AfterCure(Cure::OtherKey)),
            (401, "AuthenticationFailed") | (401 | 403, "InvalidAuthenticationInfo") => {
                (self.unknown(answer), Retry::AfterCure(Cure::Credentials))
            }
            // The relay may have another address than its peers.
            (403, "AuthorizationSourceIPMismatch") if self.sas().is_some() => {
                let text = "the relay's SAS does not permit the relay's address, see its parameter `sip`";
                let message = format!("{about}: {text} ({})", answer.label());
                (cloud::without_credentials(message), Retry::AfterCure(Cure::OtherKey))
            }
            // Azure also answers so to a SAS for something else.
            (403, "AuthorizationFailure" | "AuthorizationSourceIPMismatch" | "IpAuthorizationError") => {
                let message = format!("{about}: the account's network rules exclude the relay ({})", answer.label());
                let error = Error::unavailable_because(UnavailableKind::NetworkRules, message);
                (error, Retry::AfterCure(Cure::OtherKey))
            }
            (400, "InvalidQueryParameterValue")
                if matches!(answer.subject, Subject::Object { has_version: true, .. }) =>
            {
                (cloud::missing(answer), Retry::Never)
            }
            (400, "OutOfRangeInput" | "InvalidMarker") if answer.subject == Subject::Listing => {
                let message =
                    format!("{about}: `token` or the name of the container is not valid ({})", answer.label());
                (Error::Invalid(message), Retry::Never)
            }
            _ => return None,
        })
    }

    fn page(body: &[u8]) -> Result<listing::Answer, String> {
        let root = cloud::parse(body)?;
        if root.name != "EnumerationResults" {
            return Err(format!("its root element is {}", root.name));
        }

        let mut answer = listing::Answer { is_encoded: true, ..listing::Answer::default() };
        for element in root.child("Blobs").into_iter().flat_map(|blobs| &blobs.children) {
            match element.name.as_str() {
                "Blob" => answer.lines.extend(line(element)),
                "BlobPrefix" => answer.prefixes.extend(element.child("Name").map(name)),
                _ => {}
            }
        }

        answer.token = root.text_of("NextMarker").filter(|marker| !marker.is_empty()).map(str::to_owned);
        answer.is_truncated = answer.token.is_some();
        Ok(answer)
    }
}

impl Azure {
    /// Returns the error for credentials that Azure does not accept.
    fn unknown(&self, answer: &Answer<'_>) -> Error {
        if let Some(problem) = self.problem_with_time(answer) {
            let text = answer.about.with_cause("the relay's SAS can't be used now", &problem);
            return cloud::without_credentials(text);
        }

        let detail = answer.text("AuthenticationErrorDetail").unwrap_or_default();
        if detail.starts_with("Request date header too old") {
            let text = format!(
                "{}: {} finds the request too old, by its clock ({})",
                answer.about,
                Self::NAME,
                answer.label()
            );
            return Error::unavailable_because(UnavailableKind::Clock, text);
        }
        // The other details repeat what was signed.
        if detail.starts_with("Signature not valid in the specified time frame") {
            let text = format!("{}: the SAS is expired, or not valid yet ({})", answer.about, answer.label());
            return cloud::without_credentials(text);
        }
        cloud::expired::<Self>(answer)
    }

    /// Describes why the SAS is not valid at the time of Azure's clock, if its parameters show that.
    fn problem_with_time(&self, answer: &Answer<'_>) -> Option<String> {
        let credential = self.sas()?;
        let AzureCredential::SASToken(pairs) = &*credential else { return None };
        sas::check_time(pairs, answer.date()?.into()).err()
    }

    /// Returns the credential in use if it is a SAS.
    fn sas(&self) -> Option<Arc<AzureCredential>> {
        let credential = self.credentials.as_ref()?.constant()?;
        matches!(*credential, AzureCredential::SASToken(_)).then_some(credential)
    }
}

/// Explains why nothing in the container can be read. Another attempt helps only with other credentials: otherwise an
/// administrator must act.
fn unreadable(answer: &Answer<'_>) -> Option<(UnavailableKind, &'static str, Retry<Cure>)> {
    use UnavailableKind::{AccountDisabled, Credentials, TlsRequired};

    Some(match (answer.status.as_u16(), answer.code()) {
        (409, "PublicAccessNotPermitted") => (Credentials, "the account permits no anonymous access", Retry::Never),
        (403, "KeyBasedAuthenticationNotPermitted") => {
            let text = "the account permits neither its keys nor a SAS that is signed with one: use an identity";
            (Credentials, text, Retry::AfterCure(Cure::OtherKey))
        }
        (403, "AuthorizationResourceTypeMismatch") => {
            let text = "the relay's SAS must cover containers and objects: srt=co";
            (Credentials, text, Retry::AfterCure(Cure::OtherKey))
        }
        (403, "AuthorizationServiceMismatch") => {
            (Credentials, "the relay's SAS is not for Blob Storage", Retry::AfterCure(Cure::OtherKey))
        }
        (400, "AccountRequiresHttps") => (TlsRequired, "the account permits only https://", Retry::Never),
        (403, "AuthorizationProtocolMismatch") => {
            (TlsRequired, "the relay's SAS permits only https://", Retry::AfterCure(Cure::OtherKey))
        }
        (403 | 409, "AccountIsDisabled") => (AccountDisabled, "the account is disabled", Retry::Never),
        (403, "InsufficientAccountPermissions") => (AccountDisabled, "the account permits no reading", Retry::Never),
        (409, "ContainerDisabled") => (AccountDisabled, "the container is disabled", Retry::Never),
        _ => return None,
    })
}

/// Returns the error for an anonymous request that Azure does not accept.
fn not_public(answer: &Answer<'_>) -> Error {
    let text = match (answer.code(), answer.subject) {
        // Azure does not tell a private container from one that can't be listed.
        ("NoAuthenticationInformation", Subject::Listing) => "the container or its listing is not public",
        ("NoAuthenticationInformation", Subject::Object { .. }) => "the container is not public",
        _ => return Error::Denied(format!("{}: anonymous requests are refused ({})", answer.about, answer.reason())),
    };
    Error::Denied(format!("{}: {text} ({})", answer.about, answer.label()))
}

/// Reads a blob of a listing. Folders are left out.
fn line(blob: &Element) -> Option<Line> {
    let properties = blob.child("Properties")?;
    let mut metadata = blob.child("Metadata").into_iter().flat_map(|metadata| &metadata.children);
    let is_marked = metadata.any(|entry| entry.name.eq_ignore_ascii_case(FOLDER_MARK) && is_true(&entry.text));
    if is_marked || properties.text_of("ResourceType") == Some("directory") {
        return None;
    }

    Some(Line {
        name: name(blob.child("Name")?),
        size: properties.text_of("Content-Length").and_then(|size| size.parse().ok()),
        etag: properties.text_of("Etag").map(quoted),
        last_modified: properties.text_of("Last-Modified").and_then(cloud::rfc3339),
    })
}

fn is_true(text: &str) -> bool {
    text.trim().eq_ignore_ascii_case("true")
}

/// Returns a name, encoded as in a URL. Azure encodes only those that XML can't represent.
fn name(element: &Element) -> String {
    if element.is_encoded { element.text.replace('+', "%2B") } else { cloud::encoded_text(&element.text) }
}

#[cfg(test)]
mod tests;
