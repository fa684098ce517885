//! `gantry serve --check`: tries everything that a relay needs, and says what is wrong.

mod nats;
mod stores;

use std::io::ErrorKind;

use super::exit::{Exit, Failure};
use super::output;
use crate::config::{self, Config, Effective};
use crate::http;

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
    if problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Usage, problems.join("\n"))) }
}

/// Prints what is valid of a configuration that is wrong, so that the error can be told from what is around it.
pub(super) fn print_valid(effective: &[Effective], error: &config::Error) -> Result<(), Failure> {
    output::line("# The configuration is wrong, and nothing was tried. What of it is valid:")?;
    for line in effective.iter().filter(|line| !error.is_about(&line.key)) {
        output::line(&line.to_string())?;
    }
    Ok(())
}

/// Prints every key that applies.
fn print(effective: &[Effective]) -> Result<(), Failure> {
    output::line("# The configuration that applies, and where each value comes from.")?;
    for line in effective {
        output::line(&line.to_string())?;
    }
    Ok(())
}

fn tell(what: &str, outcome: Result<String, String>, problems: &mut Vec<String>) -> Result<(), Failure> {
    match outcome {
        Ok(text) => output::line(&format!("{what}: {text}")),
        Err(problem) => {
            output::line(&format!("{what}: FAILED"))?;
            problems.push(problem);
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
