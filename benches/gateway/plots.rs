//! The plots of a run as SVG.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::table::{Row, short, size};
use crate::ways::Way;

/// The size of the plots over the number of senders.
const SMALL: usize = 64;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line of a plot.
struct Line {
    name: String,
    way: Way,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// What a plot says.
struct Plot {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// How a value on the x axis is written.
    x_label: fn(f64) -> String,
    lines: Vec<Line>,
}

/// An axis: with logarithms when its values are far apart, else from 0.
struct Axis {
    log: bool,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn of(values: &[f64]) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let log = most > 8.0 * least;
        let (from, to) = if log { (least / 1.5, most * 1.5) } else { (0.0, most * 1.1) };
        let decade = |exponent: i32| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(exponent));
        let all: Vec<f64> = (-6..12).flat_map(decade).filter(|tick| (from..to).contains(tick)).collect();
        let ticks = if log { all } else { steps(to) };
        // Too many to read: those of the decades only.
        let whole = |tick: &f64| (tick.log10() - tick.log10().round()).abs() < 1e-9;
        let ticks = if ticks.len() > 12 { ticks.into_iter().filter(whole).collect() } else { ticks };
        Self { log, from, to, ticks }
    }

    /// An axis with a tick for each value.
    fn with_ticks_at(values: &[f64]) -> Self {
        let mut ticks = values.to_vec();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        Self { ticks, ..Self::of(values) }
    }

    /// Where a value lies between the ends: from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.log { value.log10() } else { value };
        (at(value) - at(self.from)) / (at(self.to) - at(self.from))
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        low + (f64::from(high - low) * self.place(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { vec![] } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

/// Round steps from 0.
fn steps(to: f64) -> Vec<f64> {
    let decade = 10_f64.powf((to / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * decade).find(|step| to / step <= 7.0);
    let step = step.unwrap_or(to);
    std::iter::successors(Some(0.0), |at| Some(at + step)).take_while(|at| *at <= to).collect()
}

/// Draws all plots into a folder: title and file of each. One without points is left out.
pub(crate) fn write(folder: &Path, rows: &[Row]) -> Result<Vec<(&'static str, &'static str)>> {
    let mut written = Vec::new();
    for plot in [latency(rows), throughput(rows), sizes(rows)] {
        if plot.lines.is_empty() {
            continue;
        }
        draw(&folder.join(plot.file), &plot).map_err(|error| anyhow!("{}: {error}", plot.file))?;
        written.push((plot.title, plot.file));
    }
    Ok(written)
}

/// Values of a way's rows of 64 B over the number of senders.
fn over_senders(rows: &[Row], way: Way, value: fn(&Row) -> f64) -> Vec<(f64, f64)> {
    let small = rows.iter().filter(|row| row.subject.way == way && row.subject.size == SMALL);
    small.filter_map(|row| Some((row.subject.senders? as f64, value(row)))).collect()
}

/// A line for each way that has points.
fn lines(points: impl Fn(Way) -> Vec<(f64, f64)>, what: &str, dashed: bool) -> Vec<Line> {
    let line = |way: Way| Line { name: format!("{way}{what}"), way, dashed, points: points(way) };
    Way::ALL.map(line).into_iter().filter(|line| !line.points.is_empty()).collect()
}

fn latency(rows: &[Row]) -> Plot {
    let mut lines50 = lines(|way| over_senders(rows, way, |row| row.p50), ", p50", false);
    lines50.extend(lines(|way| over_senders(rows, way, |row| row.p99), ", p99", true));
    Plot {
        file: "latency.svg",
        title: "Time until a message of 64 B is accepted",
        x: "senders",
        y: "ms",
        x_label: short_count,
        lines: lines50,
    }
}

fn throughput(rows: &[Row]) -> Plot {
    Plot {
        file: "throughput.svg",
        title: "Messages of 64 B accepted a second",
        x: "senders",
        y: "messages/s",
        x_label: short_count,
        lines: lines(|way| over_senders(rows, way, |row| row.accepted), "", false),
    }
}

fn sizes(rows: &[Row]) -> Plot {
    let best = |way: Way| {
        let rows = || rows.iter().filter(|row| row.subject.way == way && row.subject.senders.is_some());
        let mut sizes: Vec<usize> = rows().map(|row| row.subject.size).collect();
        sizes.dedup();
        let rate = |size: usize| rows().filter(move |row| row.subject.size == size).map(|row| row.rate);
        sizes.into_iter().map(|size| (size as f64, rate(size).fold(0.0, f64::max))).collect()
    };
    Plot {
        file: "size.svg",
        title: "MB/s end to end, with the number of senders that is best for the size",
        x: "payload of a message",
        y: "MB/s",
        x_label: size,
        lines: lines(best, "", false),
    }
}

fn short_count(count: f64) -> String {
    format!("{count:.0}")
}

fn color(way: Way) -> RGBColor {
    match way {
        Way::Floor => RGBColor(120, 120, 120),
        Way::Simple => RGBColor(31, 119, 180),
        Way::Mailbox => RGBColor(230, 115, 0),
        Way::Exchange => RGBColor(34, 139, 34),
        Way::Stream => RGBColor(148, 70, 180),
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(path: &Path, plot: &Plot) -> Drawn {
    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(670);
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let x = Axis::with_ticks_at(&points().map(|point| point.0).collect::<Vec<_>>());
    let y = Axis::of(&points().map(|point| point.1).collect::<Vec<_>>());
    let mut chart = ChartBuilder::on(&left)
        .caption(plot.title, ("sans-serif", 19))
        .margin(12)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(plot.x)
        .y_desc(plot.y)
        .x_label_formatter(&|value| (plot.x_label)(*value))
        .y_label_formatter(&|value| written(*value))
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17))
        .bold_line_style(RGBColor(225, 225, 225))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for line in &plot.lines {
        let style = color(line.way).stroke_width(2);
        let points = || line.points.iter().copied();
        if line.dashed {
            chart.draw_series(DashedLineSeries::new(points(), 6, 5, style))?;
        } else {
            chart.draw_series(LineSeries::new(points(), style))?;
        }
        chart.draw_series(points().map(|point| Circle::new(point, 4, color(line.way).filled())))?;
    }
    legend(&right, &plot.lines)?;
    Ok(root.present()?)
}

/// A number on an axis: 250000 as 250,000, and nothing behind the point that is 0.
fn written(value: f64) -> String {
    if value < 1000.0 {
        let text = short(value);
        return if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').into()
        } else {
            text
        };
    }
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// What each line is, beside the chart.
fn legend(area: &Area, lines: &[Line]) -> Drawn {
    for (line, at) in lines.iter().zip((60..).step_by(26)) {
        let style = color(line.way).stroke_width(2);
        let ends = [(0, at), (26, at)];
        if line.dashed {
            area.draw(&DashedPathElement::new(ends, 6, 5, style))?;
        } else {
            area.draw(&PathElement::new(ends, style))?;
        }
        area.draw(&Circle::new((13, at), 4, color(line.way).filled()))?;
        area.draw(&Text::new(line.name.as_str(), (34, at - 7), ("sans-serif", 15)))?;
    }
    Ok(())
}
