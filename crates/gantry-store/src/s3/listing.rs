//! Converts S3's listings.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;

use super::object::rfc3339;
use crate::Error;
use crate::listing::{self, Answer, Line, Wanted};
use crate::position::Position;
use crate::ranged::About;
use gantry_proto::ListPage;

/// Reads a page of keys, as [`listing::page`] does.
///
/// # Errors
/// [`Error::Protocol`] if the page is incomplete and S3 does not state how to continue.
pub(super) fn page(output: &ListObjectsV2Output, wanted: Wanted<'_>, what: &About) -> Result<ListPage, Error> {
    listing::page(answer(output), wanted, what)
}

/// Returns the requirements for a page of at most `limit` entries and prefixes that begins at `position`.
pub(super) fn wanted<'a>(
    store_prefix: &'a str,
    position: &'a Position,
    limit: usize,
    starts_after_names: bool,
) -> Wanted<'a> {
    Wanted { store: "S3", store_prefix, position, limit, starts_after_names }
}

fn answer(output: &ListObjectsV2Output) -> Answer {
    let lines = output.contents().iter().filter_map(|object| {
        Some(Line {
            name: object.key()?.to_owned(),
            size: object.size().and_then(|size| u64::try_from(size).ok()),
            etag: object.e_tag().map(str::to_owned),
            last_modified: object.last_modified().and_then(rfc3339),
        })
    });
    let prefixes = output.common_prefixes().iter().filter_map(|folded| folded.prefix().map(str::to_owned));

    Answer {
        lines: lines.collect(),
        prefixes: prefixes.collect(),
        is_encoded: output.encoding_type() == Some(&EncodingType::Url),
        is_truncated: output.is_truncated() == Some(true),
        token: output.next_continuation_token().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{CommonPrefix, Object};
    use gantry_proto::limits::{TOKEN_MAX_BYTES, VERSION_MAX_BYTES};

    use super::*;

    const STORE_PREFIX: &str = "store/";

    /// An answer with these keys and prefixes below the store's prefix.
    fn output(keys: &[&str], prefixes: &[&str], token: Option<&str>) -> ListObjectsV2Output {
        let below = |name: &&str| format!("{STORE_PREFIX}{name}");
        let objects = keys.iter().map(|key| Object::builder().key(below(key)).size(1).build());
        let folded = prefixes.iter().map(|prefix| CommonPrefix::builder().prefix(below(prefix)).build());

        ListObjectsV2Output::builder()
            .set_contents(Some(objects.collect()))
            .set_common_prefixes(Some(folded.collect()))
            .set_next_continuation_token(token.map(str::to_owned))
            .is_truncated(token.is_some())
            .build()
    }

    fn read(output: &ListObjectsV2Output, position: &Position, limit: usize) -> Result<ListPage, Error> {
        let what = About::Consumer("the listing".to_owned());
        page(output, wanted(STORE_PREFIX, position, limit, true), &what)
    }

    fn names(page: &ListPage) -> Vec<&str> {
        let mut names: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
        names.extend(page.prefixes.iter().map(String::as_str));
        names.sort_unstable();
        names
    }

    #[test]
    fn more_names_than_requested_are_read_page_by_page_exactly_once() {
        let output = output(&["a", "c", "e", "\u{fffd}"], &["b/", "d/"], None);
        let mut position = Position::Start;
        let mut found = Vec::new();
        let mut omitted = 0;

        loop {
            let page = read(&output, &position, 2).unwrap();
            assert!(names(&page).len() <= 2);
            found.extend(names(&page).into_iter().map(str::to_owned));
            omitted += page.omitted;
            let Some(token) = page.next else { break };
            position = Position::of(Some(&token));
        }

        assert_eq!(found, ["a", "b/", "c", "d/", "e"]);
        assert_eq!(omitted, 1);
    }

    #[test]
    fn a_complete_page_continues_at_the_token_of_s3() {
        let page = read(&output(&["a"], &[], Some("t")), &Position::Start, 10).unwrap();

        assert_eq!(page.next.as_deref(), Some("t"));
    }

    #[test]
    fn without_a_usable_token_the_next_page_begins_after_the_last_name() {
        let long = "t".repeat(TOKEN_MAX_BYTES + 1);
        for token in ["", &long] {
            let page = read(&output(&["a", "b"], &[], Some(token)), &Position::Start, 10).unwrap();
            assert_eq!(Position::of(page.next.as_deref()), Position::After("b".to_owned()));

            let empty = read(&output(&[], &[], Some(token)), &Position::Start, 10);
            assert!(matches!(empty, Err(Error::Protocol(_))), "{empty:?}");
        }
    }

    #[test]
    fn a_bucket_without_order_never_continues_after_a_name() {
        let what = About::Consumer("the listing".to_owned());
        for (keys, token) in [(&["b", "a"][..], Some("")), (&["c", "a", "b"], Some("t"))] {
            let wanted = wanted(STORE_PREFIX, &Position::Start, 2, false);
            let unusable = page(&output(keys, &[], token), wanted, &what);
            assert!(matches!(unusable, Err(Error::Protocol(_))), "{unusable:?}");
        }
    }

    #[test]
    fn a_token_that_leads_to_itself_is_an_error() {
        let position = Position::Token("t".to_owned());

        let repeated = read(&output(&["a"], &[], Some("t")), &position, 10);

        assert!(matches!(repeated, Err(Error::Protocol(_))), "{repeated:?}");
    }

    #[test]
    fn an_entry_has_no_overlong_etag_and_no_invalid_size() {
        let objects = [
            Object::builder().key("store/a").size(1).e_tag("x".repeat(VERSION_MAX_BYTES + 1)).build(),
            Object::builder().key("store/b").size(-1).build(),
            Object::builder().key("store/c").build(),
        ];
        let output = ListObjectsV2Output::builder().set_contents(Some(objects.into())).build();

        let page = read(&output, &Position::Start, 10).unwrap();

        assert_eq!((names(&page), page.omitted), (vec!["a"], 2));
        assert_eq!(page.entries[0].etag, None);
    }
}
