//! Curves as SVG: lines from a zero that is shown, so that flat looks flat.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Failure;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;

/// Told apart also without colours: by their dashes.
const STYLES: [(&str, &str); 4] = [
    ("#0b6e99", ""),
    ("#b4540a", "6 3"),
    ("#4b7f1f", "2 3"),
    ("#7a3e9d", "9 3 2 3"),
];

/// Points of one thing.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Some curves over the same axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) curves: &'a [Curve],
}

// === impl Curve ===

impl Curve {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            points: Vec::new(),
        }
    }

    pub(crate) fn of(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            points,
        }
    }

    pub(crate) fn add(&mut self, x: f64, y: f64) {
        self.points.push((x, y));
    }
}

// === impl Plot ===

impl Plot<'_> {
    /// Writes it, unless there are fewer than two points of anything: a run of some
    /// cases does not replace curves of all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, folder: &Path, file: &str) -> Result<(), Failure> {
        if self.curves.iter().any(|curve| curve.points.len() < 2) {
            return Ok(());
        }
        fs::create_dir_all(folder)?;
        fs::write(folder.join(file), self.svg()?)?;
        println!("curve: {}", folder.join(file).display());
        Ok(())
    }

    fn svg(&self) -> Result<String, Failure> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let most_x = step_above(points().map(|point| point.0).fold(0.0, f64::max));
        let most_y = step_above(1.15 * points().map(|point| point.1).fold(0.0, f64::max));
        let x = |value: f64| LEFT + value / most_x.0 * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / most_y.0 * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
            self.title
        );
        for (at, label) in ticks(most_y) {
            writeln!(
                svg,
                "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#d8d8d8\"/>\
                 <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{label}</text>",
                y(at),
                WIDTH - RIGHT,
                LEFT - 6.0,
                y(at) + 4.0
            )?;
        }
        for (at, label) in ticks(most_x) {
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                x(at),
                HEIGHT - BOTTOM + 16.0
            )?;
        }
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 10.0,
            self.x,
            (TOP + HEIGHT - BOTTOM) / 2.0,
            self.y
        )?;
        for (index, curve) in self.curves.iter().enumerate() {
            let (colour, dashes) = STYLES[index % STYLES.len()];
            let line: Vec<String> = curve
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
                .collect();
            let last = curve.points.last().map_or(0.0, |point| point.1);
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
                 stroke-dasharray=\"{dashes}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                line.join(" "),
                WIDTH - RIGHT + 8.0,
                y(last) + 4.0,
                curve.name
            )?;
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

/// The end of an axis that holds `most`, and the step between its marks: 1, 2 or 5
/// times a power of ten.
fn step_above(most: f64) -> (f64, f64) {
    let rough = (most / 5.0).max(1e-6);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    ((most / step).ceil() * step, step)
}

fn ticks((most, step): (f64, f64)) -> impl Iterator<Item = (f64, String)> {
    let digits = if step < 1.0 { 2 } else { 0 };
    (0_u32..)
        .map(move |index| f64::from(index) * step)
        .take_while(move |at| *at <= most + step / 2.0)
        .map(move |at| {
            let label = match at {
                at if at >= 1e6 => format!("{}M", at / 1e6),
                at if at >= 1e4 => format!("{}k", at / 1e3),
                at => format!("{at:.digits$}"),
            };
            (at, label)
        })
}
