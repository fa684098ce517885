//! Gantry's own configuration in the files of `deploy/`. `deploy/dev/check_deploy.py` checks everything else in them.

use std::path::Path;

use gantry::config::Sources;
use tempfile::TempDir;

/// Where the secrets are mounted. A test substitutes a folder, since each file must exist.
const SECRETS: &str = "/run/secrets/gantry";

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// Loads `settings`, which must name this number of files below [`SECRETS`].
fn load(settings: &str, files: usize) {
    let folder = TempDir::new().unwrap();
    let secrets = folder.path().display().to_string();
    let settings = settings.replace(SECRETS, &secrets);
    let named: Vec<_> = settings.split('"').filter(|text| text.starts_with(&secrets)).collect();
    assert_eq!(named.len(), files, "{settings}");
    for file in named {
        std::fs::create_dir_all(Path::new(file).parent().unwrap()).unwrap();
        std::fs::write(file, "x").unwrap();
    }
    let file = folder.path().join("gantry.toml");
    std::fs::write(&file, settings).unwrap();

    let config = Sources { file: Some(file), ..Sources::default() }.load().unwrap();

    assert_eq!(config.stores.len(), 1);
}

#[test]
fn kubernetes_configuration_is_valid() {
    let settings: Vec<_> =
        read("kubernetes/gantry.toml").lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    load(&settings.join("\n"), 1);
}

/// Users uncomment the examples in comments.
#[test]
fn kubernetes_configuration_in_comments_is_valid_too() {
    let text = read("kubernetes/gantry.toml");
    let uncommented =
        |line: &str| line.strip_prefix("# ").filter(|rest| rest.contains("_file = ")).unwrap_or(line).to_owned();
    let settings: Vec<_> = text.lines().map(uncommented).collect();
    load(&settings.join("\n"), 4);
}

#[test]
fn systemd_units_variables_are_settings() {
    for (unit, count) in [("systemd/gantry.service", 5), ("systemd/gantry-gateway.service", 3)] {
        let folder = TempDir::new().unwrap();
        let environment: Vec<_> = read(unit)
            .lines()
            .filter_map(|line| line.trim_start_matches('#').strip_prefix("Environment="))
            .filter_map(|variable| variable.split_once('='))
            .map(|(name, value)| {
                let text = value.replace("%d", &folder.path().display().to_string());
                if text != value {
                    std::fs::write(&text, "x").unwrap();
                }
                (name.to_owned(), text)
            })
            .chain([("GANTRY_STORES__FIRMWARE__URL".to_owned(), "s3://firmware-bucket".to_owned())])
            .collect();
        assert_eq!(environment.len(), count, "{unit}");

        let config = Sources::of_environment(environment).load().unwrap();

        assert_eq!(config.stores.len(), 1);
    }
}
