//! `gantry serve --check`: tries everything that a relay needs, and says what is wrong.

mod nats;
mod stores;

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::output;
use crate::config::{self, Config, Effective};
use crate::http;
use gantry_proto::printable;

/// How long the collector of traces may take to accept a connection.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries `config` out; `effective` is what it was read from.
pub(super) async fn run(config: &Config, effective: &[Effective]) -> Result<(), Failure> {
    print(effective)?;
    output::line("\n# What was tried.")?;
    let mut problems = Vec::new();
    tell("http.listen", listen(config, effective).await, &mut problems)?;
    tell("nats", nats::check(config, effective).await, &mut problems)?;
    if config.stores.is_empty() {
        let problem = "`stores.NAME.url` is missing: give a store, as in --store files=file:///srv/files";
        tell("stores", Err(problem.to_owned()), &mut problems)?;
    }
    for name in config.stores.keys() {
        tell(&format!("stores.{name}"), stores::check(config, name, effective).await, &mut problems)?;
    }
    if let Some(url) = &config.telemetry.traces_url {
        tell("telemetry.otlp_endpoint", Ok(collector(url).await), &mut problems)?;
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Usage, problems.join("\n"))) }
}

/// Prints what is valid of a configuration that is wrong, so that the error can be told from what is around it.
pub(super) fn print_valid(effective: &[Effective], error: &config::Error) -> Result<(), Failure> {
    output::line("# The configuration is wrong, and nothing was tried. What of it is valid:")?;
    for line in effective.iter().filter(|line| !error.is_about(&line.key)) {
        output::line(&printable::text(&line.to_string()))?;
    }
    Ok(())
}

/// Prints every key that applies.
fn print(effective: &[Effective]) -> Result<(), Failure> {
    output::line("# The configuration that applies, and where each value comes from.")?;
    for line in effective {
        output::line(&printable::text(&line.to_string()))?;
    }
    Ok(())
}

fn tell(what: &str, outcome: Result<String, String>, problems: &mut Vec<String>) -> Result<(), Failure> {
    match outcome {
        Ok(text) => output::line(&format!("{what}: {}", printable::text(&text))),
        Err(problem) => {
            output::line(&format!("{what}: FAILED"))?;
            problems.push(printable::text(&problem).into_owned());
            Ok(())
        }
    }
}

/// Names a key, its value and where it stands, as every message about the configuration does.
fn named(effective: &[Effective], key: &str) -> String {
    find(effective, key)
        .map_or_else(|| format!("`{key}` is not set"), |line| format!("`{key}` = {} in {}", line.value, line.origin))
}

fn find<'a>(effective: &'a [Effective], key: &str) -> Option<&'a Effective> {
    effective.iter().find(|line| line.key == key)
}

async fn listen(config: &Config, effective: &[Effective]) -> Result<String, String> {
    let Some(address) = config.http.listen else { return Ok("off".to_owned()) };
    match http::bind(address).await {
        Ok(_) => Ok(format!("{address} is free")),
        // A relay that runs may be why, and this may be the check before its restart.
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(format!("{address} is in use, by a relay perhaps")),
        Err(error) if config.http.chosen => {
            let key = named(effective, "http.listen");
            Err(format!("{key}: can't be listened on: {error}: choose another address, or off"))
        }
        Err(error) => Ok(format!("{address} can't be listened on ({error}): the relay would go without its pages")),
    }
}

/// Says whether the collector of traces is there. It is no problem if not: a relay works without it.
async fn collector(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
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

    /// A collector that was away passed without a word.
    #[tokio::test]
    async fn a_collector_that_is_away_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        assert!(collector(&url).await.ends_with("accepts connections"));
        drop(listener);
        let told = collector(&url).await;
        assert!(told.starts_with("WARNING: 127.0.0.1:") && told.contains("refused"), "{told}");
    }
}
