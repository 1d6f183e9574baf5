//! Python behaviour that templates rely on.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Whether Python can iterate over the value. `none` is not iterable, and templates rely on that when there are no tools.
pub(super) fn is_iterable(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
}

/// Formats JSON as Python's `json.dumps(value, ensure_ascii=False)` does, with its option `indent`.
pub(super) fn to_json(value: &Value, options: &Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?.filter(|&indent| indent <= 16);
    // The other options sort keys or escape characters, which no chat template needs.
    options.get::<Option<Value>>("ensure_ascii")?;
    options.get::<Option<Value>>("sort_keys")?;
    options.get::<Option<Value>>("separators")?;
    options.assert_all_used()?;
    let mut out = String::new();
    json(&mut out, value, indent, 0)?;
    Ok(Value::from(out))
}

fn json(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    let cannot = || Error::new(ErrorKind::InvalidOperation, format!("tojson cannot write a {}", value.kind()));
    if depth > 64 {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson cannot write a value nested this deeply"));
    }
    let separate = |out: &mut String, first: bool, depth: usize| match indent {
        Some(indent) => {
            out.push_str(if first { "\n" } else { ",\n" });
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
        None => out.push_str(if first { "" } else { ", " }),
    };
    let close = |out: &mut String, empty: bool| {
        if let (Some(indent), false) = (indent, empty) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => out.push_str(&serde_json::Value::from(value.as_str().ok_or_else(cannot)?).to_string()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                separate(out, empty, depth + 1);
                empty = false;
                json(out, &item, indent, depth + 1)?;
            }
            close(out, empty);
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                separate(out, empty, depth + 1);
                empty = false;
                out.push_str(&serde_json::Value::from(key.to_string()).to_string());
                out.push_str(": ");
                json(out, &value.get_item(&key)?, indent, depth + 1)?;
            }
            close(out, empty);
            out.push('}');
        }
        _ => return Err(cannot()),
    }
    Ok(())
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Formats a UTC time with the conversions of C's `strftime` that templates use. Other letters stay unchanged.
pub(super) fn strftime(format: &str, time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86400, seconds % 86400);
    let (year, day_of_year) = year_of(days);
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let (mut month, mut day) = (0, day_of_year);
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let hour = second / 3600;
        match letters.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year % 100),
            Some('m') => out += &format!("{:02}", month + 1),
            Some('B') => out += MONTHS[month],
            Some('b') => out += &MONTHS[month][..3],
            Some('d') => out += &format!("{:02}", day + 1),
            Some('j') => out += &format!("{:03}", day_of_year + 1),
            Some('A') => out += DAYS[(days % 7) as usize],
            Some('a') => out += &DAYS[(days % 7) as usize][..3],
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('M') => out += &format!("{:02}", second / 60 % 60),
            Some('S') => out += &format!("{:02}", second % 60),
            Some('%') | None => out.push('%'),
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// The year of a day counted from 1970, and the day within that year.
fn year_of(mut days: u64) -> (u64, u64) {
    // The calendar repeats every 400 years.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    (year, days)
}

/// Removes the tags `generation` and `endgeneration`, which `transformers` adds to Jinja to mark the assistant's turns. They become an `if`
/// that is always true, so that whitespace around them is handled as for any tag.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[..end];
        let word = inner.trim_matches(|c: char| c.is_ascii_whitespace() || c == '-' || c == '+');
        let instead = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&inner.replace(word, instead));
        rest = &tag[end..];
    }
    out + rest
}
