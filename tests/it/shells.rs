//! Completion scripts in real shells, and the manual pages in a real formatter.
//!
//! bash must be installed. zsh, fish and groff are used if they are, and reported otherwise.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::gantry::BINARY;

/// Runs a command that finds `gantry` on its path. Returns what it prints, or `None` if the program is not installed.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let folder = Path::new(BINARY).parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let output = match Command::new(program).args(args).env("PATH", path).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{program}: {error}"),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{program}: {}\n{stdout}\n{stderr}", output.status);
    Some(stdout.into_owned())
}

/// Runs a program that need not be installed.
fn run_if_installed(program: &str, args: &[&str]) -> Option<String> {
    let output = run(program, args);
    if output.is_none() {
        println!("not run: {program} is not installed");
    }
    output
}

#[test]
fn bash_completes_commands_and_options() {
    let script = r#"set -e
source <(gantry completions bash)
complete -p gantry
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gantry gantry "${*: -1}" "${*: -2:1}"; echo "${COMPREPLY[@]}"; }
complete_words gantry sy
complete_words gantry get --no-t
complete_words gantry completions zs
"#;
    let printed = run("bash", &["--norc", "-c", script]).expect("bash is needed");
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines[0].ends_with("-F _gantry gantry"), "{printed}");
    assert_eq!(lines[1..], ["sync", "--no-times", "zsh"], "{printed}");
}

#[test]
fn zsh_loads_its_completions() {
    let script = "autoload -Uz compinit; compinit -u -D; source <(gantry completions zsh); \
                  print -r -- $_comps[gantry]; whence -w _gantry";
    if let Some(printed) = run_if_installed("zsh", &["-f", "-c", script]) {
        assert_eq!(printed, "_gantry\n_gantry: function\n");
    }
}

#[test]
fn fish_completes_commands_and_options() {
    let script = "gantry completions fish | source; complete -C 'gantry sy'; complete -C 'gantry get --no-t'";
    if let Some(printed) = run_if_installed("fish", &["--no-config", "-c", script]) {
        let words: Vec<_> = printed.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(words, ["sync", "--no-times"]);
    }
}

#[test]
fn manual_pages_render_without_warnings() {
    for command in [&[][..], &["get"], &["sync"], &["watch"], &["serve"], &["find"]] {
        let page = Command::new(BINARY).arg("man").args(command).output().unwrap().stdout;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&page).unwrap();

        let args = ["-man", "-Tutf8", "-ww", "-P-c", "-P-b", "-P-u", file.path().to_str().unwrap()];
        if let Some(printed) = run_if_installed("groff", &args) {
            assert!(printed.contains("SYNOPSIS") && printed.contains("OPTIONS"), "{command:?}: {printed}");
        }
    }
}
