//! Store addresses: `s3://bucket/prefix` and `file:///dir`.

use std::path::PathBuf;

/// Nothing of such an address is shown: any part before its last `@` may be a password.
const NO_USER: &str = "must hold no user and password: must be s3://bucket/prefix or file:///dir";

/// Where a store's objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A bucket, and the beginning of the keys in it.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What stands before each key in the bucket; empty, or ending in `/`.
        prefix: String,
    },
    /// A directory.
    File {
        /// Its absolute path.
        dir: PathBuf,
    },
}

impl Place {
    /// Reads an address. `%XX` in it stands for a byte, as in every URL.
    ///
    /// # Errors
    /// With what would be right.
    pub fn parse(url: &str) -> Result<Self, String> {
        let form = "must be s3://bucket/prefix or file:///dir";
        let (scheme, rest) = url.split_once("://").ok_or(form)?;
        if let Some(found) = rest.find(['?', '#']) {
            return Err(format!(
                "takes no options after {:?}: endpoint and region have keys of their own, and in a prefix write %3F or %23",
                &rest[found..=found]
            ));
        }
        match scheme {
            "s3" => Self::s3(rest),
            "file" => Self::file(rest),
            other if other.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Err(format!("{form}, not {other}://")),
            _ => Err(form.to_owned()),
        }
    }

    fn s3(rest: &str) -> Result<Self, String> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = (1..=255).contains(&bucket.len())
            && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'))
            // Only the name of an access point has colons; elsewhere they part a user from a password.
            && (bucket.starts_with("arn:") || !bucket.contains(':'));
        if !fits && rest.contains('@') {
            return Err(NO_USER.to_owned());
        }
        if !fits {
            return Err(format!("{bucket:?} is not a bucket's name: must be s3://bucket/prefix"));
        }
        let mut prefix = percent_decode(prefix)?;
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix })
    }

    fn file(rest: &str) -> Result<Self, String> {
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        if !path.starts_with('/') && path.contains('@') {
            return Err(NO_USER.to_owned());
        }
        if !path.starts_with('/') {
            return Err(format!("must be an absolute path after three slashes, as in file:///{path}"));
        }
        Ok(Self::File { dir: PathBuf::from(percent_decode(path)?) })
    }
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let byte = rest
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or("has a % that no two hexadecimal digits follow: write %25 for a percent sign")?;
        bytes.push(byte);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 after decoding its %XX".to_owned())
}
