//! The plots of docs/PERFORMANCE.md, from the rows.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::full_palette::{GREY_300, GREY_700};

use crate::results::Row;

/// What a plot shows: names of cases with the part between `before` and `after` as the x of each.
pub struct Plot {
    /// Name of the file.
    pub file: &'static str,
    /// Above the plot.
    pub title: &'static str,
    /// Below it.
    pub x: &'static str,
    /// Beside it.
    pub y: &'static str,
    before: &'static str,
    after: &'static str,
}

/// All plots.
pub const PLOTS: &[Plot] = &[
    Plot {
        file: "set-by-threads.svg",
        title: "Durable sets of 100 bytes, 100,000 keys",
        x: "threads",
        y: "sets a second",
        before: "store.set.durable.t",
        after: "",
    },
    Plot {
        file: "batches.svg",
        title: "Durable batches, one thread",
        x: "sets in a batch",
        y: "sets a second",
        before: "store.batch.",
        after: ".t1",
    },
    Plot {
        file: "set-by-keys.svg",
        title: "Durable sets of 100 bytes by 8 threads",
        x: "keys in the store",
        y: "sets a second",
        before: "store.set.keys-",
        after: ".t8",
    },
    Plot {
        file: "get-by-keys.svg",
        title: "Gets by one thread, all in cache",
        x: "keys in the store",
        y: "gets a second",
        before: "store.get.keys-",
        after: ".t1",
    },
    Plot {
        file: "scan-by-keys.svg",
        title: "Scan of everything by one thread, all in cache",
        x: "keys in the store",
        y: "entries a second",
        before: "store.scan.keys-",
        after: ".t1",
    },
    Plot {
        file: "set-by-value.svg",
        title: "Durable sets by 8 threads",
        x: "bytes of a value",
        y: "sets a second",
        before: "store.set.value-",
        after: ".t8",
    },
];

type Series = (String, Vec<(f64, f64)>);

impl Plot {
    /// The lines: ours first, then each database. Other states of ours are not peers here.
    fn series(&self, rows: &[Row]) -> Vec<Series> {
        let mut all: Vec<Series> = vec![("CodexStore".to_owned(), Vec::new())];
        for row in rows {
            let x = row
                .name
                .strip_prefix(self.before)
                .and_then(|rest| rest.strip_suffix(self.after))
                .and_then(number);
            let database = !row.peer.starts_with("ours") && row.peer != "bar";
            let Some(x) = x.filter(|_| database) else {
                continue;
            };
            if let Some((_, ours)) = all.first_mut()
                && !ours.iter().any(|(at, _)| at.total_cmp(&x).is_eq())
            {
                ours.push((x, row.ours));
            }
            match all.iter_mut().find(|(name, _)| *name == row.peer) {
                Some((_, points)) => points.push((x, row.peer_value)),
                None => all.push((row.peer.clone(), vec![(x, row.peer_value)])),
            }
        }
        for (_, points) in &mut all {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        all
    }

    /// Draws it into `dir`; false if no row belongs to it.
    pub fn draw(&self, rows: &[Row], dir: &Path) -> Result<bool> {
        let series = self.series(rows);
        let points = || series.iter().flat_map(|(_, points)| points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let low = points().map(of).fold(f64::INFINITY, f64::min);
            let high = points().map(of).fold(0.0, f64::max);
            low * 0.8..high * 1.25
        };
        if points().next().is_none() {
            return Ok(false);
        }
        let path = dir.join(self.file);
        let failed = |e: &dyn std::fmt::Display| anyhow!("{}: {e}", self.file);
        let area = SVGBackend::new(&path, (760, 440)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(
                range(|point| point.0).log_scale(),
                range(|point| point.1).log_scale(),
            )
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| crate::results::short(x.round()).replace(".00", ""))
            .y_label_formatter(&|y| crate::results::short(y.round()).replace(".00", ""))
            .light_line_style(WHITE)
            .bold_line_style(GREY_300)
            .axis_style(GREY_700)
            .draw()
            .map_err(|e| failed(&e))?;
        for (at, (name, points)) in series.iter().enumerate() {
            let color = Palette99::pick(at).to_rgba();
            let width = if at == 0 { 3 } else { 1 };
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    color.stroke_width(width),
                ))
                .map_err(|e| failed(&e))?
                .label(name.clone())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], color.stroke_width(width))
                });
            let dots = points
                .iter()
                .map(|point| Circle::new(*point, 3, color.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(GREY_300)
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
        Ok(true)
    }
}

/// `8`, `10k`, `1m`; of bytes, `1k` is 1,024, which no plot can tell from 1,000.
fn number(text: &str) -> Option<f64> {
    let (digits, factor) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1e3),
        None => text
            .strip_suffix('m')
            .map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    Some(digits.parse::<f64>().ok()? * factor)
}
