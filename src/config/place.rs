//! The names of buckets and containers, and how a place in one is written.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The forms of a store's address.
pub(super) const STORE_FORM: &str =
    "must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, nats:STORE or file:///dir";

pub(super) fn is_bucket(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=255).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Source: Azure, "Naming and referencing containers, blobs, and metadata". Some containers have names of their own.
pub(super) fn is_container(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_ordinary = (3..=63).contains(&name.len()) && name.split('-').all(is_word);
    is_ordinary || matches!(name, "$web" | "$root" | "$logs")
}

/// Source: Azure, "Storage account overview", "Storage account name".
pub(super) fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Writes the address of a place, whose name and path may be encoded as in a URL. A part that is not valid is replaced
/// by an example.
pub(super) fn written(scheme: &str, name: &str, path: &str) -> String {
    let encoded = percent_decode(path.trim_matches('/')).ok().map(|path| path.chars().map(encoded).collect::<String>());
    let path = encoded.unwrap_or_else(|| "prefix".to_owned());
    if scheme == "file" {
        return format!("file:///{}", if path.is_empty() { "dir" } else { &path });
    }
    if scheme == "s3" && name.starts_with("arn:") {
        let arn = format!("{name}/{path}");
        let form = "arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix";
        return format!("s3://{}", if access_point(&arn).is_ok() { arn.trim_end_matches('/') } else { form });
    }

    let is_azure = scheme == "az";
    let name = percent_decode(name).unwrap_or_default();
    let name = if is_azure { name.to_ascii_lowercase() } else { name };
    if !(if is_azure { is_container } else { is_bucket })(&name) {
        return format!("{scheme}://{}/prefix", if is_azure { "container" } else { "bucket" });
    }
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{scheme}://{name}{slash}{path}")
}

/// Encodes a character of a path that has a meaning in addresses or in messages.
fn encoded(c: char) -> String {
    let has_meaning = c.is_control() || c.is_whitespace() || "%?#@\"'`,;:".contains(c);
    let mut bytes = [0; 4];
    let text: &str = c.encode_utf8(&mut bytes);
    if has_meaning { utf8_percent_encode(text, NON_ALPHANUMERIC).to_string() } else { text.to_owned() }
}

/// Decodes `%XX`.
///
/// # Errors
/// If that is not possible. The error says what to write.
pub(super) fn percent_decode(text: &str) -> Result<String, String> {
    // The crate leaves an incomplete %XX unchanged, which would hide a mistake.
    let is_hex = |text: &str| text.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !text.split('%').skip(1).all(is_hex) {
        return Err("has a % that is not followed by two hexadecimal digits: write %25 for a percent sign".to_owned());
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| "is not UTF-8 after decoding its %XX".to_owned())
}

/// Splits a text that begins with the ARN of an access point into the ARN and the rest. Source: Amazon S3 User Guide,
/// "Referencing access points".
pub(super) fn access_point(text: &str) -> Result<(String, &str), String> {
    let form = || "must be s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix".to_owned();
    let fields: Vec<&str> = text.splitn(6, ':').collect();
    let [_, partition, service, region, account, resource] = fields.as_slice() else { return Err(form()) };

    if matches!(*service, "s3-outposts" | "s3-object-lambda") {
        let kind = if *service == "s3-outposts" { "S3 on Outposts" } else { "S3 Object Lambda" };
        return Err(format!("is the ARN of an access point of {kind}, which is not supported"));
    }
    let Some(rest) = resource.strip_prefix("accesspoint").and_then(|rest| rest.strip_prefix([':', '/'])) else {
        return Err(format!("is not the ARN of an access point: {}, or s3://bucket/prefix", form()));
    };

    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if region.is_empty() || name.ends_with(".mrap") {
        let cure = "use the access point of one region";
        return Err(format!("is the ARN of a multi-region access point, which is not supported: {cure}"));
    }

    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if *service != "s3" || ![*partition, *region, *account, name].into_iter().all(is_word) {
        return Err(form());
    }
    Ok((format!("arn:{partition}:s3:{region}:{account}:accesspoint:{name}"), prefix))
}
