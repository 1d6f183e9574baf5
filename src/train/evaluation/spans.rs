//! Measures of the spans that labels of words mark, such as B-PER and I-PER for a person, counted as seqeval counts them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::classes::{OfLabel, share};
use crate::text::Labels;

/// How good predicted spans are: a span counts as right if its kind, its beginning and its end are.
#[derive(Clone, Debug, PartialEq)]
pub struct Spans {
    /// The share of predicted spans that are right.
    pub precision: f64,
    /// The share of spans that are predicted.
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// Each kind of span.
    pub kinds: Vec<OfLabel>,
}

/// A kind, and the first and the last word.
type Span<'a> = (&'a str, usize, usize);

/// The position in a span, and the kind; `None` for a label of another form.
fn parts(label: &str) -> Option<(char, &str)> {
    if label == "O" {
        return Some(('O', ""));
    }
    let (position, kind) = label.split_once('-')?;
    ["B", "I", "E", "S"].contains(&position).then(|| (label.chars().next().unwrap_or('O'), kind))
}

impl Spans {
    /// Of rows of labels and predicted labels; `None` if the labels do not mark spans.
    pub(super) fn new(labels: &Labels, rows: &[(Vec<u32>, Vec<u32>)]) -> Option<Spans> {
        let parts: Vec<_> = labels.names().iter().map(|label| parts(label)).collect::<Option<_>>()?;
        let mut kinds: BTreeMap<&str, OfLabel> = BTreeMap::new();
        for (row, predicted) in rows {
            let spans = |row: &[u32]| spans(row.iter().map(|&label| parts[label as usize]));
            let (there, predicted) = (spans(row), spans(predicted));
            for (kind, ..) in &there {
                kinds.entry(kind).or_default().count += 1;
            }
            for span in &predicted {
                let kind = kinds.entry(span.0).or_default();
                kind.predicted += 1;
                kind.right += u64::from(there.contains(span));
            }
        }
        let sum = |of: fn(&OfLabel) -> u64| kinds.values().map(of).sum::<u64>();
        let (count, predicted, right) = (sum(|kind| kind.count), sum(|kind| kind.predicted), sum(|kind| kind.right));
        let (precision, recall, f1) = (share(right, predicted), share(right, count), share(2 * right, count + predicted));
        let kinds = kinds.into_iter().map(|(name, kind)| OfLabel { name: name.into(), ..kind }).collect();
        Some(Spans { precision, recall, f1, kinds })
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let kind = |kind: &OfLabel| {
            let measures = json!({ "precision": kind.precision(), "recall": kind.recall(), "f1": kind.f1(), "count": kind.count });
            (kind.name.clone(), measures)
        };
        let per_kind: Map<_, _> = self.kinds.iter().map(kind).collect();
        let Value::Object(json) = json!({ "precision": self.precision, "recall": self.recall, "f1": self.f1, "spans": per_kind }) else {
            unreachable!("it was made as an object")
        };
        json
    }

    pub(super) fn table(&self) -> String {
        let width = self.kinds.iter().map(|kind| kind.name.chars().count()).max().unwrap_or(0).max(5);
        let title = format!("{:width$}  {:>9}  {:>6}  {:>6}  {:>6}", "span", "precision", "recall", "f1", "count");
        let row = |kind: &OfLabel| {
            format!("{:width$}  {:9.3}  {:6.3}  {:6.3}  {:6}", kind.name, kind.precision(), kind.recall(), kind.f1(), kind.count)
        };
        std::iter::once(title).chain(self.kinds.iter().map(row)).collect::<Vec<_>>().join("\n")
    }
}

/// The spans of a row of labels, by the rules of conlleval that seqeval follows outside of its strict mode.
fn spans<'a>(row: impl Iterator<Item = (char, &'a str)>) -> BTreeSet<Span<'a>> {
    let (mut found, mut before, mut begin) = (BTreeSet::new(), ('O', ""), 0);
    let mut inside = false;
    for (at, now) in row.chain([('O', "")]).enumerate() {
        let changed = before.1 != now.1;
        let ends = matches!((before.0, now.0), ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O')) || before.0 != 'O' && changed;
        if inside && ends {
            found.insert((before.1, begin, at - 1));
            inside = false;
        }
        if matches!((before.0, now.0), (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I')) || now.0 != 'O' && changed {
            (begin, inside) = (at, true);
        }
        before = now;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], rows: &[(&str, &str)]) -> Option<Spans> {
        let labels = Labels::new(names.iter().map(|name| name.to_string()));
        let number = |label: &str| names.iter().position(|name| *name == label).expect("a label") as u32;
        let row = |row: &str| row.split(' ').map(number).collect::<Vec<_>>();
        Spans::new(&labels, &rows.iter().map(|(truth, predicted)| (row(truth), row(predicted))).collect::<Vec<_>>())
    }

    /// The numbers are those of seqeval 1.2.2: precision_score, recall_score, f1_score.
    #[test]
    fn spans_count_as_in_seqeval() {
        let names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];
        let rows = [
            ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),
            ("B-PER I-PER I-PER O", "B-PER I-PER O O"),
            ("O B-LOC B-LOC I-LOC", "O B-LOC I-LOC I-LOC"),
            ("O O I-PER I-LOC", "O B-PER I-PER I-LOC"),
        ];
        let spans = of(&names, &rows).expect("spans");
        assert_eq!((spans.precision, spans.recall), (0.5, 3.0 / 7.0));
        assert!((spans.f1 - 6.0 / 13.0).abs() < 1e-12);
        assert_eq!(spans.kinds.iter().map(|kind| (kind.name.as_str(), kind.count)).collect::<Vec<_>>(), [("LOC", 4), ("PER", 3)]);
    }

    #[test]
    fn other_labels_mark_no_spans() {
        assert_eq!(of(&["NOUN", "VERB"], &[("NOUN VERB", "NOUN NOUN")]), None);
    }
}
