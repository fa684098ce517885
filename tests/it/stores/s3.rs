//! The S3 store against a real S3 server.

use bytes::Bytes;
use gantry_relay::proto::Key;
use gantry_relay::store::Budget;
use gantry_relay::store::s3::{Credentials, Limits, Options, S3Store, StaticCredentials};

use super::conformance;
use super::conformance::Ways;
use crate::support::S3;
use crate::support::s3::Keys;

pub(crate) fn options(s3: &S3, bucket: &str, keys: &Keys) -> Options {
    Options {
        endpoint_url: Some(s3.endpoint().to_owned()),
        region: Some(s3.region().to_owned()),
        path_style: true,
        credentials: Credentials::Static(StaticCredentials {
            access_key_id: keys.access_key_id.clone(),
            secret_access_key: keys.secret_access_key.clone(),
            session_token: None,
        }),
        limits: Limits { range_bytes: conformance::RANGE_BYTES as u64, ..Limits::default() },
        ..Options::new(bucket)
    }
}

#[tokio::test]
async fn a_bucket_conforms() {
    let s3 = S3::shared().await;
    for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20), ("x/", 3, 200_000)] {
        let bucket = s3.bucket().await;
        let mut options = Options { prefix: prefix.to_owned(), ..options(s3, &bucket, s3.admin()) };
        options.limits.concurrency_max = concurrency_max;
        let store = S3Store::connect(options, Budget::new(budget_bytes)).await.unwrap();
        let put = async |name: &str, bytes: Bytes| {
            s3.put(&bucket, &format!("{prefix}{name}"), bytes, None).await;
        };
        // SeaweedFS lists as its folders are laid out.
        let ways = Ways { awkward: &["/leading", "a//b"], key_max: Key::MAX_BYTES - prefix.len(), is_ordered: false };
        conformance::conforms(&store, put, ways).await;
    }
}
