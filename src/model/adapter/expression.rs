//! Adapters as a command names them: the directory of one, or several directories combined, such as `stack(lang,average(a:0.7,b:0.3))`.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::average::average;
use super::saved::SavedSetup;
use super::{SavedAdapter, read_adapter};
use crate::error::{Error, Result};
use crate::words::{did_you_mean, shown};

/// Saved adapters, and how to combine them.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterExpression {
    /// The adapter in a directory.
    Saved(PathBuf),
    /// Adapters one on top of the other, the lowest first.
    Stack(Vec<AdapterExpression>),
    /// One adapter whose weights are the weighted mean of others', each with its share before all are divided by their sum.
    Average(Vec<(AdapterExpression, f64)>),
}

/// The names of combinations.
const NAMES: [&str; 2] = ["stack", "average"];
/// Blocks of the `adapters` library that exist only there.
const ELSEWHERE: [&str; 4] = ["split", "batchsplit", "parallel", "multitask"];
/// How deeply combinations may be nested.
const DEEPEST: u32 = 8;

impl AdapterExpression {
    /// Parses an expression. Text that is the path of something that exists is that path, whatever signs it has. Within an expression, a path
    /// with a comma or an unpaired parenthesis needs quotes.
    ///
    /// # Errors
    /// One sentence that names the problem.
    pub fn parse(text: &OsStr) -> std::result::Result<AdapterExpression, String> {
        match text.to_str() {
            Some(text) => parse(text, 0),
            None => Ok(AdapterExpression::Saved(text.into())),
        }
    }

    /// The same adapters below the one in a directory.
    pub fn under(self, directory: &Path) -> AdapterExpression {
        let top = AdapterExpression::Saved(directory.into());
        let below = if let AdapterExpression::Stack(parts) = self { parts } else { vec![self] };
        AdapterExpression::Stack(below.into_iter().chain([top]).collect())
    }

    /// The same expression with its paths changed by `change`.
    pub fn map_paths(&self, change: &impl Fn(&Path) -> PathBuf) -> AdapterExpression {
        match self {
            AdapterExpression::Saved(path) => AdapterExpression::Saved(change(path)),
            AdapterExpression::Stack(parts) => AdapterExpression::Stack(parts.iter().map(|part| part.map_paths(change)).collect()),
            AdapterExpression::Average(parts) => {
                AdapterExpression::Average(parts.iter().map(|(part, share)| (part.map_paths(change), *share)).collect())
            }
        }
    }

    /// Reads all adapters, the lowest first.
    ///
    /// # Errors
    /// [`Error::File`] as [`read_adapter`], or if adapters to average differ in form.
    pub fn read(&self) -> Result<SavedSetup> {
        match self {
            AdapterExpression::Stack(parts) => {
                let parts = parts.iter().map(AdapterExpression::read).collect::<Result<Vec<_>>>()?;
                Ok(SavedSetup::of(parts.into_iter().flat_map(SavedSetup::into_adapters).collect()))
            }
            one => Ok(SavedSetup::of(vec![one.read_one("--adapter")?])),
        }
    }

    /// Reads a single adapter, for `option`.
    ///
    /// # Errors
    /// As [`AdapterExpression::read`], and [`Error::Usage`] for a stack.
    pub fn read_one(&self, option: &str) -> Result<SavedAdapter> {
        match self {
            AdapterExpression::Saved(path) => read_adapter(path),
            AdapterExpression::Average(parts) => {
                let adapters = parts.iter().map(|(part, share)| Ok((part.read_one(option)?, *share))).collect::<Result<Vec<_>>>()?;
                average(&adapters, &self.to_string())
            }
            AdapterExpression::Stack(_) => {
                Err(Error::Usage(format!("{option} is {self}, but takes a single adapter; give one directory, or an average")))
            }
        }
    }
}

fn parse(text: &str, depth: u32) -> std::result::Result<AdapterExpression, String> {
    let text = text.trim();
    let saved = |path: &str| AdapterExpression::Saved(path.into());
    if Path::new(text).exists() {
        return Ok(saved(text));
    }
    if let Some((quoted, rest)) = unquoted(text)? {
        return match rest {
            "" => Ok(saved(quoted)),
            rest => Err(format!("'{}' follows the path in quotes; put a comma between adapters", shown(rest))),
        };
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let called = text.split_once('(').map(|(name, rest)| (name.trim_end(), rest)).filter(|(name, _)| name.chars().all(word));
    let Some((name, rest)) = called else {
        return match text {
            "" => Err("a directory is missing; name one between the commas".into()),
            _ if parts(text)?.len() > 1 => Err(format!(
                "'{}' is not a directory; repeat the option for several adapters, or combine them as in stack({0})",
                shown(text)
            )),
            _ => Ok(saved(text)),
        };
    };
    let near = || did_you_mean(name, NAMES).unwrap_or("use stack(…) or average(…), or check the path".into());
    let lower = name.to_lowercase();
    match &lower[..] {
        _ if NAMES.contains(&&lower[..]) && name != lower => return Err(format!("'{}' is unknown; {}", shown(name), near())),
        _ if ELSEWHERE.contains(&&lower[..]) => {
            return Err(format!("'{}' is a block of the adapters library that Graftling does not have; use stack or average", shown(name)));
        }
        name if !NAMES.contains(&name) => {
            return Err(format!("there is no directory '{}', and '{}' is not a combination; {}", shown(text), shown(name), near()));
        }
        _ => {}
    }
    if depth == DEEPEST {
        return Err("combinations are nested too deeply; use fewer".into());
    }
    let inside = rest.strip_suffix(')').ok_or_else(|| format!("'{}' does not end with ')'; close it", shown(text)))?;
    let parts = parts(inside)?.into_iter();
    match name {
        "stack" => Ok(AdapterExpression::Stack(parts.map(|part| parse(part, depth + 1)).collect::<std::result::Result<_, _>>()?)),
        _ => averaged(parts.map(|part| shared(part, depth + 1)).collect::<std::result::Result<_, _>>()?),
    }
}

/// An average; adapters have either all a share or none.
fn averaged(parts: Vec<(AdapterExpression, Option<f64>)>) -> std::result::Result<AdapterExpression, String> {
    let given = parts.iter().filter(|(_, share)| share.is_some()).count();
    if given > 0 && given < parts.len() {
        let (without, _) = parts.iter().find(|(_, share)| share.is_none()).expect("one has no share");
        return Err(format!("{without} has no weight, but others of the average do; write {without}:0.5, or leave all out"));
    }
    if parts.iter().any(|(part, _)| matches!(part, AdapterExpression::Stack(_))) {
        return Err("an average is one adapter made of others, so it cannot contain a stack; average first, then stack".into());
    }
    let parts: Vec<_> = parts.into_iter().map(|(part, share)| (part, share.unwrap_or(1.0))).collect();
    check_shares(parts.iter().map(|(_, share)| *share))?;
    Ok(AdapterExpression::Average(parts))
}

/// Checks the shares of an average, which are divided by their sum.
///
/// # Errors
/// One sentence.
pub(super) fn check_shares(shares: impl Iterator<Item = f64>) -> std::result::Result<(), String> {
    let sum: f64 = shares.sum();
    match sum.is_finite() && sum != 0.0 {
        true => Ok(()),
        false => Err(format!("the weights of the average add up to {sum}, by which they cannot be divided; give others")),
    }
}

/// An adapter of an average with its share, which follows the last colon.
fn shared(text: &str, depth: u32) -> std::result::Result<(AdapterExpression, Option<f64>), String> {
    let text = text.trim();
    if Path::new(text).exists() {
        return Ok((parse(text, depth)?, None));
    }
    let number = |number: &str| number.trim().parse::<f64>().ok().filter(|share| share.is_finite());
    if let Some((quoted, rest)) = unquoted(text)?
        && let Some(share) = rest.strip_prefix(':')
    {
        let share = number(share).ok_or_else(|| format!("'{}' is not a weight; write a number such as 0.5", shown(share)))?;
        return Ok((AdapterExpression::Saved(quoted.into()), Some(share)));
    }
    match text.rsplit_once(':') {
        Some((path, share)) if !path.is_empty() && number(share).is_some() => Ok((parse(path, depth)?, number(share))),
        Some((path, share)) if Path::new(path).exists() => {
            Err(format!("'{}' after '{}' is not a weight; write a number such as 0.5", shown(share), shown(path)))
        }
        _ => Ok((parse(text, depth)?, None)),
    }
}

/// The text in quotes at the beginning, and what follows; `None` if there are none.
fn unquoted(text: &str) -> std::result::Result<Option<(&str, &str)>, String> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) else { return Ok(None) };
    let inside = &text[1..];
    let end = inside.find(quote).ok_or_else(|| format!("the quote in {} is not closed; close it", shown(text)))?;
    Ok(Some((&inside[..end], inside[end + 1..].trim_start())))
}

/// The parts between the commas that are neither in parentheses nor in quotes.
fn parts(text: &str) -> std::result::Result<Vec<&str>, String> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0u32, None);
    for (i, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            // An apostrophe within a name is not a quote.
            ('\'' | '"', None) if text[start..i].trim().is_empty() => quote = Some(c),
            ('(', None) => depth += 1,
            (')', None) => {
                depth = depth.checked_sub(1).ok_or_else(|| format!("'{}' has a ')' without a '('; remove it", shown(text)))?;
            }
            (',', None) if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    Ok(parts)
}

impl fmt::Display for AdapterExpression {
    /// An expression that parses to the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdapterExpression::Saved(path) => path.display().fmt(f),
            AdapterExpression::Stack(parts) => write!(f, "stack({})", parts.iter().map(inside).collect::<Vec<_>>().join(",")),
            AdapterExpression::Average(parts) => {
                let part = |(part, share): &(AdapterExpression, f64)| format!("{}:{share}", inside(part));
                write!(f, "average({})", parts.iter().map(part).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// A part of an expression: a path with signs that mean something there is in quotes.
fn inside(part: &AdapterExpression) -> String {
    let text = part.to_string();
    let AdapterExpression::Saved(_) = part else { return text };
    let plain = !text.contains([',', '(', ')', ':', '\'', '"']) && text.trim() == text;
    let quote = if text.contains('\'') { '"' } else { '\'' };
    if plain { text } else { format!("{quote}{text}{quote}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(path: &str) -> AdapterExpression {
        AdapterExpression::Saved(path.into())
    }

    fn parsed(text: &str) -> std::result::Result<AdapterExpression, String> {
        AdapterExpression::parse(OsStr::new(text))
    }

    #[test]
    fn expressions_and_their_text() {
        let (a, b) = (|| saved("no/a"), || saved("no/b"));
        let average = |shares: [f64; 2]| AdapterExpression::Average(vec![(a(), shares[0]), (b(), shares[1])]);
        let cases = [
            ("no/a", a(), "no/a"),
            ("it's", saved("it's"), "it's"),
            ("'no/a'", a(), "no/a"),
            (r"C:\no\a", saved(r"C:\no\a"), r"C:\no\a"),
            ("stack( no/a , no/b )", AdapterExpression::Stack(vec![a(), b()]), "stack(no/a,no/b)"),
            ("stack(no/a)", AdapterExpression::Stack(vec![a()]), "stack(no/a)"),
            ("average(no/a:0.7,no/b:.3)", average([0.7, 0.3]), "average(no/a:0.7,no/b:0.3)"),
            ("average(no/a,no/b)", average([1.0, 1.0]), "average(no/a:1,no/b:1)"),
            ("average('no/a':-1, \"no/b\" :2e0)", average([-1.0, 2.0]), "average(no/a:-1,no/b:2)"),
            (
                "stack('a,(b',average(no/a:2,no/b:1))",
                AdapterExpression::Stack(vec![saved("a,(b"), average([2.0, 1.0])]),
                "stack('a,(b',average(no/a:2,no/b:1))",
            ),
        ];
        for (text, expression, printed) in cases {
            assert_eq!(parsed(text).expect(text), expression, "{text}");
            assert_eq!(expression.to_string(), printed);
            assert_eq!(parsed(printed).expect(printed), expression, "{printed}");
        }
        let absolute = parsed("stack(no/a,average(no/b))").expect("two").map_paths(&|path| Path::new("/x").join(path));
        assert_eq!(absolute.to_string(), "stack(/x/no/a,average(/x/no/b:1))");
    }

    #[test]
    fn what_exists_is_a_path() {
        let place = std::env::temp_dir().join(format!("graftling-{}-expression", std::process::id()));
        for name in ["stack(a)", "a,b", "run (1)", "a:0.5"] {
            std::fs::create_dir_all(place.join(name)).expect("a directory");
            let path = place.join(name).display().to_string();
            assert_eq!(parsed(&path).expect(name), saved(&path));
            assert_eq!(parsed(&format!("average('{path}':2)")).expect(name).to_string().matches(name).count(), 1);
        }
        let path = place.join("a:0.5").display().to_string();
        assert_eq!(parsed(&format!("average({path},{path}:2)")).err().map(|problem| problem.contains("has no weight")), Some(true));
        std::fs::remove_dir_all(&place).expect("the directories");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let nested = "stack(".repeat(20_000);
        let cases = [
            ("stak(a,b)", "did you mean 'stack'?"),
            ("Stack(a,b)", "'Stack' is unknown; did you mean 'stack'?"),
            ("averages(a,b)", "did you mean 'average'?"),
            ("(a)", "not a combination; use stack(…)"),
            ("parallel(a,b)", "'parallel' is a block of the adapters library"),
            ("BatchSplit(a,b)", "'BatchSplit' is a block"),
            ("stack(a,b", "does not end with ')'"),
            ("stack(a)b", "does not end with ')'"),
            ("stack(a,)", "a directory is missing"),
            ("stack()", "a directory is missing"),
            ("", "a directory is missing"),
            ("a,b", "'a,b' is not a directory; repeat the option for several adapters, or combine them as in stack(a,b)"),
            ("stack('a,b)", "is not closed"),
            ("stack('a'b)", "'b' follows the path in quotes"),
            ("stack(a),b)", "without a '('"),
            ("average(a:1,b)", "b has no weight"),
            ("average(a:1,b:-1)", "add up to 0"),
            ("average(a:1e308,b:1e308)", "add up to inf"),
            ("average('a':x)", "'x' is not a weight"),
            ("average(src:x)", "'x' after 'src' is not a weight"),
            ("average(stack(a,b),c)", "cannot contain a stack"),
            (&nested, "does not end with ')'"),
            (&format!("{}a{}", "stack(".repeat(20), ")".repeat(20)), "nested too deeply"),
        ];
        for (text, words) in cases {
            let problem = parsed(text).err().unwrap_or_else(|| panic!("'{text}' is accepted"));
            assert!(problem.contains(words), "'{problem}' does not say '{words}'");
        }
    }
}
