//! Index pages for browsers: plain HTML without scripts.

use std::sync::Arc;

use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue, VARY};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use gantry_proto::{ListEntry, StoreName, printable};
use gantry_store::{LIST_LIMIT_MAX, Store};

use crate::date;
use crate::fault::Fault;
use crate::list::{Page, Places, Start, Wanted, read_page};
use crate::reply::Reply;
use crate::target::Target;
use crate::xml::escape;

/// The characters without an escape in a link.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2em}td,th{padding:0 1.5em 0 0;text-align:left}\
                     td:nth-child(2),th:nth-child(2){text-align:right}";
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Returns whether a client wants HTML: it names the type, as browsers do.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get_all(hyper::header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',').any(|item| {
            let mut fields = item.split(';').map(str::trim);
            let is_html = fields.next().is_some_and(|name| name.eq_ignore_ascii_case("text/html"));
            is_html && !fields.any(|field| matches!(field, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
    })
}

/// The index page of all stores.
pub(crate) fn stores(names: &[StoreName]) -> Reply {
    let mut rows = String::new();
    for name in names {
        row(&mut rows, &format!("/{name}/"), &format!("{name}/"), "", "");
    }
    page("Stores", &rows, None)
}

/// The index page of a prefix, which is empty or ends in `/`.
///
/// # Errors
/// 404 if there are no keys with the prefix, and those of the store.
pub(crate) async fn prefix(
    store: Arc<dyn Store>,
    name: &StoreName,
    prefix: &str,
    target: &Target,
    places: &Places,
) -> Result<Reply, Fault> {
    let start = match target.query.value("continue") {
        Some(token) => {
            Start::of_token(token).ok_or_else(|| Fault::invalid_argument("`continue` is not a token of this server"))?
        }
        None => Start::default(),
    };
    let is_first = start == Start::default();

    let wanted = Wanted { prefix: prefix.to_owned(), is_recursive: false, limit: LIST_LIMIT_MAX, start };
    let listed = read_page(store.as_ref(), name, &wanted, places)
        .await
        .map_err(|error| Fault::of_bucket(&error, name.as_str()))?;

    let is_empty = listed.entries.is_empty() && listed.prefixes.is_empty() && listed.next.is_none();
    if is_empty && is_first && !prefix.is_empty() {
        let message = format!("there are no keys that begin with {prefix:?}");
        return Err(Fault::new(hyper::StatusCode::NOT_FOUND, "NoSuchKey", message));
    }

    let next = listed.next.as_ref().map(|next| format!("?continue={}", next.token()));
    Ok(page(&format!("{name}/{prefix}"), &rows(&listed, prefix, &target.base), next.as_deref()))
}

fn rows(listed: &Page, prefix: &str, base: &str) -> String {
    let mut rows = String::new();
    if !prefix.is_empty() || base != "/" {
        let parent = prefix.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| format!("{parent}/"));
        let up = if prefix.is_empty() { "/".to_owned() } else { link(base, &parent.unwrap_or_default()) };
        row(&mut rows, &up, "../", "", "");
    }

    for folder in &listed.prefixes {
        row(&mut rows, &link(base, folder), folder.strip_prefix(prefix).unwrap_or(folder), "", "");
    }
    // The key of the folder itself, which some tools create, would be a row without a name.
    for entry in listed.entries.iter().filter(|entry| entry.key != prefix) {
        let shown = entry.key.strip_prefix(prefix).unwrap_or(&entry.key);
        row(&mut rows, &link(base, &entry.key), shown, &entry.size.to_string(), &modified(entry));
    }
    rows
}

/// Returns the date to the second, without a zone, which is UTC.
fn modified(entry: &ListEntry) -> String {
    let date = date::s3(entry.last_modified.as_deref());
    if date == date::UNKNOWN {
        String::new()
    } else {
        date.replace('T', " ").split('.').next().unwrap_or_default().to_owned()
    }
}

/// Returns a link that stays on this host, even if the key begins with a slash.
fn link(base: &str, key: &str) -> String {
    let (slash, rest) = key.strip_prefix('/').map_or(("", key), |rest| ("%2F", rest));
    format!("{base}{slash}{}", utf8_percent_encode(rest, LINK))
}

fn row(rows: &mut String, link: &str, name: &str, size: &str, modified: &str) {
    rows.push_str("<tr><td><a href=\"");
    escape(link, rows);
    rows.push_str("\">");
    // A name must not change the order in which the text around it is shown.
    escape(&printable::text(name), rows);
    rows.push_str("</a></td><td>");
    escape(size, rows);
    rows.push_str("</td><td>");
    escape(modified, rows);
    rows.push_str("</td></tr>\n");
}

fn page(title: &str, rows: &str, next: Option<&str>) -> Reply {
    let mut heading = String::new();
    escape(&printable::text(title), &mut heading);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{heading}</title><style>{STYLE}</style></head>\n\
         <body><h1>{heading}</h1>\n<table>\n<tr><th>Name</th><th>Bytes</th><th>Modified (UTC)</th></tr>\n{rows}</table>\n"
    );
    if let Some(next) = next {
        html.push_str("<p><a href=\"");
        escape(next, &mut html);
        html.push_str("\">Next page</a></p>\n");
    }
    html.push_str("</body></html>\n");

    Reply::ok("text/html; charset=utf-8", html)
        .with(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))
        .with(hyper::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .with(CACHE_CONTROL, HeaderValue::from_static("no-cache"))
        .with(VARY, HeaderValue::from_static("Accept"))
}
