//! Measures of labels: accuracy, F1 and Matthews correlation, as scikit-learn defines them.

use serde_json::{Map, Value, json};

use crate::text::Labels;

/// Up to this many labels have a confusion matrix.
const MOST_CONFUSED: usize = 256;
/// A wider matrix is not printed.
const MOST_PRINTED: usize = 20;

/// How good predicted labels are.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    /// The share of texts or words with exactly the right labels.
    pub accuracy: f64,
    /// The mean F1 of the labels that occur or are predicted.
    pub f1: f64,
    /// The Matthews correlation of one of several labels (Gorodkin 2004); `None` where a text can have several.
    pub matthews: Option<f64>,
    /// Each label that the head knows.
    pub labels: Vec<OfLabel>,
    /// How often each label, by row, was predicted as each label, by column; empty if there are too many, or if a text can have several.
    pub confusion: Vec<Vec<u64>>,
}

/// The counts of one label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfLabel {
    /// The label.
    pub name: String,
    /// How often it occurs.
    pub count: u64,
    /// How often it is predicted.
    pub predicted: u64,
    /// How often it is predicted where it occurs.
    pub right: u64,
}

impl OfLabel {
    /// The share of its predictions that are right; 0 if there are none.
    pub fn precision(&self) -> f64 {
        share(self.right, self.predicted)
    }

    /// The share of its occurrences that are predicted; 0 if there are none.
    pub fn recall(&self) -> f64 {
        share(self.right, self.count)
    }

    /// The harmonic mean of precision and recall.
    pub fn f1(&self) -> f64 {
        share(2 * self.right, self.count + self.predicted)
    }
}

pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Classes {
    /// Of texts or words that have one label each: pairs of the label and the predicted one.
    pub(super) fn single(labels: &Labels, pairs: &[(u32, u32)]) -> Classes {
        let mut each = counted(labels);
        let mut confusion = if labels.len() <= MOST_CONFUSED { vec![vec![0; labels.len()]; labels.len()] } else { Vec::new() };
        for &(label, predicted) in pairs {
            each[label as usize].count += 1;
            each[predicted as usize].predicted += 1;
            each[label as usize].right += u64::from(label == predicted);
            if let Some(row) = confusion.get_mut(label as usize) {
                row[predicted as usize] += 1;
            }
        }
        let right: u64 = each.iter().map(|label| label.right).sum();
        let matthews = matthews(&each, right, pairs.len() as u64);
        Classes { accuracy: share(right, pairs.len() as u64), f1: mean_f1(&each), matthews: Some(matthews), labels: each, confusion }
    }

    /// Of texts that can have several labels: pairs of whether each is there and whether it is predicted.
    pub(super) fn several(labels: &Labels, rows: &[(Vec<bool>, Vec<bool>)]) -> Classes {
        let mut each = counted(labels);
        for (row, predicted) in rows {
            for ((label, &there), &predicted) in each.iter_mut().zip(row).zip(predicted) {
                label.count += u64::from(there);
                label.predicted += u64::from(predicted);
                label.right += u64::from(there && predicted);
            }
        }
        let right = rows.iter().filter(|(row, predicted)| row == predicted).count();
        let accuracy = share(right as u64, rows.len() as u64);
        Classes { accuracy, f1: mean_f1(&each), matthews: None, labels: each, confusion: Vec::new() }
    }

    pub(super) fn json(&self) -> Value {
        let label = |label: &OfLabel| {
            let measures = json!({ "precision": label.precision(), "recall": label.recall(), "f1": label.f1(), "count": label.count });
            (label.name.clone(), measures)
        };
        let per_label: Map<_, _> = self.labels.iter().map(label).collect();
        let names: Vec<_> = self.labels.iter().map(|label| &label.name).collect();
        let mut json = json!({ "accuracy": self.accuracy, "f1": self.f1, "per_label": per_label, "labels": names });
        if let Some(matthews) = self.matthews {
            json["matthews"] = matthews.into();
        }
        if !self.confusion.is_empty() {
            json["confusion"] = self.confusion.clone().into();
        }
        json
    }

    pub(super) fn summary(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [("accuracy", self.accuracy), ("f1", self.f1)].into_iter().chain(self.matthews.map(|matthews| ("matthews", matthews)))
    }

    /// A table of the labels, and the confusion matrix if it is narrow enough.
    pub(super) fn tables(&self) -> String {
        let shown: Vec<_> = self.labels.iter().filter(|label| label.count + label.predicted > 0).collect();
        let width = shown.iter().map(|label| label.name.chars().count()).max().unwrap_or(0).max(5);
        let row = |label: &&OfLabel| {
            let OfLabel { name, count, .. } = label;
            format!("{name:width$}  {:9.3}  {:6.3}  {:6.3}  {count:6}", label.precision(), label.recall(), label.f1())
        };
        let title = format!("{:width$}  {:>9}  {:>6}  {:>6}  {:>6}", "label", "precision", "recall", "f1", "count");
        let mut lines: Vec<_> = std::iter::once(title).chain(shown.iter().map(row)).collect();
        if (1..=MOST_PRINTED).contains(&self.confusion.len()) {
            let cell = self.confusion.iter().flatten().max().map_or(1, |most| most.to_string().len()).max(3);
            let heads = (0..self.confusion.len()).map(|column| format!("{:>cell$}", column + 1)).collect::<Vec<_>>().join(" ");
            lines.push(format!("\n{:width$}     {heads}  as predicted", "label"));
            for (at, (label, row)) in self.labels.iter().zip(&self.confusion).enumerate() {
                let cells = row.iter().map(|count| format!("{count:>cell$}")).collect::<Vec<_>>().join(" ");
                lines.push(format!("{:width$}  {:>2} {cells}", label.name, at + 1));
            }
        }
        lines.join("\n")
    }
}

fn counted(labels: &Labels) -> Vec<OfLabel> {
    labels.names().iter().map(|name| OfLabel { name: name.clone(), ..OfLabel::default() }).collect()
}

fn mean_f1(labels: &[OfLabel]) -> f64 {
    let seen: Vec<_> = labels.iter().filter(|label| label.count + label.predicted > 0).map(OfLabel::f1).collect();
    seen.iter().sum::<f64>() / seen.len().max(1) as f64
}

/// The correlation of labels and predictions: (right·all − Σ count·predicted) / √((all² − Σ predicted²)(all² − Σ count²)), or 0 if that is
/// undefined.
fn matthews(labels: &[OfLabel], right: u64, all: u64) -> f64 {
    let sum = |of: &dyn Fn(&OfLabel) -> (u64, u64)| labels.iter().map(of).map(|(a, b)| a as f64 * b as f64).sum::<f64>();
    let (right, all) = (right as f64, all as f64);
    let predicted = all * all - sum(&|label| (label.predicted, label.predicted));
    let there = all * all - sum(&|label| (label.count, label.count));
    let covariance = right * all - sum(&|label| (label.count, label.predicted));
    let scale = (predicted * there).sqrt();
    if scale > 0.0 { covariance / scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> Labels {
        Labels::new(names.iter().map(|name| name.to_string()))
    }

    /// The numbers are those of scikit-learn 1.9: accuracy_score, f1_score with average="macro", matthews_corrcoef.
    #[test]
    fn one_label_of_several() {
        let truth = [0, 0, 1, 1, 2, 2, 2, 0, 1, 2];
        let predicted = [0, 1, 1, 1, 2, 0, 2, 0, 2, 2];
        let pairs: Vec<_> = truth.into_iter().zip(predicted).collect();
        let classes = Classes::single(&labels(&["a", "b", "c", "never"]), &pairs);
        assert_eq!(classes.confusion, [[2, 1, 0, 0], [0, 2, 1, 0], [1, 0, 3, 0], [0, 0, 0, 0]]);
        assert!((classes.accuracy - 0.7).abs() < 1e-12);
        assert!((classes.f1 - 0.694_444_444_444_444_4).abs() < 1e-12, "{}", classes.f1);
        assert!((classes.matthews.expect("one") - 0.545_454_545_454_545_4).abs() < 1e-12, "{:?}", classes.matthews);
        assert!((classes.labels[2].precision() - 0.75).abs() < 1e-12 && (classes.labels[1].recall() - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn all_alike_is_no_correlation() {
        assert_eq!(Classes::single(&labels(&["a", "b"]), &[(0, 0), (1, 0)]).matthews, Some(0.0));
        assert_eq!(Classes::single(&labels(&["a", "b"]), &[(0, 0), (1, 1)]).matthews, Some(1.0));
        assert_eq!(Classes::single(&labels(&["a", "b"]), &[(0, 1), (1, 0)]).matthews, Some(-1.0));
    }

    #[test]
    fn several_labels() {
        let rows = [
            (vec![true, false, true], vec![true, false, true]),
            (vec![false, false, true], vec![true, false, true]),
            (vec![false, false, false], vec![false, false, false]),
        ];
        let classes = Classes::several(&labels(&["a", "b", "c"]), &rows);
        assert!((classes.accuracy - 2.0 / 3.0).abs() < 1e-12);
        // b neither occurs nor is predicted.
        assert!((classes.f1 - (2.0 / 3.0 + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(classes.matthews, None);
    }
}
