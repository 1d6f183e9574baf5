//! The loss curve of a run as an SVG.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::replace_file;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 466.0;
/// The edges of the frame.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 696.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 410.0;
const TRAIN: &str = "#2563eb";
const VALID: &str = "#d9480f";
const TEXT: &str = "#3d4450";
/// Losses this many times as large as the smallest have a logarithmic axis.
const WIDE: f64 = 20.0;
/// Letters of a title that fit over the picture.
const LONGEST_TITLE: usize = 84;
/// With more points than this, a smoothed line goes over the raw one.
const FEW: usize = 40;

/// A point (step, loss).
type Point = (u64, f64);

/// Draws `RUN/loss.svg` from `RUN/metrics.jsonl`, under a title. Of a step that is there twice, as after a run went on from a checkpoint, the
/// last counts; a line that is cut short is passed over.
///
/// # Errors
/// [`Error::File`] if the metrics cannot be read, [`Error::Write`] if the drawing cannot be written.
pub fn write(run: &Path, title: &str) -> Result<()> {
    let path = run.join("metrics.jsonl");
    let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, format!("cannot be read ({e}); check the path")))?;
    let (mut train, mut valid) = (BTreeMap::new(), BTreeMap::new());
    for line in bytes.split(|&byte| byte == b'\n') {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { continue };
        let Some(step) = line["step"].as_u64() else { continue };
        for (key, points) in [("loss", &mut train), ("eval_loss", &mut valid)] {
            points.extend(line[key].as_f64().map(|loss| (step, loss)));
        }
    }
    let [train, valid] = [train, valid].map(|points| points.into_iter().collect::<Vec<_>>());
    replace_file(&run.join("loss.svg"), loss_svg(title, &train, &valid).as_bytes())
}

/// Draws training and validation losses over steps, both in the order of their steps. What is not finite is left out. Of many training
/// losses there is a smoothed line over the raw one. Where the largest loss is 20 times the smallest, the axis is logarithmic.
pub fn loss_svg(title: &str, train: &[(u64, f64)], valid: &[(u64, f64)]) -> String {
    let finite = |points: &[Point]| points.iter().copied().filter(|(_, loss)| loss.abs() <= f64::from(f32::MAX)).collect::<Vec<_>>();
    let (train, valid) = (finite(train), finite(valid));
    let (frame, cut) = Frame::around(&train, &valid);
    let smooth = if train.len() > FEW { smoothed(&train, frame.most) } else { train.clone() };
    let title = escaped(title);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"{TEXT}\">\n\
         <title>{title}: loss over steps</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"#ffffff\"/>\n\
         <clipPath id=\"inside\"><rect x=\"{LEFT}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>\n",
        TOP - 2.0,
        RIGHT - LEFT + 2.0,
        BOTTOM - TOP + 4.0,
    );
    if !title.is_empty() {
        let middle = WIDTH / 2.0;
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"24\" text-anchor=\"middle\" font-size=\"13\" font-weight=\"600\">{title}</text>");
    }
    frame.axes(&mut svg);
    svg += "<g clip-path=\"url(#inside)\" fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\">\n";
    if train.len() > FEW {
        line(&mut svg, &frame.thinned(&train), &format!("stroke=\"{TRAIN}\" stroke-width=\"1\" stroke-opacity=\"0.3\""));
    }
    line(&mut svg, &frame.thinned(&smooth), &format!("stroke=\"{TRAIN}\" stroke-width=\"2\""));
    line(&mut svg, &frame.thinned(&valid), &format!("stroke=\"{VALID}\" stroke-width=\"2\""));
    svg += "</g>\n";
    for (points, colour) in [(&smooth, TRAIN), (&valid, VALID)] {
        // A line of one point is nothing to see, and few measurements should be seen as such.
        let dots = if points.len() <= FEW { &points[..] } else { &[] };
        for (x, y) in dots.iter().map(|&point| frame.place(point)).filter(|&(_, y)| y >= TOP) {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
    legend(&mut svg, &[("training", &smooth, TRAIN), ("validation", &valid, VALID)]);
    let remark = match (train.len() + valid.len(), cut) {
        (0, _) => "no step yet".into(),
        (_, 0) => String::new(),
        (_, 1) => "1 loss lies above".into(),
        (_, cut) => format!("{cut} losses lie above"),
    };
    text(&mut svg, RIGHT - 6.0, TOP + 16.0, "end", &remark);
    svg + "</svg>\n"
}

/// Which losses and steps the picture shows.
struct Frame {
    steps: RangeInclusive<f64>,
    /// As they lie along the axis: their logarithms where it is logarithmic.
    losses: RangeInclusive<f64>,
    logarithmic: bool,
    /// The largest loss that is shown.
    most: f64,
    step_ticks: Vec<f64>,
    /// Losses and their labels.
    loss_ticks: Vec<(f64, String)>,
}

impl Frame {
    /// A frame that holds everything, but for single losses far above all others: the second number is how many those are.
    fn around(train: &[Point], valid: &[Point]) -> (Frame, usize) {
        let all = || train.iter().chain(valid);
        let (first, last) = all().fold((u64::MAX, 0), |(first, last), &(step, _)| (first.min(step), last.max(step)));
        let (first, last) = if first > last { (0, 1) } else { (first, last.max(first + 1)) };
        // A run that begins near 0 begins at 0.
        let first = if first <= last / 20 || first <= 1 { 0 } else { first };
        let steps = first as f64..=last as f64;
        let mut losses: Vec<f64> = all().map(|&(_, loss)| loss).collect();
        losses.sort_by(f64::total_cmp);
        let (mut low, mut high) = losses.first().zip(losses.last()).map_or((0.0, 1.0), |(&low, &high)| (low, high));
        if losses.len() > FEW {
            let usual = valid.iter().fold(losses[losses.len() * 99 / 100], |most, &(_, loss)| most.max(loss));
            if high - low > 5.0 * (usual - low) {
                high = usual;
            }
        }
        let (cut, most) = (losses.iter().filter(|&&loss| loss > high).count(), high);
        // A loss of 0 has no logarithm; it lies on the axis then.
        let smallest = losses.iter().copied().find(|&loss| loss > 0.0).filter(|_| low >= 0.0);
        let logarithmic = smallest.is_some_and(|smallest| high >= WIDE * smallest);
        if let Some(smallest) = smallest.filter(|_| logarithmic) {
            (low, high) = (smallest.log10(), high.log10());
        } else if high - low < 1e-6 * high.abs().max(1e-3) {
            (low, high) = (low - 0.05 * low.abs().max(0.1), high + 0.05 * high.abs().max(0.1));
        }
        let span = high - low;
        let below = if low >= 0.0 && !logarithmic { (low - 0.04 * span).max(0.0) } else { low - 0.04 * span };
        let losses = below..=high + 0.04 * span;
        let loss_ticks = if logarithmic { logarithmic_ticks(&losses) } else { linear_ticks(&losses) };
        (Frame { step_ticks: ticks(&steps, 7.0, 1.0).0, steps, losses, logarithmic, most, loss_ticks }, cut)
    }

    /// Where a point is in the picture.
    fn place(&self, (step, loss): Point) -> (f64, f64) {
        let share = |range: &RangeInclusive<f64>, value: f64| (value - range.start()) / (range.end() - range.start());
        let along = if self.logarithmic { loss.max(f64::MIN_POSITIVE).log10().max(*self.losses.start()) } else { loss };
        let (x, y) = (share(&self.steps, step as f64), share(&self.losses, along));
        (LEFT + x * (RIGHT - LEFT), (BOTTOM - y * (BOTTOM - TOP)).max(-HEIGHT))
    }

    /// The points' places; where a pixel has many, its first, lowest, highest and last.
    fn thinned(&self, points: &[Point]) -> Vec<(f64, f64)> {
        let places = points.iter().map(|&point| self.place(point)).collect::<Vec<_>>();
        let mut thin = Vec::new();
        for column in places.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
            if column.len() <= 4 {
                thin.extend_from_slice(column);
                continue;
            }
            let of = |i: &usize, j: &usize| column[*i].1.total_cmp(&column[*j].1);
            let (least, most) = ((0..column.len()).min_by(of).unwrap_or(0), (0..column.len()).max_by(of).unwrap_or(0));
            thin.extend([0, least.min(most), least.max(most), column.len() - 1].map(|i| column[i]));
        }
        thin
    }

    /// The axes with their ticks and labels.
    fn axes(&self, svg: &mut String) {
        for (loss, label) in &self.loss_ticks {
            let y = self.place((0, *loss)).1;
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#e7eaee\"/>");
            text(svg, LEFT - 8.0, y + 4.0, "end", label);
        }
        for &step in &self.step_ticks {
            let x = self.place((step as u64, 0.0)).0;
            let _ = writeln!(svg, "<path d=\"M{x:.1} {BOTTOM}v5\" stroke=\"#8b949e\"/>");
            text(svg, x, BOTTOM + 19.0, "middle", &grouped(step as u64));
        }
        let _ = writeln!(svg, "<path d=\"M{LEFT} {BOTTOM}H{RIGHT}\" stroke=\"#8b949e\"/>");
        text(svg, (LEFT + RIGHT) / 2.0, BOTTOM + 42.0, "middle", "step");
        let middle = (TOP + BOTTOM) / 2.0;
        let name = if self.logarithmic { "loss, logarithmic" } else { "loss" };
        let _ = writeln!(svg, "<text x=\"18\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {middle})\">{name}</text>");
    }
}

/// Round losses in a range.
fn linear_ticks(losses: &RangeInclusive<f64>) -> Vec<(f64, String)> {
    let (ticks, distance) = ticks(losses, 6.0, 0.0);
    let decimals = (-distance.log10().floor()).clamp(0.0, 9.0) as usize;
    ticks.into_iter().map(|loss| (loss, format!("{loss:.decimals$}"))).collect()
}

/// Powers of ten in a range of logarithms, in steps that leave ten or fewer; and 2 and 5 times those where they are few.
fn logarithmic_ticks(logarithms: &RangeInclusive<f64>) -> Vec<(f64, String)> {
    let decades = logarithms.end() - logarithms.start();
    let factors = if decades < 3.0 { &[1.0, 2.0, 5.0][..] } else { &[1.0] };
    let (first, last) = (logarithms.start().floor() as i32, logarithms.end().floor() as i32);
    let powers = (first..=last).step_by((decades / 10.0).ceil().max(1.0) as usize);
    let losses = powers.flat_map(|power| factors.iter().map(move |factor| (factor * 10f64.powi(power), power)));
    let inside = losses.filter(|(loss, _)| logarithms.contains(&loss.log10()));
    let label = |loss: f64, power: i32| match power {
        -4..0 => format!("{loss:.0$}", power.unsigned_abs() as usize),
        0..5 => format!("{loss:.0}"),
        _ => format!("{loss:.0e}"),
    };
    inside.map(|(loss, power)| (loss, label(loss, power))).collect()
}

/// Round numbers in a range, `most` or fewer and `least` or more apart, and their distance.
fn ticks(range: &RangeInclusive<f64>, most: f64, least: f64) -> (Vec<f64>, f64) {
    let rough = ((range.end() - range.start()) / most).max(least).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let distance = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|&n| n >= rough * 0.999).unwrap_or(power * 10.0);
    let (first, last) = ((range.start() / distance).ceil() as i64, (range.end() / distance).floor() as i64);
    ((first..=last).map(|i| i as f64 * distance).collect(), distance)
}

/// Means over a window, which is narrower at the beginning, where losses fall fast, and one-sided at the end. Losses above `most` count as
/// that, so that one spike is not smeared over its neighbours.
fn smoothed(points: &[Point], most: f64) -> Vec<Point> {
    let half = (points.len() / 30).clamp(3, 200);
    let mean = |i: usize| {
        let window = &points[i - half.min(i)..=(i + half.min(i)).min(points.len() - 1)];
        window.iter().map(|(_, loss)| loss.min(most)).sum::<f64>() / window.len() as f64
    };
    points.iter().enumerate().map(|(i, &(step, _))| (step, mean(i))).collect()
}

fn line(svg: &mut String, places: &[(f64, f64)], style: &str) {
    if places.len() > 1 {
        let places: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" {style}/>", places.join(" "));
    }
}

/// The lines that there are, with their last values.
fn legend(svg: &mut String, lines: &[(&str, &[Point], &str)]) {
    let mut x = LEFT;
    for (name, points, colour) in lines {
        let Some((_, last)) = points.last() else { continue };
        let _ = writeln!(svg, "<path d=\"M{x} 53h20\" stroke=\"{colour}\" stroke-width=\"3\" stroke-linecap=\"round\"/>");
        let last = if *last < 1e5 { format!("{last:.4}") } else { format!("{last:.1e}") };
        text(svg, x + 28.0, 57.0, "start", &format!("{name} {last}"));
        x += 165.0;
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    if !words.is_empty() {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
    }
}

/// A text as XML has it, on one line and not too long.
fn escaped(text: &str) -> String {
    let mut letters = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = letters.by_ref().take(LONGEST_TITLE).collect();
    if letters.next().is_some() {
        short.pop();
        short.push('…');
    }
    short.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).expect("digits are text"));
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Every element is closed, and every number is one.
    fn check(svg: &str) {
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf\"") && !svg.contains("-0.0\""), "{svg}");
        let (opened, closed) = (svg.matches('<').count(), svg.matches("/>").count() + 2 * svg.matches("</").count());
        assert_eq!((opened, svg.matches('>').count()), (closed, opened), "{svg}");
        assert_eq!(svg.matches('"').count() % 2, 0);
        for place in svg.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next()).flat_map(|list| list.split([' ', ','])) {
            assert!(place.parse::<f64>().is_ok_and(|n| (-HEIGHT..=WIDTH).contains(&n)), "{place}");
        }
    }

    #[test]
    fn any_number_of_points() {
        let mut random = Random::new(1, 0);
        for count in [0, 1, 2, 3, FEW, FEW + 1, 1000, 50_000] {
            for valid in [0, 1, 2, 100] {
                let mut points =
                    |count: u64, every: u64| (0..count).map(|i| (i * every, 5.0 / (1.0 + i as f64) + random.uniform())).collect::<Vec<_>>();
                let (train, valid) = (points(count as u64, 1), points(valid, 10));
                let svg = loss_svg("a run", &train, &valid);
                check(&svg);
                assert_eq!(svg.contains("training"), count > 0);
                assert_eq!(svg.contains("validation"), !valid.is_empty());
                assert!(svg.len() < 200_000, "{} bytes", svg.len());
            }
        }
        assert!(loss_svg("", &[], &[]).contains("no step yet"));
    }

    #[test]
    fn odd_losses() {
        let odd = [0.0, -1.0, 1e-12, 1e30, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e9];
        for a in odd {
            check(&loss_svg("", &[(7, a)], &[]));
            for b in odd {
                check(&loss_svg("", &[(1, a), (2, b)], &[(u64::MAX, b)]));
                check(&loss_svg("", &vec![(3, a); 100], &[(3, b)]));
            }
        }
    }

    #[test]
    fn a_spike_is_cut_and_told() {
        let mut train: Vec<_> = (0..1000).map(|i| (i, 3.0 - i as f64 / 1000.0)).collect();
        train[0].1 = 5.5;
        assert!(!loss_svg("", &train, &[]).contains("above"));
        train[500].1 = 900.0;
        let svg = loss_svg("", &train, &[]);
        check(&svg);
        assert!(svg.contains("1 loss lies above") || svg.contains("losses lie above"), "{svg}");
    }

    #[test]
    fn a_title_is_text() {
        let svg = loss_svg("a \"b\" <c> & d\n", &[], &[]);
        check(&svg);
        assert_eq!(svg.matches("a &quot;b&quot; &lt;c&gt; &amp; d <").count(), 1, "{svg}");
        let svg = loss_svg(&"é".repeat(300), &[], &[]);
        assert!(svg.contains(&format!(">{}…<", "é".repeat(LONGEST_TITLE - 1))), "{svg}");
    }

    #[test]
    fn a_wide_range_is_logarithmic() {
        let falls = |to: f64| (0..200).map(|i| (i, 8.0 * (to / 8.0).powf(i as f64 / 199.0))).collect::<Vec<_>>();
        for (to, logarithmic) in [(0.5, false), (0.3, true), (0.001, true)] {
            let svg = loss_svg("", &falls(to), &[]);
            check(&svg);
            assert_eq!(svg.contains("logarithmic"), logarithmic, "{to}");
        }
        // A 0 lies at the bottom; below 0 there are no logarithms.
        let svg = loss_svg("", &[(1, 8.0), (2, 0.1), (3, 0.0)], &[]);
        check(&svg);
        assert!(svg.contains("logarithmic") && svg.contains(&format!("{RIGHT:.1},{BOTTOM:.1}")), "{svg}");
        assert!(!loss_svg("", &[(1, 8.0), (2, 0.1), (3, -1.0)], &[]).contains("logarithmic"));
    }

    #[test]
    fn round_ticks() {
        let labels = |range| logarithmic_ticks(&range).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(-1.5..=1.0), ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!(labels(-5.1..=-0.5), ["1e-5", "0.0001", "0.001", "0.01", "0.1"]);
        assert!((8..=11).contains(&labels(-300.0..=38.0).len()));
        assert_eq!(ticks(&(0.0..=6000.0), 7.0, 1.0).0, [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0]);
        assert_eq!(ticks(&(0.0..=1.0), 7.0, 1.0).0, [0.0, 1.0]);
        assert_eq!(ticks(&(1.9..=3.1), 6.0, 0.0), (vec![2.0, 2.2, 2.4000000000000004, 2.6, 2.8000000000000003, 3.0], 0.2));
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(grouped).each_ref().map(String::as_str));
    }

    #[test]
    fn a_run_directory() {
        let run = std::env::temp_dir().join(format!("graftling-plot-{}", std::process::id()));
        std::fs::create_dir_all(&run).expect("a directory");
        assert_eq!(write(&run, "a run").expect_err("no metrics").exit_code(), 3);
        let lines = "{\"step\":0,\"eval_loss\":3.5}\n{\"step\":1,\"loss\":3.25}\n{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.9}\n{\"step\":3,\"lo";
        std::fs::write(run.join("metrics.jsonl"), lines).expect("metrics");
        write(&run, "a run").expect("a drawing");
        let svg = std::fs::read_to_string(run.join("loss.svg")).expect("a drawing");
        assert_eq!(svg, loss_svg("a run", &[(1, 3.0), (2, 2.9)], &[(0, 3.5)]));
        std::fs::remove_dir_all(&run).expect("no directory");
    }
}
