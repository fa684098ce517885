//! `gantry help`, `gantry completions` and `gantry man`: commands that need neither a configuration nor a connection.

use std::io::Write as _;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use super::exit::Failure;
use super::{Cli, output};

/// What the exit codes mean.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
    0  success; a download is complete and verified
    1  any other failure, or a download that left out objects
    2  invalid command line or configuration
    4  no such store, bucket, key or version
    5  gave up on a failure that may pass; retry later
    6  the bytes do not match the store's checksum
    7  the object changed during the download
    8  access denied
  130  interrupted by a signal";

/// The topics of `gantry help` that are not commands.
const TOPICS: [(&str, &str); 1] = [("exit-codes", EXIT_CODES)];

/// Print help for a command, or for the topic exit-codes
#[derive(Args, Clone, Debug)]
pub(super) struct Help {
    #[arg(value_name = "COMMAND", help = "Command or topic")]
    name: Option<String>,
}

/// Print a completion script for a shell
///
/// Load it with `source <(gantry completions bash)`, `source <(gantry completions zsh)` or
/// `gantry completions fish | source`.
#[derive(Args, Clone, Debug)]
pub(super) struct Completions {
    #[arg(value_name = "SHELL", value_enum, help = "Shell")]
    shell: Shell,
}

/// Print the manual page
///
/// Read it with `gantry man | man -l -`, or install it as gantry.1. The page of a command is named gantry-COMMAND.1.
#[derive(Args, Clone, Debug)]
pub(super) struct Man {
    #[arg(value_name = "COMMAND", help = "Command whose page is printed; default: that of gantry")]
    name: Option<String>,
}

impl Help {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut cli = built();
        let Some(name) = &self.name else { return print(&cli.render_long_help().to_string()) };
        if let Some((_, text)) = TOPICS.iter().find(|(topic, _)| topic == name) {
            return print(text);
        }
        let Some(command) = cli.find_subcommand_mut(name) else { return Err(unknown(name, &cli)) };
        print(&command.render_long_help().to_string())
    }
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "gantry", &mut script);
        write(&script)
    }
}

impl Man {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let cli = built();
        let command = match &self.name {
            None => cli,
            Some(name) => match cli.find_subcommand(name) {
                Some(command) => command.clone(),
                None => return Err(unknown(name, &cli)),
            },
        };
        let mut page = Vec::new();
        let title = command.get_display_name().unwrap_or("gantry").to_owned();
        Page::new(command).title(title).render(&mut page).map_err(|error| output::stdout_failure(&error))?;
        write(&page)
    }
}

/// Returns the command line, in which every command also has the global options.
fn built() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

fn unknown(name: &str, cli: &Command) -> Failure {
    let commands = cli.get_subcommands().map(|command| command.get_name().to_owned());
    let known = commands.chain(TOPICS.iter().map(|(topic, _)| (*topic).to_owned()));
    let nearest = crate::config::nearest_of(name, known);
    let hint = nearest.map_or_else(|| "see gantry --help".to_owned(), |nearest| format!("did you mean {nearest}?"));
    Failure::usage(format!("no such command or topic: {hint}")).about(name.to_owned())
}

fn print(text: &str) -> Result<(), Failure> {
    write(format!("{}\n", text.trim_end()).as_bytes())
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| output::stdout_failure(&error))
}

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::*;

    #[test]
    fn every_exit_code_is_explained() {
        let listed: Vec<u8> =
            EXIT_CODES.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
        assert_eq!(listed, Exit::ALL.map(Exit::number));
    }

    #[test]
    fn a_misspelled_command_has_a_suggestion() {
        let hint = |name: &str| unknown(name, &built()).message;
        assert!(hint("exit-code").ends_with("did you mean exit-codes?"));
        assert!(hint("gett").ends_with("did you mean get?"));
        assert!(hint("xyzzy").ends_with("see gantry --help"));
    }
}
