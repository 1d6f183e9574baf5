//! Options in files. They have the names of the flags and go through the same parser, so the two never differ.

use std::any::TypeId;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use graftling::files::{CONFIG_BYTES, read_text, replace_file};
use graftling::model::{AdapterExpression, BUILTIN};
use graftling::words::{did_you_mean, one_line, shown};
use graftling::{Error, Result};
use toml::{Table, Value};

use super::{Cli, NUMBERS, command_line, complaint};

/// Flags that determine how a run is started or shown, not its result.
const NOT_IN_FILES: [&str; 6] = ["config", "resume", "json", "quiet", "help", "version"];
/// Pairs of options that exclude each other.
const EXCLUSIVE: [[&str; 2]; 2] = [["steps", "epochs"], ["adapter", "init-adapter"]];
/// Options that may change when a run is resumed.
const FREE: [&str; 8] = ["out", "device", "steps", "epochs", "save-every", "eval-every", "log-every", "gradient-checkpointing"];

/// The options of one sub-command: those typed on the command line, and those from files, as if they had been typed too.
pub struct Options {
    name: &'static str,
    command: Command,
    line: Vec<OsString>,
    matches: ArgMatches,
}

impl Options {
    /// The options typed for the sub-command `name`.
    pub fn typed(name: &'static str) -> Options {
        let mut all = command_line();
        all.build();
        let command = all.find_subcommand(name).expect("a sub-command of that name").clone();
        let line: Vec<_> = std::env::args_os().collect();
        let (_, matches) = parse(name, &line);
        Options { name, command, line, matches }
    }

    /// Parses all options.
    pub fn cli(&self) -> Cli {
        parse(self.name, &self.line).0
    }

    /// The options that a file may contain.
    fn arguments(&self) -> impl Iterator<Item = (&Arg, &str)> {
        let named = self.command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
        named.filter(|(_, key)| !NOT_IN_FILES.contains(key))
    }

    /// Whether the option `key`, or the one that excludes it, was given.
    fn is_given(&self, key: &str) -> bool {
        let given = |key| {
            let arg = self.arguments().find(|(_, long)| *long == key);
            arg.is_some_and(|(arg, _)| self.matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
        };
        given(key) || partner(key).is_some_and(given)
    }

    /// Adds the options of a file, except those already given.
    ///
    /// # Errors
    /// [`Error::File`], which names the file and the option.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let table = self.read(path)?;
        let new = self.arguments().filter(|(_, key)| !self.is_given(key));
        let flags: Vec<_> = new.filter_map(|(arg, key)| flags(arg, key, table.get(key)?)).flatten().collect();
        self.line.extend(flags);
        self.matches = parse(self.name, &self.line).1;
        Ok(())
    }

    /// Adds the options of a run to be resumed, from the file that [`Options::write`] wrote.
    ///
    /// # Errors
    /// As [`Options::add`]; [`Error::Usage`] if an option that the result depends on was given another value.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let run = self.read(path)?;
        for (arg, key) in self.arguments().filter(|(_, key)| !FREE.contains(key)) {
            let source = self.matches.value_source(arg.get_id().as_str());
            let Some(now) = self.value(arg).filter(|_| source == Some(ValueSource::CommandLine)) else { continue };
            let then = run.get(key);
            if !then.is_some_and(|then| same(&now, then)) {
                let then = then.map_or("not set".into(), Value::to_string);
                let problem = format!("--{key} is {now}, but was {then} when the run began; leave it out, or give another --out");
                return Err(Error::Usage(problem));
            }
        }
        self.add(path)
    }

    /// Writes every option with its value, including defaults. `resolved` has the final values that the parser does not know.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, path: &Path, resolved: &[(&str, Value)]) -> Result<()> {
        let mut text = format!("# The options of this run; graftling {} --config FILE --out DIR repeats it.\n", self.name);
        for (arg, key) in self.arguments() {
            let known = |key| resolved.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
            let replaced = partner(key).is_some_and(|other| known(other).is_some() || self.is_given(other) && !self.is_set(arg));
            if let Some(value) = known(key).or_else(|| self.value(arg).filter(|_| !replaced)) {
                writeln!(text, "{key} = {value}").expect("a string takes it");
            }
        }
        replace_file(path, text.as_bytes())
    }

    fn is_set(&self, arg: &Arg) -> bool {
        self.matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    }

    /// The value of an option as written to a file. Paths are made absolute, so that they mean the same from any directory, except `out`,
    /// which the next command gives anew.
    fn value(&self, arg: &Arg) -> Option<Value> {
        let kind = arg.get_value_parser().type_id();
        let number = NUMBERS.iter().any(|number| kind == *number);
        let whole_paths =
            |adapters: AdapterExpression| adapters.map_paths(&|path| std::path::absolute(path).unwrap_or_else(|_| path.into())).to_string();
        let value = |text: &str| match () {
            () if kind == TypeId::of::<AdapterExpression>() => {
                Value::String(AdapterExpression::parse(text.as_ref()).map_or(text.into(), whole_paths))
            }
            () if kind == TypeId::of::<bool>() => Value::Boolean(text == "true"),
            () if kind == TypeId::of::<PathBuf>() && arg.get_long() != Some("out") => Value::String(whole_path(text)),
            () if number => {
                let whole = text.parse().map(Value::Integer).ok();
                whole.or_else(|| text.parse().map(Value::Float).ok()).unwrap_or_else(|| Value::String(text.into()))
            }
            () => Value::String(text.into()),
        };
        let mut values = self.matches.get_raw(arg.get_id().as_str())?.map(|text| value(&text.to_string_lossy()));
        if arg.get_value_delimiter().is_some() { Some(Value::Array(values.collect())) } else { values.next() }
    }

    /// Reads a file and checks that the parser accepts each of its options.
    fn read(&self, path: &Path) -> Result<Table> {
        let text = read_text(path, CONFIG_BYTES)?;
        let table: Table = toml::from_str(&text).map_err(|e| {
            let start = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Error::file(path, format!("line {line} is not TOML ({}); correct it", one_line(e.message())))
        })?;
        for (key, value) in &table {
            let Some((arg, _)) = self.arguments().find(|(_, long)| long == key) else {
                let near = did_you_mean(key, self.arguments().map(|(_, key)| key));
                let advice = near.unwrap_or_else(|| format!("graftling {} --help lists them", self.name));
                return Err(Error::file(path, format!("'{}' is not an option; {advice}", shown(key))));
            };
            let advice = format!("see graftling {} --help", self.name);
            let problem = format!("'{key}' cannot be {}; {advice}", shown(&value.to_string()));
            let flags = flags(arg, key, value).ok_or_else(|| Error::file(path, problem))?;
            // Parsed alone, so that a complaint is about this option; with --config, no other option is required.
            let line = ["graftling", self.name, "--config=FILE"].map(OsString::from).into_iter().chain(flags);
            let wrong = |e| Error::file(path, format!("{}; {advice}", complaint(&e)));
            command_line().try_get_matches_from(line).map_err(wrong)?;
        }
        for [one, other] in EXCLUSIVE {
            if table.contains_key(one) && table.contains_key(other) {
                return Err(Error::file(path, format!("has both '{one}' and '{other}'; remove one of them")));
            }
        }
        Ok(table)
    }
}

/// Parses a line to the command and the matches of its sub-command. Ends the process with the parser's complaint if it is invalid.
fn parse(name: &str, line: &[OsString]) -> (Cli, ArgMatches) {
    let (cli, matches) = super::parse(line);
    (cli, matches.subcommand_matches(name).expect("this sub-command").clone())
}

fn partner(key: &str) -> Option<&'static str> {
    let pair = EXCLUSIVE.iter().find(|pair| pair.contains(&key))?;
    Some(if pair[0] == key { pair[1] } else { pair[0] })
}

/// The option as it would be typed; `None` if it cannot have a value of this type.
fn flags(arg: &Arg, key: &str, value: &Value) -> Option<Vec<OsString>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.to_string()),
        _ => None,
    };
    let value = match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => return Some(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => return Some(Vec::new()),
        (ArgAction::SetTrue, _) => return None,
        (_, Value::Array(values)) if values.is_empty() => return Some(Vec::new()),
        (_, Value::Array(values)) => {
            let delimiter = arg.get_value_delimiter()?.to_string();
            values.iter().map(text).collect::<Option<Vec<_>>>()?.join(&delimiter)
        }
        (_, value) => text(value)?,
    };
    Some(vec![format!("--{key}={value}").into()])
}

/// The absolute path; the name of the built-in model stays as it is.
fn whole_path(path: &str) -> String {
    let is_name = path == BUILTIN && !Path::new(path).exists();
    let whole = std::path::absolute(path).ok().filter(|_| !is_name);
    whole.and_then(|whole| whole.into_os_string().into_string().ok()).unwrap_or_else(|| path.into())
}

/// The name of a file or directory, without its parent.
pub fn name_of(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
    whole.file_name().map_or(whole.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Whether two values of an option mean the same.
fn same(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|v| v as f64));
    let place = |value: &Value| std::fs::canonicalize(value.as_str()?).ok();
    one == other || number(one).is_some_and(|v| number(other) == Some(v)) || place(one).is_some_and(|path| place(other) == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_mean_the_same() {
        let float = |v| Value::Float(v);
        assert!(same(&float(1.0), &Value::Integer(1)) && same(&float(1e-4), &float(0.0001)) && !same(&float(1.0), &float(2.0)));
        assert!(same(&Value::String("src".into()), &Value::String("./src".into())));
        assert!(!same(&Value::String("adam".into()), &Value::String("adamw".into())));
    }
}
