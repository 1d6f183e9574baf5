//! Building blocks of messages: counts, quoted text from outside, and "did you mean".

use std::fmt::Display;

/// A count with its noun: `1 step`, `12,000 steps`, `2 batches`.
pub fn count(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    let number = thousands(n);
    match noun.strip_suffix('y') {
        _ if n == 1 => format!("{number} {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None if noun.ends_with(['s', 'x', 'h']) => format!("{number} {noun}es"),
        None => format!("{number} {noun}s"),
    }
}

/// A number with commas as thousands separators.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A name or value from outside, made safe to quote in a message: at most 80 characters, with control characters escaped.
pub fn shown(text: &str) -> String {
    cut(text, 80)
}

/// Like [`shown`], with at most `most` characters.
pub fn cut(text: &str, most: usize) -> String {
    let mut start = String::new();
    for c in text.chars().take(most) {
        match c {
            '\'' | '"' => start.push(c),
            c => start.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(most).is_some() {
        start.push('…');
    }
    start
}

/// A message from a library, in one line of at most 200 characters.
pub fn one_line(text: impl Display) -> String {
    cut(&text.to_string().split_whitespace().collect::<Vec<_>>().join(" "), 200)
}

/// `did you mean 'NAME'?` for the name in `known` that `word` probably stands for.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|near| format!("did you mean '{near}'?"))
}

/// The name in `known` that `word` probably stands for. Ignores case and the difference between `_` and `-`.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.chars().take(100).collect::<String>().replace('_', "-").to_lowercase();
    let word = plain(word);
    let (distance, near) = known.into_iter().map(|name| (distance(&word, &plain(name)), name)).min()?;
    (distance <= 1 + near.len() / 4).then_some(near)
}

/// The edit distance: letters to insert, remove or replace (Levenshtein 1965).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let cases = [
            (0, "step", "0 steps"),
            (1, "step", "1 step"),
            (2, "batch", "2 batches"),
            (1, "batch", "1 batch"),
            (3, "family", "3 families"),
        ];
        for (n, noun, text) in cases {
            assert_eq!(count(n, noun), text);
        }
        assert_eq!((count(999u64, "token"), count(1_234_567usize, "token")), ("999 tokens".into(), "1,234,567 tokens".into()));
        assert_eq!(thousands(100_000), "100,000");
    }

    #[test]
    fn distances() {
        for (a, b, d) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("dropuot", "dropout", 2), ("seqbn", "seq_bn", 1)] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name() {
        let nearest = |word| nearest(word, ["learning-rate", "steps", "seed", "save-every", "eval-every"]);
        assert_eq!(nearest("learning_rate"), Some("learning-rate"));
        assert_eq!(nearest("learnign-rate"), Some("learning-rate"));
        assert_eq!(nearest("Step"), Some("steps"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(nearest(&"x".repeat(1_000_000)), None);
        assert_eq!(did_you_mean("sed", ["seed"]).as_deref(), Some("did you mean 'seed'?"));
    }

    #[test]
    fn text_from_outside_is_short_and_prints() {
        assert_eq!(shown("a\n'b'\u{1b}"), "a\\n'b'\\u{1b}");
        assert_eq!(shown(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
        assert_eq!(one_line("one\n  two"), "one two");
    }
}
