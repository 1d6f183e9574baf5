//! Measures of scores: correlations.

/// How scores and predictions go together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Pearson's correlation; not a number if either is constant.
    pub pearson: f64,
    /// Spearman's: Pearson's of the ranks, where equal numbers share the mean of theirs.
    pub spearman: f64,
}

impl Scores {
    /// Of pairs of a score and its prediction.
    pub(super) fn new(pairs: &[(f64, f64)]) -> Scores {
        let (x, y): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
        Scores { pearson: pearson(&x, &y), spearman: pearson(&ranks(&x), &ranks(&y)) }
    }
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mean_x, y - mean_y)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let first = order.partition_point(|&at| values[at].total_cmp(&values[equal[0]]).is_lt());
        equal.iter().for_each(|&at| ranks[at] = first as f64 + (equal.len() - 1) as f64 / 2.0);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of scipy.stats: pearsonr and spearmanr.
    #[test]
    fn correlations() {
        let x = [1.0, 2.0, 2.0, 4.0, 5.5, 0.5];
        let y = [0.9, 2.5, 1.5, 3.0, 7.0, 1.0];
        let Scores { pearson, spearman } = Scores::new(&x.into_iter().zip(y).collect::<Vec<_>>());
        assert!((pearson - 0.928_315_181_2).abs() < 1e-9, "{pearson}");
        assert!((spearman - 0.927_633_657_0).abs() < 1e-9, "{spearman}");
        assert!(Scores::new(&[(1.0, 2.0), (1.0, 3.0)]).pearson.is_nan());
    }
}
