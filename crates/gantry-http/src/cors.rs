//! Which scripts of other origins may read responses in a browser. Source: the Fetch standard, "CORS protocol".

use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};

use crate::fault::METHODS;
use crate::options::CorsOrigins;

/// The headers that scripts may read besides those that they always may.
const EXPOSED: &str = "Accept-Ranges, Content-Disposition, Content-Encoding, Content-Length, Content-Range, ETag, Gantry-Proof, \
                       x-amz-checksum-crc32, x-amz-checksum-crc32c, x-amz-checksum-crc64nvme, x-amz-checksum-sha1, \
                       x-amz-checksum-sha256, x-amz-checksum-type, x-amz-mp-parts-count, x-amz-request-id, \
                       x-amz-version-id";

/// How long a browser may remember the answer to a preflight, in seconds.
const MAX_AGE: &str = "3600";

/// Adds to a response what allows the request's origin to read it, if it may.
pub(crate) fn allow(origins: &CorsOrigins, method: &Method, request: &HeaderMap, response: &mut HeaderMap) {
    let allowed = match origins {
        CorsOrigins::None => return,
        CorsOrigins::Any => HeaderValue::from_static("*"),
        CorsOrigins::These(origins) => {
            // A cache must not serve the answer for one origin to another.
            response.append(VARY, HeaderValue::from_static("Origin"));
            let Some(origin) = request.get(ORIGIN) else { return };
            if !origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
                return;
            }
            origin.clone()
        }
    };
    if !request.contains_key(ORIGIN) {
        return;
    }

    response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    if method != Method::OPTIONS || !request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return;
    }

    response.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    response.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    if let Some(requested) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        response.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
}
