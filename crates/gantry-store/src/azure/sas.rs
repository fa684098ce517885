//! Shared access signatures.

use object_store::azure::split_sas;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Splits a signature into its parameters.
///
/// # Errors
/// If it is none. The error describes a valid one, and contains no part of it.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let form = "must be a shared access signature, as in sv=2023-11-03&sp=rl&se=…&sig=…";
    // A connection string contains addresses, too.
    if text.contains("AccountKey=") || text.contains("SharedAccessSignature=") {
        return Err(format!("is a connection string: {form}, from its SharedAccessSignature"));
    }
    if text.contains("://") {
        return Err(format!("is an address: {form}, the part after the question mark"));
    }

    if text.contains(char::is_whitespace) {
        return Err(format!("has white space inside: {form}, on one line"));
    }

    let pairs = split_sas(text).map_err(|_| form.to_owned())?;
    let has = |wanted: &str| pairs.iter().any(|(name, value)| name == wanted && !value.is_empty());
    if has("sig") && has("sv") { Ok(pairs) } else { Err(form.to_owned()) }
}

/// Checks that a signature is valid at the time `now` of the server, as far as its parameters show.
///
/// # Errors
/// If it is not. The error contains the time.
pub(super) fn check_time(pairs: &[(String, String)], now: OffsetDateTime) -> Result<(), String> {
    let time = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).and_then(|(_, value)| parse_time(value));

    if let Some(end) = time("se").filter(|end| *end <= now) {
        return Err(format!("it expired at {}", shown(end)));
    }
    if let Some(start) = time("st").filter(|start| *start > now) {
        return Err(format!("it is valid from {}", shown(start)));
    }
    Ok(())
}

/// Parses the forms of a time that a signature may have: with or without a time of day, and its seconds.
fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let complete = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        17 => format!("{}:00Z", text.strip_suffix('Z')?),
        _ => text.to_owned(),
    };
    OffsetDateTime::parse(&complete, &Rfc3339).ok()
}

fn shown(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signatures_are_accepted() {
        let pairs = parse("?sv=2023-11-03&sp=rl&se=2030-01-01T00%3A00%3A00Z&sig=a%2Bb%3D").unwrap();
        assert!(pairs.contains(&("sig".to_owned(), "a+b=".to_owned())), "{pairs:?}");

        for (text, problem) in [
            ("hush", "must be a shared access signature"),
            ("sv=1&sp=rl\n&sig=hush", "has white space inside: must be a shared access signature"),
            ("sv=1&sig=", "must be a shared access signature"),
            ("https://a.blob.core.windows.net/c?sv=1&sig=hush", "is an address"),
            ("AccountName=a;AccountKey=hush==", "is a connection string"),
            ("BlobEndpoint=https://a/;SharedAccessSignature=sv=1&sig=hush", "is a connection string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_signature_is_valid_only_in_its_time() {
        let now = parse_time("2026-01-01").unwrap();
        let check = |name: &str, time: &str| check_time(&[(name.to_owned(), time.to_owned())], now);
        assert_eq!(check("se", "2020-01-02T03:04Z").unwrap_err(), "it expired at 2020-01-02T03:04:00Z");
        assert!(check("se", "2020-01-02").is_err());
        assert_eq!(check("st", "2999-01-02T03:04:05Z").unwrap_err(), "it is valid from 2999-01-02T03:04:05Z");
        for (name, time) in [("se", "2999-01-01"), ("st", "2020-01-02T03:04:05Z"), ("se", "never")] {
            assert_eq!(check(name, time), Ok(()));
        }
    }
}
