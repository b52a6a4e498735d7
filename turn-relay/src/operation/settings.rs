//! Loading a program's configuration: TOML file <- environment <- flags, later ones winning key by key.
//!
//! One struct per program describes all three. Its fields are flags (clap), TOML keys (serde) and, upper-cased behind
//! the program's prefix, environment variables, so a name can neither be missing nor differ in one of them.
//! A list given by a later layer replaces the earlier list; it is not appended to it.
//! Unknown keys are refused with file, line and key. What the values *mean* is checked later, once, where the program
//! parses its `Config` into settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::operation::StartError;

/// A program's configuration as written. Every field is an `Option` or a `Vec`, so that "not given" can be told.
///
/// Derive `clap::Args`, `Serialize`, `Deserialize` with `#[serde(default, deny_unknown_fields)]`, and `Default`.
/// Field names are TOML keys; flags are the same with hyphens. Values stay strings where their check needs a good message.
pub trait Config: clap::Args + Serialize + DeserializeOwned + Default {
    /// Prefix of the environment variables, such as `TURN_RELAY`; key `allow_peer` is then `TURN_RELAY_ALLOW_PEER`.
    const ENVIRONMENT: &'static str;

    /// What `--print-config` prints: every key with its meaning and its default. It must load as it is.
    const TEMPLATE: &'static str;

    /// Keys whose values must not show up in `--help` when they come from the environment.
    const CONFIDENTIAL: &'static [&'static str] = &[];
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation<C> {
    /// Start the program.
    Run(C),
    /// `--check`: parse and verify everything, open nothing, and say whether it would start.
    Check(C),
    /// Print this on standard output and exit with 0 (`--help`, `--version`, `--print-config`).
    Print(String),
}

/// Reads the layers. `command` carries the program's name, version, `about` and examples; flags are added here:
/// those of `C`, and `--config FILE`, `--check`, `--print-config`.
///
/// # Errors
/// One line: an unknown flag or key, a value of the wrong shape, a file that cannot be read.
pub fn load<C: Config>(
    command: Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation<C>, StartError> {
    let matches = match full_command::<C>(command).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(shown) if !shown.use_stderr() => return Ok(Invocation::Print(shown.render().to_string())),
        Err(refused) => return Err(flag_error(&refused)),
    };
    if matches.get_flag(PRINT_CONFIG) {
        return Ok(Invocation::Print(C::TEMPLATE.to_owned()));
    }
    let config = merge::<C>(&matches)?;
    Ok(if matches.get_flag(CHECK) { Invocation::Check(config) } else { Invocation::Run(config) })
}

/// Parses one TOML text as `C`; `name` is what the error calls it.
///
/// # Errors
/// One line with file, line and key.
pub fn parse<C: Config>(text: &str, name: &Path) -> Result<C, StartError> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map_or_else(String::new, |span| format!(":{}", line_of(text, span.start)));
        StartError::new(format!(
            "{}{place}: {}",
            name.display(),
            error.message().replacen("unknown field", "unknown key", 1)
        ))
    })
}

fn merge<C: Config>(matches: &ArgMatches) -> Result<C, StartError> {
    let given = C::from_arg_matches(matches).map_err(|refused| flag_error(&refused))?;
    let Some(path) = matches.get_one::<PathBuf>(CONFIG) else { return Ok(given) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        StartError::new(format!("cannot read the configuration {}: {error}", path.display()))
    })?;
    let file: C = parse(&text, path)?;
    let mut merged = table(&file)?;
    merged.extend(table(&given)?.into_iter().filter(|(_, value)| !is_empty_list(value)));
    merged.try_into().map_err(|error| StartError::new(format!("{}: {error}", path.display())))
}

fn full_command<C: Config>(command: Command) -> Command {
    use clap::{Arg, ArgAction, value_parser};
    let command = command
        .arg(
            Arg::new(CONFIG)
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Read the configuration from this TOML file; environment and flags win over it"),
        )
        .arg(
            Arg::new(CHECK)
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Check the configuration, say what would run, and exit without opening anything"),
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print the whole configuration as commented TOML with its defaults, and exit"),
        );
    // The doc comment of `C` would become the program's description.
    let about = command.get_about().cloned().unwrap_or_default();
    let command = C::augment_args(command).about(about).long_about(None);
    command.mut_args(|argument| {
        let id = argument.get_id().as_str().to_owned();
        if id == CHECK || id == PRINT_CONFIG {
            return argument;
        }
        let variable = format!("{}_{}", C::ENVIRONMENT, id.to_uppercase());
        argument.env(variable).hide_env_values(C::CONFIDENTIAL.contains(&id.as_str()))
    })
}

fn table<C: Serialize>(config: &C) -> Result<toml::Table, StartError> {
    toml::Table::try_from(config).map_err(|error| StartError::new(format!("configuration: {error}")))
}

fn is_empty_list(value: &toml::Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// clap explains itself over several lines; its first says which flag and why.
fn flag_error(error: &clap::Error) -> StartError {
    let text = error.render().to_string();
    let lines: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).collect();
    let line =
        lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with("For more"));
    let line = line.collect::<Vec<_>>().join(" ");
    StartError::new(format!("{} (--help explains the flags)", line.trim_start_matches("error: ")))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

const CONFIG: &str = "config";
const CHECK: &str = "check";
const PRINT_CONFIG: &str = "print-config";

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        #[arg(long)]
        listen: Vec<String>,
        #[arg(long)]
        realm: Option<String>,
        #[arg(long)]
        threads: Option<u16>,
    }

    impl Config for Sample {
        const ENVIRONMENT: &'static str = "SETTINGS_TEST_SAMPLE";
        const TEMPLATE: &'static str = "# realm = \"example.org\"\n";
    }

    #[test]
    fn flags_win_over_the_file_key_by_key() {
        let file = file("listen = [\"a\", \"b\"]\nrealm = \"file\"\nthreads = 3\n");
        let config = run(&["--config", path(&file), "--realm", "flag", "--listen", "c"]).expect("loads");
        assert_eq!(config, Sample { listen: vec!["c".into()], realm: Some("flag".into()), threads: Some(3) });
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_key() {
        let file = file("realm = \"x\"\n\nrelam = \"y\"\n");
        let refused = run(&["--config", path(&file)]).expect_err("relam is unknown").to_string();
        assert!(refused.contains(&format!("{}:3:", path(&file))) && refused.contains("`relam`"), "{refused}");
    }

    #[test]
    fn a_value_of_the_wrong_shape_is_refused_with_its_line() {
        let file = file("realm = \"x\"\nthreads = \"many\"\n");
        let refused = run(&["--config", path(&file)]).expect_err("threads is a number").to_string();
        assert!(refused.contains(":2:"), "{refused}");
    }

    #[test]
    fn an_unknown_flag_is_one_line() {
        let refused = run(&["--relam", "x"]).expect_err("no such flag").to_string();
        assert!(refused.contains("--relam") && !refused.contains('\n'), "{refused}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let refused = run(&["--config", "/nonexistent/relay.toml"]).expect_err("no such file").to_string();
        assert!(refused.contains("/nonexistent/relay.toml"), "{refused}");
    }

    #[test]
    fn print_config_gives_the_template() {
        let arguments = ["sample", "--print-config"].map(OsString::from);
        let invocation = load::<Sample>(Command::new("sample"), arguments).expect("loads");
        assert!(matches!(invocation, Invocation::Print(text) if text == Sample::TEMPLATE));
    }

    fn run(flags: &[&str]) -> Result<Sample, StartError> {
        let arguments = std::iter::once("sample").chain(flags.iter().copied()).map(OsString::from);
        match load::<Sample>(Command::new("sample"), arguments)? {
            Invocation::Run(config) | Invocation::Check(config) => Ok(config),
            Invocation::Print(text) => panic!("nothing was to be printed: {text}"),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("writes");
        file
    }

    fn path(file: &tempfile::NamedTempFile) -> &str {
        file.path().to_str().expect("a path in UTF-8")
    }
}
