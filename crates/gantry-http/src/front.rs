//! Answers requests: checks them, finds their store, and calls what answers them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::Body;
use hyper::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SERVER, TRAILER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tracing::{Instrument as _, Span, field, info_span};

use gantry_proto::{Key, StoreName};
use gantry_store::Store;

use crate::content::Content;
use crate::fault::{Fault, METHODS};
use crate::list::{Listing, Places};
use crate::listener::Peer;
use crate::object::Read;
use crate::observe::Observe;
use crate::options::Options;
use crate::reply::Reply;
use crate::sign::{self, Signed};
use crate::stores::Stores;
use crate::target::{Place, Target};
use crate::timed::Phase;
use crate::tracked::{Report, Tracked};
use crate::{attributes, bucket, cors, date, head, index, parameters};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Front {
    stores: Arc<dyn Stores>,
    pub(crate) options: Options,
    pub(crate) observe: Arc<dyn Observe>,
    places: Places,
    requests: AtomicU64,
}

/// A request's head, with what was found in it.
#[derive(Debug)]
struct Head<'a> {
    method: &'a Method,
    version: Version,
    headers: &'a HeaderMap,
    target: &'a Target,
    has_trailer: bool,
}

impl Front {
    pub(crate) fn new(stores: Arc<dyn Stores>, options: Options, observe: Arc<dyn Observe>) -> Self {
        Self { stores, options, observe, places: Places::default(), requests: AtomicU64::new(0) }
    }

    /// Answers a request, which is the only one of its connection at the time if there is a `phase`. The body of the
    /// request is never read.
    pub(crate) async fn answer<B: Body>(
        &self,
        request: Request<B>,
        peer: Peer,
        phase: Option<Arc<Phase>>,
    ) -> Response<Tracked> {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream() || head::has_body(&head.headers);
        let host = head::host(&head.uri, &head.headers, head.version);
        let target = host.clone().and_then(|host| {
            self.check_host(host.as_deref())?;
            Target::parse(&head.uri, host.as_deref(), self.options.s3_domain.as_deref())
        });

        let store = target.as_ref().ok().and_then(|target| target.place.store());
        let span = self.span(&head.method, store, target.as_ref().ok());
        self.observe.started(&span, &head::trace(&head.headers));
        let mut report = Report::new(
            Arc::clone(&self.observe),
            phase,
            span.clone(),
            head::finished(&head.method, &head.uri, head.version, &head.headers, peer, store),
        );

        let request_id = format!("{:016X}", self.requests.fetch_add(1, Ordering::Relaxed));
        let resource = target.as_ref().map_or_else(|_| head.uri.path().to_owned(), |target| target.path.clone());
        let has_trailer = head.version >= Version::HTTP_11 && head::accepts_trailers(&head.headers);

        let answered = async {
            let target = target?;
            let head = Head {
                method: &head.method,
                version: head.version,
                headers: &head.headers,
                target: &target,
                has_trailer,
            };
            self.check(&head, has_body)?;
            check_parameters(&head)?;
            report.finished.access_key = self.check_signature(&head, peer)?;
            self.route(&head).await
        };
        let mut reply = match answered.instrument(span).await {
            Ok(reply) => reply,
            Err(fault) => fault.into_reply(&resource, &request_id),
        };

        self.complete(&head, &request_id, &mut reply);
        let has_trailer = reply.headers.contains_key(TRAILER);
        let status = reply.status.as_u16();
        reply.into_response(|content| Tracked::new(content, report, status, has_trailer))
    }

    fn span(&self, method: &Method, store: Option<&StoreName>, target: Option<&Target>) -> Span {
        let span = info_span!(
            "http",
            otel.kind = "server",
            %method,
            store = store.map(StoreName::as_str),
            key = field::Empty,
            status = field::Empty,
            bytes = field::Empty,
            outcome = field::Empty,
            otel.status_code = field::Empty,
        );
        if let Some(Target { place: Place::Object(_, key), .. }) = target
            && self.options.log_keys
        {
            span.record("key", gantry_proto::printable::name(key.as_str()).as_ref());
        }
        span
    }

    /// Checks the host's name against those by which clients may call the server.
    fn check_host(&self, host: Option<&str>) -> Result<(), Fault> {
        let (false, Some(host)) = (self.options.hosts.is_empty(), host) else { return Ok(()) };

        let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        let is_listed = self.options.hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host));
        let is_below = self.options.s3_domain.as_ref().is_some_and(|domain| {
            let at = host.len().saturating_sub(domain.len());
            host.split_at_checked(at).is_some_and(|(label, rest)| {
                rest.eq_ignore_ascii_case(domain) && (label.is_empty() || label.ends_with('.'))
            })
        });

        if is_address || is_listed || is_below || host.eq_ignore_ascii_case("localhost") {
            return Ok(());
        }
        let message = "the server is not configured to answer for this host name";
        Err(Fault::new(StatusCode::MISDIRECTED_REQUEST, "InvalidRequest", message))
    }

    fn check(&self, head: &Head<'_>, has_body: bool) -> Result<(), Fault> {
        // hyper limits the number of headers only for HTTP/1.
        if head.headers.len() > head::HEADERS_MAX {
            let message = "the request has too many headers";
            return Err(Fault::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "InvalidRequest", message));
        }
        if !matches!(*head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            let is_known = matches!(
                *head.method,
                Method::PUT | Method::POST | Method::DELETE | Method::PATCH | Method::TRACE | Method::CONNECT
            );
            let is_modification = is_known || head.method.as_str() == "MOVE";
            return Err(if is_modification {
                Fault::method_not_allowed()
            } else {
                Fault::not_implemented("the server does not know this method")
            });
        }

        // A body on a request that has none is most likely an attempt to hide another request in it.
        if has_body {
            return Err(Fault::invalid_request("a GET, HEAD or OPTIONS request must have no body"));
        }
        if head.target.path == "*" && *head.method != Method::OPTIONS {
            return Err(Fault::invalid_uri("only OPTIONS can have the target `*`"));
        }
        if head.version < Version::HTTP_10 || head.version > Version::HTTP_2 {
            return Err(Fault::not_implemented("the server does not know this version of HTTP"));
        }
        Ok(())
    }

    /// Returns the access key of the signature, if it was verified.
    fn check_signature(&self, head: &Head<'_>, peer: Peer) -> Result<Option<String>, Fault> {
        // A browser sends preflights without credentials, and they reveal nothing.
        if *head.method == Method::OPTIONS {
            return Ok(None);
        }

        let signed = signed(head);
        match (signed.is_signed(), self.options.keys.is_empty()) {
            (true, false) => signed.verify(&self.options.keys, date::now()).map(Some),
            (true, true) if peer.is_local() => Ok(None),
            (true, true) => Err(sign::unknown_key()),
            (false, false) if !self.options.anonymous => Err(Fault::denied("the request has no signature")),
            (false, _) => Ok(None),
        }
    }

    async fn route(&self, head: &Head<'_>) -> Result<Reply, Fault> {
        if *head.method == Method::OPTIONS {
            let reply = Reply::new(StatusCode::NO_CONTENT, Content::EMPTY);
            return Ok(reply.with(ALLOW, HeaderValue::from_static(METHODS)));
        }

        match &head.target.place {
            Place::Service => self.service(head).await,
            Place::Store(name) => self.bucket(head, name).await,
            Place::Object(name, key) => self.object(head, name, key).await,
        }
    }

    async fn service(&self, head: &Head<'_>) -> Result<Reply, Fault> {
        let mut names = self.stores.names().await.map_err(|error| Fault::of_store(&error, false))?;
        if let Some(prefix) = head.target.query.value("prefix") {
            names.retain(|name| name.as_str().starts_with(prefix));
        }
        Ok(if index::is_wanted(head.headers) { index::stores(&names) } else { bucket::list(&names) })
    }

    async fn bucket(&self, head: &Head<'_>, name: &StoreName) -> Result<Reply, Fault> {
        let query = &head.target.query;
        let store = self.store(name).await?;
        if query.has("location") {
            return bucket::location(store, name, &self.options.s3_region).await;
        }
        if index::is_wanted(head.headers) && !is_s3_listing(head.target) {
            return index::prefix(store, name, "", head.target, &self.places).await;
        }
        if *head.method == Method::HEAD {
            return bucket::head(store, name, &self.options.s3_region).await;
        }
        Listing { store, name, query, places: &self.places }.answer().await
    }

    async fn object(&self, head: &Head<'_>, name: &StoreName, key: &Key) -> Result<Reply, Fault> {
        let query = &head.target.query;
        let store = self.store(name).await?;
        if query.has("attributes") && *head.method == Method::GET {
            return attributes::answer(store, key, query, head.headers).await;
        }
        if key.as_str().ends_with('/') && index::is_wanted(head.headers) {
            return index::prefix(store, name, key.as_str(), head.target, &self.places).await;
        }

        let is_head = *head.method == Method::HEAD;
        let (has_trailer, has_length) = (head.has_trailer, head.version == Version::HTTP_2);
        Read { store, key, is_head, headers: head.headers, query, has_trailer, has_length }.answer().await
    }

    async fn store(&self, name: &StoreName) -> Result<Arc<dyn Store>, Fault> {
        let store = self.stores.store(name).await.map_err(|error| Fault::of_bucket(&error, name.as_str()))?;
        store.ok_or_else(|| Fault::no_such_store(name.as_str()))
    }

    /// Adds what every response has, and removes the content of an answer to HEAD.
    fn complete(&self, request: &Parts, request_id: &str, reply: &mut Reply) {
        if request.method == Method::HEAD {
            let content = std::mem::replace(&mut reply.content, Content::EMPTY).into_head();
            let is_chunked = reply.headers.contains_key(TRAILER) && request.version != Version::HTTP_2;
            if let Some(len) = content.head_len().filter(|_| reply.status != StatusCode::NOT_MODIFIED)
                && !is_chunked
            {
                reply.headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
            }
            reply.content = content;
        }

        if let Ok(id) = HeaderValue::from_str(request_id) {
            reply.headers.insert(HeaderName::from_static("x-amz-request-id"), id);
        }
        if !self.options.server_name.is_empty()
            && let Ok(name) = HeaderValue::from_str(&self.options.server_name)
        {
            reply.headers.insert(SERVER, name);
        }
        if reply.status == StatusCode::RANGE_NOT_SATISFIABLE {
            reply.headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        cors::allow(&self.options.cors_origins, &request.method, &request.headers, &mut reply.headers);
    }
}

/// Checks that the server understands the query, and that the request may have its parameters.
fn check_parameters(head: &Head<'_>) -> Result<(), Fault> {
    if *head.method == Method::OPTIONS {
        return Ok(());
    }

    let query = &head.target.query;
    let is_signed = signed(head).is_signed();
    let has_s3_header = head.headers.keys().any(|name| name.as_str().starts_with("x-amz-"));
    parameters::check(&head.target.place, query, is_signed || has_s3_header || query.has("x-id"))?;

    // Otherwise everybody could make a link to this server under which a file is a page with scripts.
    match parameters::overrides(query) {
        Some(name) if !is_signed => {
            let message = format!("`{name}` is allowed in signed requests only");
            Err(Fault::new(StatusCode::BAD_REQUEST, "InvalidRequest", message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns whether a request for a store has parameters of a listing, as S3 clients send them.
fn is_s3_listing(target: &Target) -> bool {
    ["list-type", "prefix", "delimiter", "max-keys", "marker"].iter().any(|name| target.query.has(name))
}

/// Returns the signed parts of a request. Without a path, clients sign `/`.
fn signed<'a>(head: &Head<'a>) -> Signed<'a> {
    let path = if head.target.path.is_empty() { "/" } else { &head.target.path };
    Signed { method: head.method, path, query: &head.target.query, headers: head.headers }
}
