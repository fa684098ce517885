//! Entity tags. Source: RFC 9110, section 8.8.3.

/// An entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag {
    is_weak: bool,
    /// Without the quotes.
    opaque: String,
}

impl EntityTag {
    /// Converts a store's `ETag`, which is opaque and may have no quotes.
    pub(crate) fn of_store(etag: &str) -> Self {
        let (is_weak, rest) = etag.strip_prefix("W/").map_or((false, etag), |rest| (true, rest));
        let opaque = rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));

        match opaque {
            Some(opaque) if is_opaque(opaque) => Self { is_weak, opaque: opaque.to_owned() },
            None if is_opaque(etag) => Self { is_weak: false, opaque: etag.to_owned() },
            Some(_) | None => Self { is_weak: false, opaque: hex(etag) },
        }
    }

    /// Parses a whole header value, such as that of `If-Range`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (is_weak, rest) = text.strip_prefix("W/").map_or((false, text), |rest| (true, rest));
        let opaque = rest.strip_prefix('"')?.strip_suffix('"')?;
        is_opaque(opaque).then(|| Self { is_weak, opaque: opaque.to_owned() })
    }

    /// Source: RFC 9110, section 8.8.3.2, "Strong comparison".
    pub(crate) fn matches_strongly(&self, other: &Self) -> bool {
        !self.is_weak && !other.is_weak && self.opaque == other.opaque
    }

    /// Source: RFC 9110, section 8.8.3.2, "Weak comparison".
    pub(crate) fn matches_weakly(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }

    /// Returns the tag as a header's value.
    pub(crate) fn text(&self) -> String {
        let weak = if self.is_weak { "W/" } else { "" };
        format!("{weak}\"{}\"", self.opaque)
    }
}

/// What `If-Match` or `If-None-Match` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    Any,
    These(Vec<EntityTag>),
}

impl Tags {
    /// Parses a list. Tags without quotes are accepted, since S3 accepts them. What is not a tag matches nothing.
    pub(crate) fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::Any;
        }

        let mut tags = Vec::new();
        let mut rest = text.trim_start_matches(SEPARATORS);
        while !rest.is_empty() {
            let start = rest.strip_prefix("W/").unwrap_or(rest);
            let before = rest.len() - start.len();
            let quoted = start.strip_prefix('"').and_then(|inner| inner.find('"')).map(|end| before + end + 2);
            let end = quoted.unwrap_or_else(|| rest.find(SEPARATORS).unwrap_or(rest.len()));

            let (tag, after) = rest.split_at(end.max(1));
            let bare = || is_opaque(tag).then(|| EntityTag { is_weak: false, opaque: tag.to_owned() });
            tags.extend(EntityTag::parse(tag).or_else(bare));
            rest = after.trim_start_matches(SEPARATORS);
        }

        Self::These(tags)
    }

    pub(crate) fn any(&self, mut matches: impl FnMut(&EntityTag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(&mut matches),
        }
    }
}

const SEPARATORS: [char; 3] = [',', ' ', '\t'];

fn is_opaque(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e))
}

fn hex(text: &str) -> String {
    text.bytes().fold("x-".to_owned(), |mut hex, byte| {
        hex.push_str(&format!("{byte:02x}"));
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stores_tag_becomes_a_valid_one() {
        for (stored, sent) in [
            ("\"a-2\"", "\"a-2\""),
            ("a", "\"a\""),
            ("W/\"a\"", "W/\"a\""),
            ("a b", "\"x-612062\""),
            ("\"a\"b\"", "\"x-2261226222\""),
            ("", "\"\""),
        ] {
            assert_eq!(EntityTag::of_store(stored).text(), sent);
        }
    }

    #[test]
    fn lists_are_parsed_as_clients_write_them() {
        let texts = |list: &str| match Tags::parse(list) {
            Tags::Any => vec!["*".to_owned()],
            Tags::These(tags) => tags.iter().map(EntityTag::text).collect(),
        };
        assert_eq!(texts(" * "), ["*"]);
        assert_eq!(texts("\"a\", W/\"b,c\" ,,\"d\""), ["\"a\"", "W/\"b,c\"", "\"d\""]);
        assert_eq!(texts("abc, def"), ["\"abc\"", "\"def\""]);
        assert_eq!(texts("\"a"), Vec::<String>::new());
        assert_eq!(texts(", é ,"), Vec::<String>::new());
    }

    #[test]
    fn weak_tags_match_weakly_only() {
        let (weak, strong) = (EntityTag::of_store("W/\"a\""), EntityTag::of_store("\"a\""));
        assert!(weak.matches_weakly(&strong) && !weak.matches_strongly(&strong) && !weak.matches_strongly(&weak));
        assert!(strong.matches_strongly(&strong));
    }
}
