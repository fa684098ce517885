//! `gantry serve --check`: tests everything that a relay needs, and reports what fails.

#[cfg(any(feature = "azure", feature = "gcs"))]
mod clouds;
mod nats;
mod s3;
mod stores;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::output;
use crate::config::{self, Config, Effective, http_authority};
use crate::http;
use gantry_proto::{StoreName, printable};
use gantry_store::cache::{Folder, Trouble, Unobserved};
use gantry_store::proxy_variable;

pub(super) use self::stores::explained;

/// The time limit for the collector of traces to accept a connection.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(2);

/// What to do about a certificate that is not valid at the time of the clock.
const CERTIFICATE_TIME_CURE: &str = "correct this machine's clock, or renew the certificate if the clock is right";

/// What to do if the service that issues tokens for a store is unavailable.
const TOKEN_SERVICE_CURE: &str = "let the relay reach this service, try again later, or use other credentials";

/// Prints the effective settings, and tests the parts of the configuration.
pub(super) async fn run(config: &Config, effective: &[Effective]) -> Result<(), Failure> {
    print(effective)?;
    output::line("\n# Test results.")?;
    let mut problems = Vec::new();

    report("http.listen", listen(config, effective).await, &mut problems)?;
    report("nats", nats::check(config, effective).await, &mut problems)?;

    if config.stores.is_empty() {
        let problem = "`stores.NAME.url` is missing: set a store, as in --store files=file:///srv/files";
        report("stores", Err(problem.to_owned()), &mut problems)?;
    }
    for name in config.stores.keys() {
        report(&format!("stores.{name}"), stores::check(config, name, effective).await, &mut problems)?;
    }

    for ignored in &config.ignored {
        output::line(&format!("WARNING: {}", printable::text(ignored)))?;
    }
    for (name, cache) in &config.caches {
        report(&format!("stores.{name}.cache_dir"), folder(cache, name, effective).await, &mut problems)?;
    }

    if let Some(url) = &config.telemetry.traces_url {
        report("telemetry.otlp_endpoint", Ok(collector(url).await), &mut problems)?;
    }

    if problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Usage, problems.join("\n"))) }
}

/// Prints the valid settings of an invalid configuration.
pub(super) fn print_valid(effective: &[Effective], error: &config::Error) -> Result<(), Failure> {
    output::line("# The configuration is invalid, and nothing was tested. The valid settings:")?;
    for line in effective.iter().filter(|line| !error.is_about(&line.key)) {
        output::line(&printable::text(&line.to_string()))?;
    }
    Ok(())
}

/// Prints every effective setting.
fn print(effective: &[Effective]) -> Result<(), Failure> {
    output::line("# The effective configuration, and where each value comes from.")?;
    for line in effective {
        output::line(&printable::text(&line.to_string()))?;
    }
    Ok(())
}

fn report(what: &str, outcome: Result<String, String>, problems: &mut Vec<String>) -> Result<(), Failure> {
    match outcome {
        Ok(text) => output::line(&format!("{what}: {}", printable::text(&text))),
        Err(problem) => {
            output::line(&format!("{what}: FAILED"))?;
            problems.push(printable::text(&problem).into_owned());
            Ok(())
        }
    }
}

/// Describes a key as every message about the configuration does: its name, its value and the place that sets it.
fn named(effective: &[Effective], key: &str) -> String {
    find(effective, key)
        .map_or_else(|| format!("`{key}` is not set"), |line| format!("`{key}` = {} in {}", line.value, line.origin))
}

/// Names the variable with the proxy for a store, and what to do.
fn proxy(effective: &[Effective], name: &StoreName) -> (String, &'static str) {
    let endpoint = find(effective, &format!("stores.{name}.endpoint_url"));
    let is_tls = !endpoint.is_some_and(|line| line.value.starts_with("\"http://"));
    let variable = proxy_variable(is_tls).unwrap_or("the proxy");
    (format!("{variable} in the environment"), "correct the proxy's address, or add the store's host to NO_PROXY")
}

/// What to do about an address of a server that also names the bucket or container.
const PLACE_IN_ENDPOINT_CURE: &str = "remove the bucket or container from the end of the address, since `url` names it";

/// Returns whether the address of a store's server ends with the name of the bucket or container.
fn endpoint_names_place(effective: &[Effective], name: &StoreName) -> bool {
    let value = |key: &str| find(effective, &format!("stores.{name}.{key}")).map(|line| line.value.trim_matches('"'));
    let place = value("url").and_then(|url| url.split_once("://")?.1.split('/').next());
    let path = value("endpoint_url").and_then(|url| url.split_once("://")?.1.split_once('/'));

    let last = path.and_then(|(_, path)| path.trim_end_matches('/').rsplit('/').next());
    last.is_some() && last == place
}

fn find<'a>(effective: &'a [Effective], key: &str) -> Option<&'a Effective> {
    effective.iter().find(|line| line.key == key)
}

/// Describes what to do about a store that fails for a while.
fn again(retry_after: Option<Duration>) -> String {
    match retry_after.filter(|after| *after > Duration::ZERO) {
        Some(after) => format!("try again in {} seconds", after.as_secs_f64().ceil()),
        None => "try again later".to_owned(),
    }
}

async fn listen(config: &Config, effective: &[Effective]) -> Result<String, String> {
    let Some(address) = config.http.listen else { return Ok("off".to_owned()) };
    match http::bind(address).await {
        Ok(_) => Ok(format!("{address} is free")),
        // The address may be in use by the relay that is about to be restarted.
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(format!("{address} is in use, perhaps by a relay")),
        Err(error) if config.http.is_chosen => {
            let key = named(effective, "http.listen");
            Err(format!("{key}: can't be bound: {error}: use another address, or off"))
        }
        Err(error) => Ok(format!("{address} can't be bound ({error}): the relay would run without its pages")),
    }
}

/// Reports whether a cache folder can be used.
async fn folder(cache: &config::Cache, name: &StoreName, effective: &[Effective]) -> Result<String, String> {
    let folder = Folder::open(cache.dir.clone(), cache.limits, Arc::new(Unobserved)).await;
    match folder.trouble() {
        None => Ok("can be used".to_owned()),
        // The relay that is about to be restarted may use it.
        Some(Trouble::Locked) => Ok("is in use, perhaps by a relay".to_owned()),
        Some(trouble) => Err(format!("{}: {trouble}", named(effective, &format!("stores.{name}.cache_dir")))),
    }
}

/// Reports whether the collector of traces accepts connections. A relay works without one.
async fn collector(url: &str) -> String {
    let address = http_authority(url);
    let reason = match timeout(COLLECTOR_TIMEOUT, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => return format!("{address} accepts connections"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {COLLECTOR_TIMEOUT:?}"),
    };
    format!("WARNING: {address} can't be reached ({reason}): traces are lost until a collector listens there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_collector_is_reported() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        assert!(collector(&url).await.ends_with("accepts connections"));

        drop(listener);
        let report = collector(&url).await;
        assert!(report.starts_with("WARNING: 127.0.0.1:") && report.contains("refused"), "{report}");
    }
}
