//! Makes the SDK's clients, and replaces them for another region or with new credentials.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, Builder, Credentials as SdkCredentials, Region, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connections::{self, Outages};
use super::every_request::EveryRequest;
use super::options::{Credentials, Options, StaticCredentials};
use crate::{Error, Unobserved};

/// The region of S3 servers without regions. AWS answers here with the region of any bucket.
const REGION_FALLBACK: &str = "us-east-1";

/// Minimum time between two loads of the credentials.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// The client of one bucket. It is replaced if S3 states another region or rejects the credentials.
#[derive(Debug)]
pub(super) struct Live {
    options: Options,
    /// The connections, which outlive a client.
    http: Http,
    client: RwLock<Arc<Client>>,
    /// The credentials in use. Locked while they are loaded.
    loaded: Mutex<Loaded>,
}

/// The connections to S3, and those to the services that issue credentials.
#[derive(Debug)]
struct Http {
    s3: SharedHttpClient,
    /// A store's own certificate authorities need not have issued these services' certificates.
    credentials: SharedHttpClient,
    outages: Outages,
}

impl Http {
    fn new(options: &Options) -> Result<Self, Error> {
        let of_environment = ca_of_environment();
        let ca = options.tls_ca_file.as_deref().or(of_environment.as_deref());

        let outages = Outages::default();
        let unobserved = Arc::new(Unobserved) as _;
        Ok(Self {
            s3: connections::pool(ca, &options.observer, &outages)?,
            credentials: connections::pool_for_credentials(of_environment.as_deref(), &unobserved, &outages)?,
            outages,
        })
    }
}

#[derive(Debug)]
struct Loaded {
    at: Instant,
    /// The key, unless the SDK finds it.
    keys: Option<StaticCredentials>,
}

impl Live {
    pub(super) async fn connect(options: Options) -> Result<Self, Error> {
        check(&options)?;
        let keys = keys(&options.credentials)?;
        let http = Http::new(&options)?;
        let client = Box::pin(client(&options, keys.as_ref(), &http)).await;
        let loaded = Mutex::new(Loaded { at: Instant::now(), keys });
        Ok(Self { options, http, client: RwLock::new(Arc::new(client)), loaded })
    }

    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the outages of the services that issue credentials.
    pub(super) const fn outages(&self) -> &Outages {
        &self.http.outages
    }

    /// Signs for `region` from now on. Returns whether the region has changed.
    pub(super) fn move_to(&self, region: &str) -> bool {
        let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if client.config().region().is_some_and(|now| now.as_ref() == region) {
            return false;
        }
        tracing::info!(bucket = self.options.bucket, region, "bucket is in another region");
        let config = client.config().to_builder().region(Region::new(region.to_owned())).build();
        *client = Arc::new(Client::from_conf(config));
        true
    }

    pub(super) const fn has_key_files(&self) -> bool {
        matches!(self.options.credentials, Credentials::Files(_))
    }

    /// Loads the credentials again, unless `used` was already replaced or they were loaded a moment ago. Returns
    /// whether another attempt makes sense, which is not the case if the files still contain the same key.
    pub(super) async fn reload(&self, used: &Arc<Client>) -> Result<bool, Error> {
        let mut loaded = self.loaded.lock().await;
        if !Arc::ptr_eq(used, &self.client()) {
            return Ok(true);
        }

        let keys = keys(&self.options.credentials)?;
        let from_files = self.has_key_files();
        if from_files && keys == loaded.keys {
            return Ok(false);
        }
        if !from_files && loaded.at.elapsed() < RELOAD_INTERVAL {
            return Ok(true);
        }

        let region = used.config().region().map(|region| region.as_ref().to_owned());
        let options = Options { region, ..self.options.clone() };
        let fresh = Box::pin(client(&options, keys.as_ref(), &self.http)).await;

        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        *loaded = Loaded { at: Instant::now(), keys };
        Ok(true)
    }
}

fn check(options: &Options) -> Result<(), Error> {
    let limits = &options.limits;
    let invalid = |message: &str| Err(Error::Invalid(format!("bucket {:?}: {message}", options.bucket)));
    if options.bucket.is_empty() || options.bucket.contains('/') {
        return invalid("is not a bucket's name");
    }
    if limits.range_bytes == 0 || limits.concurrency_max == 0 || limits.attempts_max == 0 {
        return invalid("range size, concurrency and attempts must be at least 1");
    }

    let Some(url) = &options.endpoint_url else { return Ok(()) };
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return invalid("the endpoint URL begins with neither http:// nor https://");
    };
    if rest.split('/').next().is_none_or(|host| host.is_empty() || host.contains('@')) {
        return invalid("the endpoint URL has no host, or contains credentials, which are not allowed there");
    }
    Ok(())
}

/// Returns the configured key, or the one that the files contain now.
fn keys(credentials: &Credentials) -> Result<Option<StaticCredentials>, Error> {
    Ok(match credentials {
        Credentials::Static(keys) => Some(keys.clone()),
        Credentials::Files(files) => Some(files.read()?),
        Credentials::Chain | Credentials::Anonymous => None,
    })
}

async fn client(options: &Options, keys: Option<&StaticCredentials>, http: &Http) -> Client {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region(options))
        .http_client(http.credentials.clone());
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }

    let is_anonymous = matches!(options.credentials, Credentials::Anonymous);
    loader = match keys {
        Some(keys) => loader.credentials_provider(SdkCredentials::new(
            &keys.access_key_id,
            &keys.secret_access_key,
            keys.session_token.clone(),
            None,
            "configuration",
        )),
        None if is_anonymous => loader.no_credentials(),
        None => loader,
    };

    let sdk = loader.load().await;
    let endpoint = endpoint(options, &sdk);
    let mut config = Builder::from(&sdk)
        .http_client(http.s3.clone())
        .force_path_style(is_path_style(options, endpoint.as_deref()))
        // An access point is reached in its own region.
        .use_arn_region(true)
        // A ranged GET must not be compared with the whole object's checksum. The consumer verifies it.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // Retries and stalled bodies are handled by `ranged`. The SDK does not retry bodies, shares one bucket of retry
        // tokens among all requests, and abandons a body after 5 s.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(EveryRequest(Arc::clone(&options.observer)))
        .timeout_config(TimeoutConfig::builder().connect_timeout(options.limits.connect_timeout).build());

    if let Some(url) = endpoint {
        config = config.endpoint_url(url);
    }
    if let Ok(name) = AppName::new("gantry") {
        config = config.app_name(name);
    }
    if is_anonymous {
        config = config.allow_no_auth();
    }

    Client::from_conf(config.build())
}

/// Returns the endpoint of the options, the environment or the profile. The SDK appends the bucket to its path without a slash, so a
/// path must end with one.
fn endpoint(options: &Options, sdk: &SdkConfig) -> Option<String> {
    let of_profile = || sdk.endpoint_url().map(str::to_owned);
    let url = options.endpoint_url.clone().or_else(endpoint_of_environment).or_else(of_profile)?;
    let has_path = url.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    Some(if has_path && !url.ends_with('/') { url + "/" } else { url })
}

/// Returns whether requests have the bucket in the path. Apart from AWS's own, few servers have a DNS name for every
/// bucket. An access point is always part of the host name.
fn is_path_style(options: &Options, endpoint: Option<&str>) -> bool {
    !options.bucket.starts_with("arn:") && options.path_style.unwrap_or(endpoint.is_some())
}

/// Returns the endpoint in the environment, or `None` if it is unset or the environment disables it.
pub(super) fn endpoint_of_environment() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"))
}

/// Returns the file of certificate authorities for all AWS services that the environment names.
fn ca_of_environment() -> Option<PathBuf> {
    std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Returns where to look for the region. Only for AWS itself does this include the instance metadata service, which
/// does not exist elsewhere.
fn region(options: &Options) -> RegionProviderChain {
    let chain = RegionProviderChain::first_try(options.region.clone().map(Region::new));
    let chain = if options.region.is_some() {
        chain
    } else if options.endpoint_url.is_some() {
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &options.profile {
            profile = profile.profile_name(name);
        }
        chain.or_else(EnvironmentVariableRegionProvider::new()).or_else(profile.build())
    } else {
        let mut default = aws_config::default_provider::region::Builder::default();
        if let Some(name) = &options.profile {
            default = default.profile_name(name);
        }
        chain.or_else(default.build())
    };
    chain.or_else(Region::new(REGION_FALLBACK))
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::presigning::PresigningConfig;

    use super::*;

    fn sdk(endpoint_of_profile: Option<&str>) -> SdkConfig {
        let mut sdk = SdkConfig::builder();
        sdk.set_endpoint_url(endpoint_of_profile.map(str::to_owned));
        sdk.build()
    }

    #[test]
    fn an_endpoint_of_the_profile_is_used_like_a_configured_one() {
        let own = Options { endpoint_url: Some("http://own/s3".to_owned()), ..Options::new("bucket") };
        let none = Options::new("bucket");

        let found = endpoint(&none, &sdk(Some("http://minio.example/s3")));
        assert_eq!(found.as_deref(), Some("http://minio.example/s3/"));
        assert!(is_path_style(&none, found.as_deref()));

        assert_eq!(endpoint(&own, &sdk(Some("http://minio.example"))).as_deref(), Some("http://own/s3/"));
        assert_eq!(endpoint(&none, &sdk(None)), None);
        assert!(!is_path_style(&none, None));
    }

    #[tokio::test]
    async fn an_access_point_is_part_of_the_host_name() {
        let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint:point";
        let credentials = Credentials::Static(StaticCredentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "secret".to_owned(),
            session_token: None,
        });
        let options = Options { region: Some("us-east-1".to_owned()), credentials, ..Options::new(arn) };
        let client = Live::connect(options).await.unwrap().client();

        let an_hour = PresigningConfig::expires_in(Duration::from_secs(3600)).unwrap();
        let request = client.get_object().bucket(arn).key("a/b").presigned(an_hour).await.unwrap();

        let expected = "https://point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/a/b?";
        assert!(request.uri().starts_with(expected), "{}", request.uri());
    }

    #[test]
    fn a_configured_path_style_applies_with_and_without_an_endpoint() {
        for is_path in [true, false] {
            let options = Options { path_style: Some(is_path), ..Options::new("bucket") };
            assert_eq!(is_path_style(&options, None), is_path);
            assert_eq!(is_path_style(&options, Some("http://minio.example")), is_path);
        }
    }
}
