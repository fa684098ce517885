//! Configuration files with any content, and variables: read, or rejected with all problems.

use std::path::Path;

use crate::gantry::config::Sources;
use crate::runtime;

pub(crate) fn run(data: &[u8]) {
    let file = &runtime::scratch("config.toml");
    std::fs::write(file, data).expect("the folder for temporary files is writable");
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let variables = [
        ("GANTRY_RELAY__TRANSFERS_MAX", lines.next()),
        ("GANTRY_STORES__A__URL", lines.next()),
        ("NATS_URL", lines.next()),
        ("NATS_TIMEOUT", lines.next()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", lines.next()),
    ];
    let of_lines = variables.map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()));
    for variables in [Vec::new(), of_lines.to_vec()] {
        let mut sources = Sources::of_environment(variables);
        sources.file = Some(file.clone());
        let (config, effective) = sources.read();
        match config {
            Ok(config) => {
                assert!(config.relay.transfers_max > 0);
                assert!(config.stores.keys().all(|name| !name.as_str().is_empty()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        for line in effective {
            assert!(!line.to_string().is_empty());
            check_origin(&line.origin, file, data);
        }
    }
}

/// Checks that a setting from the file comes from one of its lines.
fn check_origin(origin: &str, file: &Path, data: &[u8]) {
    let Some(line) = origin.strip_prefix(&format!("{}:", file.display())) else { return };
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line = line.parse::<usize>().expect("a line number follows the file");
    assert!((1..=lines).contains(&line), "line {line} of {lines}");
}
