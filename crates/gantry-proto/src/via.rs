//! The relays that a request has passed, so that relays that ask each other in a circle find out.

use std::fmt;

use super::error::{Code, WireError};

/// The relays that a request has passed, the first one first: the header `Gantry-Via` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via(Vec<String>);

impl Via {
    /// The most relays that a request may pass before it reaches the one that reads the object.
    pub const MAX: usize = 4;

    /// Parses the value of the header. Without it, the request comes from a consumer.
    ///
    /// # Errors
    /// `bad_request`, if the value is not a list of instances.
    pub fn parse(value: Option<&str>) -> Result<Self, WireError> {
        let Some(value) = value else { return Ok(Self::default()) };
        let is_instance = |text: &&str| {
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };

        // One more than allowed, so that a relay can refuse such a request by name.
        let passed: Vec<&str> = value.split(',').map(str::trim).take(Self::MAX + 2).collect();
        if passed.len() > Self::MAX + 1 || !passed.iter().all(is_instance) {
            return Err(WireError::bad_request("`Gantry-Via` must be at most 5 instances, separated by commas"));
        }
        Ok(Self(passed.into_iter().map(str::to_owned).collect()))
    }

    /// Returns the relays that the request has passed once this one has forwarded it.
    #[must_use]
    pub fn and(&self, instance: &str) -> Self {
        Self(self.0.iter().cloned().chain([instance.to_owned()]).collect())
    }

    /// Checks whether the relay `instance` may answer the request.
    ///
    /// # Errors
    /// A final `store_unavailable` that names the relays, if the request has passed this relay before, or too many others.
    pub fn check(&self, instance: &str) -> Result<(), WireError> {
        let path = || self.and(instance).0.join(" -> ");
        let message = if self.0.iter().any(|passed| passed == instance) {
            format!("relays ask each other for this store in a circle: {}: correct the `url` of their stores", path())
        } else if self.0.len() > Self::MAX {
            let max = Self::MAX;
            format!(
                "the request has passed more than {max} relays: {}: let one of them ask nearer to the store",
                path()
            )
        } else {
            return Ok(());
        };
        Err(WireError { retryable: false, ..WireError::new(Code::StoreUnavailable, message) })
    }

    /// Returns whether the request comes from a consumer.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let via = Via::default().and("a").and("b-1");
        assert_eq!(via.to_string(), "a,b-1");
        assert_eq!(Via::parse(Some("a, b-1")).unwrap(), via);
        assert!(Via::parse(None).unwrap().is_empty());
    }

    #[test]
    fn invalid_headers_are_refused() {
        let long = "a".repeat(65);
        for value in ["", ",", "a,", "a b", "a\u{e9}", "a,b,c,d,e,f", long.as_str()] {
            assert_eq!(Via::parse(Some(value)).unwrap_err().code, Code::BadRequest, "{value:?}");
        }
    }

    #[test]
    fn circles_and_long_paths_are_named() {
        let via = Via::default().and("a").and("b");
        assert_eq!(via.check("c"), Ok(()));

        let circle = via.check("a").unwrap_err();
        assert!(circle.message.contains("a -> b -> a") && !circle.retryable, "{circle:?}");

        let four = via.and("c").and("d");
        assert_eq!(four.check("e"), Ok(()));
        let long = four.and("e").check("f").unwrap_err();
        assert!(long.message.contains("more than 4 relays") && !long.retryable, "{long:?}");
    }
}
