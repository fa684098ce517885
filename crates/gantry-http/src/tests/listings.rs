//! Listings for S3 clients, and index pages for browsers.

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
