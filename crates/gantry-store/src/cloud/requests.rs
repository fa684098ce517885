//! Single requests to one bucket or container.

use std::ops::Range;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, IF_MATCH, RANGE};
use hyper::{HeaderMap, Method, Response, StatusCode};
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::answer::{Answer, Subject};
use super::bucket::Bucket;
use super::failure::{self, Cure, Failure};
use super::{Cloud, PageRequest, header, object, request};
use crate::connections::{is_request_invalid, unreachable};
use crate::headers::quoted;
use crate::listing::{self, Wanted};
use crate::position::Position;
use crate::ranged::{About, PROBE, Retry, about_key, observed};
use crate::{Error, LIST_LIMIT_MAX};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin};

/// Maximum length of a page of a listing, in bytes. A page of 1000 keys of 1024 bytes, each byte written as `%XX`, is
/// 3 MiB, and Azure adds a kilobyte of properties and up to 8 KiB of metadata to each.
const PAGE_MAX_BYTES: usize = 32 * 1024 * 1024;

/// The head of an answer to a GET, and its body.
pub(super) struct Found {
    /// The version that the body belongs to.
    pub(super) object: ObjectInfo,
    /// The bytes that the body must yield. The end is exclusive.
    pub(super) range: Range<u64>,
    pub(super) body: Incoming,
}

/// Returns the error for a range that the cloud describes, but does not send.
pub(super) fn contradicted(error: &Error) -> Error {
    Error::unavailable(error.to_string())
}

/// A request for an object.
#[derive(Clone, Copy)]
struct Asked<'a> {
    method: &'a Method,
    key: &'a Key,
    pin: &'a Pin,
    /// A range whose end is exclusive; `None` is the object's end.
    range: Option<(u64, Option<u64>)>,
}

impl<C: Cloud> Bucket<C> {
    /// Names the bucket or container in messages to the operator.
    pub(super) fn what_place(&self) -> About {
        About::Operator(format!("{} {:?}", C::PLACE, self.cloud.place()))
    }

    /// Requests a whole object once.
    pub(super) async fn get_whole(&self, key: &Key, pin: &Pin) -> Result<Found, Failure> {
        let what = about_key(key);
        let response = self.ask("get", Asked { method: &Method::GET, key, pin, range: None }, &what).await?;

        let object = object::of_whole::<C>(key, pin, response.headers(), &what).map_err(Failure::is_final)?;
        Ok(Found { range: 0..object.size, object, body: response.into_body() })
    }

    /// Requests a range once. The end is exclusive; `None` is the object's end.
    pub(super) async fn get_range(&self, key: &Key, pin: &Pin, range: (u64, Option<u64>)) -> Result<Found, Failure> {
        let what = about_key(key);
        let response = self.ask("get", Asked { method: &Method::GET, key, pin, range: Some(range) }, &what).await?;

        let described = object::of_range::<C>(key, pin, range, response.headers(), &what);
        let (object, range) = described.map_err(Failure::by_kind)?;
        Ok(Found { object, range, body: response.into_body() })
    }

    /// Requests a range of a version that was described before, once.
    pub(super) async fn get_more(&self, object: &ObjectInfo, range: Range<u64>) -> Result<Incoming, Failure> {
        let found = match self.get_range(&object.key, &object.pin(), (range.start, Some(range.end))).await {
            Err(Failure { retry: Retry::AfterCure(Cure::Size), error }) => {
                return Err(Failure::by_kind(contradicted(&error)));
            }
            found => found?,
        };
        if found.object.size != object.size {
            let error = Error::Changed(format!("{}: has another size", about_key(&object.key)));
            return Err(Failure::is_final(error));
        }
        Ok(found.body)
    }

    /// Requests an object's description once. If there is none, a GET requests the reason, which an answer to a HEAD
    /// can't contain: whether the object, its version or the bucket is missing.
    pub(super) async fn describe(&self, key: &Key, pin: &Pin) -> Result<ObjectInfo, Failure> {
        let failure = match self.head(key, pin).await {
            Err(failure) if matches!(failure.error, Error::NotFound(_) | Error::Invalid(_) | Error::Denied(_)) => {
                failure
            }
            described => return described,
        };

        match self.get_range(key, pin, (0, Some(1))).await {
            Err(Failure { retry: Retry::AfterCure(Cure::Size), .. }) | Ok(_) => Err(failure),
            Err(reason) => Err(reason),
        }
    }

    async fn head(&self, key: &Key, pin: &Pin) -> Result<ObjectInfo, Failure> {
        let what = about_key(key);
        let response = self.ask("head", Asked { method: &Method::HEAD, key, pin, range: None }, &what).await?;
        object::of_whole::<C>(key, pin, response.headers(), &what).map_err(Failure::is_final)
    }

    async fn ask(
        &self,
        operation: &'static str,
        asked: Asked<'_>,
        what: &About,
    ) -> Result<Response<Incoming>, Failure> {
        let Asked { method, key, pin, range } = asked;
        let version = pin.version_id.as_deref();
        let no_version = |version: &&str| !C::is_version(version);
        if let Some(version) = version.filter(no_version) {
            return Err(Failure::is_final(Error::NotFound(format!("{what}: no version {version:?}"))));
        }
        let Some(url) = self.cloud.object_url(&format!("{}{key}", self.prefix), version) else {
            return Err(Failure::is_final(Error::Invalid(format!("{what}: no URL can name this key"))));
        };

        let mut headers = HeaderMap::new();
        if let Some((start, end)) = range {
            let last = end.map_or_else(String::new, |end| (end - 1).to_string());
            headers.insert(RANGE, value(&format!("bytes={start}-{last}"), what)?);
        }
        if let Some(etag) = &pin.if_match {
            headers.insert(IF_MATCH, value(&quoted(etag), what)?);
        }

        let subject = Subject::Object { is_pinned: pin.if_match.is_some(), has_version: version.is_some() };
        let sent = self.send(method.clone(), &url, headers, what, subject);
        let response = observed(&*self.observer, operation, span(operation), sent).await?;

        let is_expected =
            response.status() == if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        // A cloud that ignores the range is recognised by the head.
        if header(response.headers(), C::OWN).is_none() || !(is_expected || response.status() == StatusCode::OK) {
            return Err(failure::foreign::<C>(what));
        }
        Ok(response)
    }

    /// Sends one request, and returns the head of an answer with a status of success.
    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        about: &About,
        subject: Subject,
    ) -> Result<Response<Incoming>, Failure> {
        let invalid = |error: &dyn std::error::Error| {
            Failure::is_final(Error::Invalid(about.with_cause("the request can't be made", &error.to_string())))
        };

        let mut request = request(method, url).map_err(|error| invalid(&error))?;
        *request.headers_mut() = headers;
        self.cloud.prepare(request.headers_mut(), subject);
        self.cloud.authorize(&mut request, about).await?;

        // After the signature, because proxies may replace the span.
        for (name, text) in self.observer.trace_headers() {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(text)) {
                request.headers_mut().insert(name, value);
            }
        }

        let response = self.pool.send(request).await.map_err(|error| {
            if is_request_invalid(&error) { invalid(&error) } else { unreachable(&error, about, C::NAME) }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = Answer::read(response, about, subject, self.cloud.place()).await;
        Err(failure::of_answer(&self.cloud, &answer))
    }

    /// Requests a page of keys once.
    pub(super) async fn list(&self, request: &ListRequest) -> Result<ListPage, Failure> {
        let what = About::Consumer("the listing".to_owned());
        let limit = request.limit.unwrap_or(LIST_LIMIT_MAX).clamp(1, LIST_LIMIT_MAX);
        let position = Position::of(request.token.as_deref());
        // A name that was folded stands for all keys that begin with it.
        let is_folded = |name: &str| !request.recursive && name.ends_with('/') && name != request.prefix;
        let is_after_folded = position.after().is_some_and(is_folded);
        if position.after().is_some() && !C::STARTS_AFTER_NAMES {
            return Err(Failure::is_final(Error::Invalid(format!("{what}: `token` is not one of this store"))));
        }

        let prefix = format!("{}{}", self.prefix, request.prefix);
        let start_after = position.start_after(&self.prefix, is_after_folded);
        let page = PageRequest {
            prefix: &prefix,
            is_folded: !request.recursive,
            token: position.token(),
            start_after: start_after.as_deref(),
            limit,
        };
        let asked = self.page("list", page, &what);
        let answer = observed(&*self.observer, "list", span("list"), asked).await?;

        let wanted = Wanted {
            store: C::NAME,
            store_prefix: &self.prefix,
            position: &position,
            limit: limit as usize,
            starts_after_names: C::STARTS_AFTER_NAMES,
        };
        listing::page(answer, wanted, &what).map_err(Failure::is_final)
    }

    /// Sends one request that requires no object, only permission to list or to read.
    pub(super) async fn probe(&self) -> Result<(), Failure> {
        let what = self.what_place();
        let page = PageRequest { prefix: &self.prefix, is_folded: false, token: None, start_after: None, limit: 1 };

        // Each would be a separate trace, every ten seconds.
        let asked = self.page(PROBE, page, &what);
        observed(&*self.observer, PROBE, Span::none(), asked).await.map(drop)
    }

    async fn page(
        &self,
        operation: &'static str,
        page: PageRequest<'_>,
        what: &About,
    ) -> Result<listing::Answer, Failure> {
        let url = self.cloud.listing_url(page);
        let response = self.send(Method::GET, &url, HeaderMap::new(), what, Subject::Listing).await?;

        let cut = |_| Failure::passing(format!("{what}: {} cut the connection", C::NAME));
        let body = Limited::new(response.into_body(), PAGE_MAX_BYTES).collect().await.map_err(cut)?.to_bytes();
        C::page(&body).map_err(|problem| {
            tracing::debug!(operation, problem, "the answer is not a listing");
            failure::foreign::<C>(what)
        })
    }
}

fn value(text: &str, what: &About) -> Result<HeaderValue, Failure> {
    let invalid = |_| Failure::is_final(Error::Invalid(format!("{what}: `if_match` contains an invalid character")));
    HeaderValue::try_from(text).map_err(invalid)
}

fn span(operation: &'static str) -> Span {
    info_span!("cloud", otel.kind = "client", otel.status_code = Empty, operation, result = Empty)
}
