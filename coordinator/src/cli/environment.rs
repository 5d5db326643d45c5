//! Every flag has an environment form: `--detach` is `COORDCTL_DETACH`, unless the flag names another.

use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, Command};

/// What all of them begin with.
const PREFIX: &str = "COORDCTL_";

/// The command line with the environment forms of all flags, below all subcommands.
pub fn with_forms(command: Command) -> Command {
    command.mut_args(with_form).mut_subcommands(with_forms)
}

fn with_form(flag: Arg) -> Arg {
    let Some(long) = flag.get_long().filter(|_| flag.get_env().is_none()) else { return flag };
    let name = format!("{PREFIX}{}", long.replace('-', "_").to_uppercase());
    let switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let flag = flag.env(name);
    // For a switch, `1` and `yes` turn it on, and `0`, `no` and nothing do not.
    if switch { flag.value_parser(FalseyValueParser::new()) } else { flag }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn check(command: &Command, seen: &mut usize) {
        for flag in command.get_arguments().filter(|flag| flag.get_long().is_some()) {
            if matches!(flag.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version) {
                continue;
            }
            let form = flag.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            assert!(form.starts_with(PREFIX), "{} --{}", command.get_name(), flag.get_id());
            *seen += 1;
        }
        command.get_subcommands().for_each(|sub| check(sub, seen));
    }

    #[test]
    fn every_flag_has_one() {
        let mut seen = 0;
        check(&with_forms(Cli::command()), &mut seen);
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn the_command_line_stays_consistent() {
        with_forms(Cli::command()).debug_assert();
    }
}
