//! Data files and their rows.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::rows::Row;
use crate::error::{Error, Result};
use crate::files::{not_utf8, open, unreadable};
use crate::words::{count, one_line};

/// The extensions of data files, in the order in which a directory is searched for them.
const EXTENSIONS: [&str; 4] = ["jsonl", "csv", "tsv", "txt"];

/// The file of a split in a directory.
pub(super) fn split(directory: &Path, name: &str) -> Option<PathBuf> {
    EXTENSIONS.iter().map(|extension| directory.join(format!("{name}.{extension}"))).find(|file| file.exists())
}

/// The file to learn from: the training file of a directory, or the file itself.
pub(in crate::text) fn train_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.into());
    }
    let missing = || Error::file(path, "has no train.jsonl; put one there or give the path of a .jsonl, .csv, .tsv or .txt file");
    split(path, "train").ok_or_else(missing)
}

/// Whether a file is one whole text, judged by its name.
pub(in crate::text) fn is_text(path: &Path) -> Result<bool> {
    match extension(path) {
        Some("txt") => Ok(true),
        Some(_) => Ok(false),
        _ if path.is_dir() => Err(Error::file(path, "is a directory; give the path of a .jsonl or .txt file in it")),
        _ if path.exists() => Err(Error::file(path, "is neither a .jsonl, .csv, .tsv nor a .txt file; rename or convert it")),
        _ => Err(Error::file(path, "does not exist; check the path")),
    }
}

/// The known extension of a file.
fn extension(path: &Path) -> Option<&'static str> {
    let own = path.extension()?.to_str()?;
    EXTENSIONS.into_iter().find(|known| own.eq_ignore_ascii_case(known))
}

/// Calls `each` with the line number, from 1, and content of each row of a file; each line of a `.txt` is one.
pub(in crate::text) fn each_row(path: &Path, mut each: impl FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let mut parsed = |line: usize, row: std::result::Result<Row, String>| {
        each(line, row.map_err(|problem| Error::file(path, format!("line {line} {problem}")))?)
    };
    match extension(path) {
        Some("csv") => each_of_table(path, b',', parsed),
        Some("tsv") => each_of_table(path, b'\t', parsed),
        Some("txt") => each_line(path, open_rows(path)?, |line, text| parsed(line, Ok(Row::Text(text.trim_end().into())))),
        _ => each_line(path, open_rows(path)?, |line, text| if text.trim().is_empty() { Ok(()) } else { parsed(line, Row::parse(text)) }),
    }
}

/// Calls `each` with each line of standard input.
pub(super) fn each_of_input(mut each: impl FnMut(usize, Row) -> Result<()>) -> Result<()> {
    each_line(Path::new("standard input"), std::io::stdin().lock(), |line, text| each(line, Row::Text(text.trim_end().into())))
}

fn open_rows(path: &Path) -> Result<impl BufRead + use<>> {
    Ok(BufReader::new(open(path, "give the path of a .jsonl, .csv, .tsv or .txt file")?))
}

fn each_line(path: &Path, mut reader: impl BufRead, mut each: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(|e| unreadable(path, e))? == 0 {
            return Ok(());
        }
        line += 1;
        let text = str::from_utf8(&bytes).map_err(|_| not_utf8(path, line))?;
        each(line, if line == 1 { text.strip_prefix('\u{FEFF}').unwrap_or(text) } else { text })?;
    }
}

/// The rows of a table whose first line names the columns. Tabs separate cells that may contain quotes; commas do not.
fn each_of_table(path: &Path, separator: u8, mut each: impl FnMut(usize, std::result::Result<Row, String>) -> Result<()>) -> Result<()> {
    let mut table = csv::ReaderBuilder::new().delimiter(separator).quoting(separator == b',').from_reader(open_rows(path)?);
    let problem = |e: csv::Error| {
        let line = e.position().map_or(1, csv::Position::line);
        let reason = match e.kind() {
            csv::ErrorKind::Io(_) => one_line(&e),
            csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".into(),
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("it has {}, but the header has {expected_len}", count(*len, "cell"))
            }
            _ => one_line(&e),
        };
        Error::file(path, format!("line {line} is not a row of the table ({reason}); correct it"))
    };
    let columns: Vec<_> = table.headers().map_err(problem)?.iter().map(|name| name.trim_matches(['\u{FEFF}', ' ']).to_string()).collect();
    if !columns.iter().any(|name| ["text", "prompt"].contains(&name.as_str())) {
        return Err(Error::file(path, "has no column 'text'; name the columns in the first line, such as text,label"));
    }
    for record in table.records() {
        let record = record.map_err(problem)?;
        let line = record.position().map_or(1, csv::Position::line) as usize;
        each(line, Row::of_cells(columns.iter().map(String::as_str).zip(&record)))?;
    }
    Ok(())
}
