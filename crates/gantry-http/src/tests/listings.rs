//! Listings for S3 clients, and index pages for browsers.

use futures_util::future::{FutureExt as _, ready};
use gantry_proto::{Key, ListEntry, ListPage, ListRequest, ObjectInfo, Pin, Span};
use gantry_store::Opened;

use super::*;

const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

fn site() -> Site {
    let site = Site::new();
    for key in ["a", "b/1", "b/2", "c d&<e>", "f/g/h", "z"] {
        site.put(key, 3);
    }
    site
}

/// Lists all pages by V2, and returns the keys and prefixes of each.
async fn all_v2(site: &Site, query: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = site.get(&format!("/models?list-type=2&{query}{token}"), &[]).await;
        assert_eq!(page.status, 200, "{page:?}");
        names.extend(page.elements("Key").into_iter().map(str::to_owned));
        names.extend(page.elements("CommonPrefixes").into_iter().map(str::to_owned));
        match page.elements("NextContinuationToken").first() {
            Some(next) => token = format!("&continuation-token={next}"),
            None => {
                assert_eq!(page.element("IsTruncated"), "false");
                return names;
            }
        }
    }
}

#[tokio::test]
async fn v2_lists_pages_of_keys_and_prefixes() {
    let site = site();
    let all = ["a", "b/1", "b/2", "c d&amp;&lt;e&gt;", "f/g/h", "z"];
    assert_eq!(all_v2(&site, "").await, all);
    assert_eq!(all_v2(&site, "max-keys=1").await, all);
    assert_eq!(all_v2(&site, "max-keys=4&encoding-type=url").await[3], "c%20d%26%3Ce%3E");
    assert_eq!(all_v2(&site, "prefix=b/").await, ["b/1", "b/2"]);
    assert_eq!(all_v2(&site, "start-after=b/1&max-keys=2").await, &all[2..]);
    assert_eq!(all_v2(&site, "start-after=zz").await, Vec::<String>::new());

    let folded = all_v2(&site, "delimiter=/&max-keys=1").await;
    assert_eq!(folded, ["a", "<Prefix>b/</Prefix>", "c d&amp;&lt;e&gt;", "<Prefix>f/</Prefix>", "z"]);
}

#[tokio::test]
async fn a_start_far_behind_the_first_page_is_found() {
    let site = Site::new();
    for i in 0..2500 {
        site.put(&format!("{i:04}"), 1);
    }

    // The store in memory can't begin after a name.
    let page = site.get("/models?list-type=2&max-keys=2&start-after=1998", &[]).await;
    assert_eq!(page.elements("Key"), ["1999", "2000"]);
    assert_eq!(page.element("IsTruncated"), "true");
    assert_eq!(all_v2(&site, "max-keys=100&start-after=1998").await.len(), 501);

    let page = site.get("/models?max-keys=2&marker=2497", &[]).await;
    assert_eq!((page.elements("Key"), page.element("IsTruncated")), (vec!["2498", "2499"], "false"));
}

/// A store that lists names in an order of its own, as directory buckets of AWS do. Its tokens are positions in it.
#[derive(Debug)]
struct Unordered(Vec<String>);

impl Unordered {
    /// `count` keys, and a folder after every tenth.
    fn of(count: usize) -> Self {
        // 997 is prime, so every name occurs once.
        let names = (0..count).map(|at| at * 997 % count);
        Self(names.map(|at| if at % 10 == 9 { format!("{at:04}/") } else { format!("{at:04}") }).collect())
    }

    fn sorted(&self) -> Vec<String> {
        let mut names = self.0.clone();
        names.sort();
        names
    }

    fn page(&self, request: &ListRequest) -> ListPage {
        let start = request.token.as_deref().map_or(0, |token| token.parse::<usize>().unwrap());
        let end = (start + request.limit.unwrap() as usize).min(self.0.len());

        let mut page = ListPage::default();
        for name in &self.0[start..end] {
            if name.ends_with('/') {
                page.prefixes.push(name.clone());
            } else {
                page.entries.push(ListEntry::new(name.clone(), 1));
            }
        }
        page.next = (end < self.0.len()).then(|| end.to_string());
        page
    }
}

impl Store for Unordered {
    fn open<'a>(&'a self, _: &'a Key, _: &'a Pin, _: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        ready(Err(Error::NotFound("no such object".to_owned()))).boxed()
    }

    fn stat<'a>(&'a self, _: &'a Key, _: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        ready(Err(Error::NotFound("no such object".to_owned()))).boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        ready(Ok(self.page(request))).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        ready(Ok(())).boxed()
    }
}

/// A store that can begin a page after any name, as directories and S3 do.
#[derive(Debug)]
struct Ordered(MemoryStore);

impl Store for Ordered {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        self.0.open(key, pin, span)
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        self.0.stat(key, pin)
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        self.0.list(request)
    }

    fn token_after(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.0.probe()
    }
}

/// Returns the names of all pages, sorted. `next` returns the target of the page after one.
async fn all_of(
    site: &Site,
    first: &str,
    headers: &[(&str, &str)],
    next: impl Fn(&Answer) -> Option<String>,
) -> Vec<String> {
    let mut names = Vec::new();
    let mut target = first.to_owned();
    loop {
        let page = site.get(&target, headers).await;
        assert_eq!(page.status, 200, "{page:?}");
        names.extend(page.elements("Key").into_iter().map(str::to_owned));
        names.extend(
            page.elements("CommonPrefixes")
                .into_iter()
                .map(|prefix| prefix.trim_start_matches("<Prefix>").trim_end_matches("</Prefix>").to_owned()),
        );
        names.extend(
            page.text().split("<a href=\"/shelf/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
        );

        match next(&page) {
            Some(next) => target = next,
            None => {
                names.sort();
                return names;
            }
        }
    }
}

async fn all_names(site: &Site, query: &str) -> Vec<String> {
    let target = format!("/shelf?list-type=2&delimiter=/{query}");
    let next = |page: &Answer| {
        let token = page.elements("NextContinuationToken").first().map(|token| (*token).to_owned());
        token.map(|token| format!("{target}&continuation-token={token}"))
    };
    all_of(site, &target, &[], next).await
}

#[tokio::test]
async fn a_store_without_order_is_listed_completely() {
    let store = Unordered::of(2500);
    let all = store.sorted();
    let site = Site::serving(Options::default(), Arc::new(store));

    for limit in [1000, 999, 7] {
        assert_eq!(all_names(&site, &format!("&max-keys={limit}")).await, all, "V2 {limit}");

        let target = format!("/shelf?delimiter=/&max-keys={limit}");
        let next =
            |page: &Answer| page.elements("NextMarker").first().map(|marker| format!("{target}&marker={marker}"));
        assert_eq!(all_of(&site, &target, &[], next).await, all, "V1 {limit}");
    }

    let next = |page: &Answer| {
        let link = page.text().split("<p><a href=\"").nth(1)?.split('"').next().unwrap().to_owned();
        Some(format!("/shelf/{link}"))
    };
    assert_eq!(all_of(&site, "/shelf/", &[BROWSER], next).await, all);
}

#[tokio::test]
async fn a_start_limits_a_store_without_order_to_greater_names() {
    let store = Unordered::of(2500);
    let all = store.sorted();
    let site = Site::serving(Options::default(), Arc::new(store));

    for limit in [1000, 7] {
        for start in [0, 1200, 2490] {
            let names = all_names(&site, &format!("&max-keys={limit}&start-after={start:04}")).await;
            assert_eq!(names, all[start + 1..], "{limit} {start}");
        }
    }
}

#[tokio::test]
async fn a_start_within_a_folded_prefix_lists_the_prefix() {
    let store = MemoryStore::new(PIECE);
    for key in ["a", "b-1", "b/1", "b/2", "b.txt", "c/1"] {
        store.put(key.parse().unwrap(), "x");
    }
    let site = Site::serving(Options::default(), Arc::new(Ordered(store)));

    for limit in [1000, 1] {
        for (start, names) in [("b/1", &["b/", "c/"][..]), ("b/", &["c/"]), ("b", &["b-1", "b.txt", "b/", "c/"])] {
            let found = all_names(&site, &format!("&max-keys={limit}&start-after={start}")).await;
            assert_eq!(found, names, "{limit} {start}");
        }
    }
}

#[tokio::test]
async fn v2_states_what_clients_read() {
    let site = site();
    let page = site.get("/models?list-type=2&prefix=b/&delimiter=/&max-keys=1", &[]).await;
    assert_eq!(page.header("content-type"), Some("application/xml"));
    for (name, value) in [
        ("Name", "models"),
        ("Prefix", "b/"),
        ("Delimiter", "/"),
        ("MaxKeys", "1"),
        ("KeyCount", "1"),
        ("IsTruncated", "true"),
        ("Size", "3"),
        ("ETag", "&quot;2&quot;"),
        ("LastModified", "2025-01-01T00:00:00.000Z"),
        ("StorageClass", "STANDARD"),
    ] {
        assert_eq!(page.element(name), value);
    }

    let none = site.get("/models?list-type=2&max-keys=0", &[]).await;
    assert_eq!((none.element("KeyCount"), none.element("IsTruncated")), ("0", "false"));
}

#[tokio::test]
async fn v1_continues_after_a_name() {
    let site = site();
    let mut names = Vec::new();
    let mut marker = String::new();
    loop {
        let page = site.get(&format!("/models?max-keys=2&encoding-type=url&marker={marker}"), &[]).await;
        names.extend(page.elements("Key").into_iter().map(str::to_owned));
        if page.element("IsTruncated") == "false" {
            break;
        }
        marker = page.element("NextMarker").to_owned();
        assert_eq!(marker, *names.last().unwrap());
    }
    assert_eq!(names, ["a", "b/1", "b/2", "c%20d%26%3Ce%3E", "f/g/h", "z"]);

    let from_middle = site.get("/models?marker=b/1x&delimiter=/", &[]).await;
    assert_eq!(from_middle.elements("Key").len(), 2);
    assert_eq!(from_middle.elements("CommonPrefixes").len(), 2, "more keys of b/ follow");
}

#[tokio::test]
async fn invalid_listings_have_codes() {
    let site = site();
    for (query, status, code) in [
        ("list-type=3", 400, "InvalidArgument"),
        ("list-type=2&max-keys=x", 400, "InvalidArgument"),
        ("list-type=2&max-keys=-1", 400, "InvalidArgument"),
        ("list-type=2&max-keys=99999999999999999999", 400, "InvalidArgument"),
        ("list-type=2&continuation-token=x", 400, "InvalidArgument"),
        ("list-type=2&encoding-type=x", 400, "InvalidArgument"),
        ("list-type=2&prefix=a%00", 400, "InvalidArgument"),
        ("list-type=2&delimiter=x", 501, "NotImplemented"),
        ("versions", 501, "NotImplemented"),
        ("policy", 501, "NotImplemented"),
        ("uploads", 501, "NotImplemented"),
    ] {
        let answer = site.get(&format!("/models?{query}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{query}");
    }
    let unknown = site.get("/none?list-type=2", &[]).await;
    assert_eq!((unknown.status, unknown.code()), (404, "NoSuchBucket"));
}

#[tokio::test]
async fn browsers_get_index_pages() {
    let site = site();
    let root = site.get("/", &[BROWSER]).await;
    assert!(root.text().contains("<a href=\"/models/\">models/</a>"), "{}", root.text());

    let store = site.get("/models/", &[BROWSER]).await;
    assert_eq!(store.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(store.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    for expected in [
        "<a href=\"/models/b/\">b/</a>",
        "<a href=\"/models/c%20d%26%3Ce%3E\">c d&amp;&lt;e&gt;</a></td><td>3</td><td>2025-01-01 00:00:00</td>",
        "<a href=\"/\">../</a>",
    ] {
        assert!(store.text().contains(expected), "{expected} in {}", store.text());
    }
    assert!(!store.text().contains("<script") && !store.text().contains("<e>"));

    let folder = site.get("/models/f/g/", &[BROWSER]).await;
    assert!(folder.text().contains("<a href=\"/models/f/\">../</a>"), "{}", folder.text());
    assert!(folder.text().contains("<a href=\"/models/f/g/h\">h</a>"));

    assert_eq!(site.get("/models/none/", &[BROWSER]).await.status, 404);
    // Without the wish for HTML, it is the object of that key.
    assert_eq!(site.get("/models/f/g/", &[]).await.code(), "NoSuchKey");
    assert_eq!(site.get("/models/f/g/", &[("Accept", "text/html;q=0, */*")]).await.code(), "NoSuchKey");
}

#[tokio::test]
async fn a_name_can_not_change_how_an_index_page_is_read() {
    let site = Site::new();
    site.put("invoice\u{202e}fdp.exe", 1);
    site.put("\u{2066}x/a", 1);

    for target in ["/models/", "/models/%E2%81%A6x/"] {
        let page = site.get(target, &[BROWSER]).await;
        assert_eq!(page.status, 200);
        assert!(page.text().chars().all(|c| gantry_proto::printable::is_printable(c) || c == '\n'), "{}", page.text());
    }
    assert!(site.get("/models/", &[BROWSER]).await.text().contains(">invoice\\u{202e}fdp.exe<"));
    // S3 clients get the name itself.
    assert!(site.get("/models?list-type=2", &[]).await.text().contains('\u{202e}'));
}

#[tokio::test]
async fn an_index_page_links_to_the_next() {
    let site = Site::new();
    for i in 0..1500 {
        site.put(&format!("{i:04}"), 1);
    }

    let first = site.get("/models/", &[BROWSER]).await;
    assert!(first.text().contains(">0999<") && !first.text().contains(">1000<"));
    let next = first.text().split("<p><a href=\"").nth(1).unwrap().split('"').next().unwrap();
    let second = site.get(&format!("/models/{next}"), &[BROWSER]).await;
    assert!(second.text().contains(">1000<") && second.text().contains(">1499<"));
    assert!(!second.text().contains("Next page"));
}
