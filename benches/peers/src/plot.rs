//! Throughput over the number of tasks, a panel for each operation.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::op::Op;
use crate::peer::Competitor;
use crate::report::Run;

const PANEL: (u32, u32) = (460, 320);
const COLUMNS: usize = 2;

pub fn svg(run: &Run<'_>) -> Result<String> {
    let mut text = String::new();
    // The errors of the library borrow the text.
    draw(run, &mut text).map_err(|error| anyhow!("the plot: {error}"))?;
    Ok(text)
}

fn draw(run: &Run<'_>, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let mut ops: Vec<Op> = run.results.measured().map(|(op, _)| op).collect();
    ops.dedup();
    ops.retain(|op| op.many().is_none());
    let rows = ops.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32);
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, op) in root.split_evenly((rows, COLUMNS)).iter().zip(ops) {
        panel(run, area, op)?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    run: &Run<'_>,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    op: Op,
) -> Result<(), Box<dyn std::error::Error>> {
    let line = |competitor: &Competitor| -> Vec<(f64, f64)> {
        let value = |tasks: &usize| run.results.throughput((op, *tasks), competitor.title());
        let point = |tasks: &usize| Some((*tasks as f64, value(tasks)?));
        run.tasks.iter().filter_map(point).collect()
    };
    let top = run.competitors.iter().flat_map(line);
    let top = top.map(|(_, y)| y).fold(1.0, f64::max) * 1.1;
    let first = run.tasks.first().map_or(1.0, |tasks| *tasks as f64);
    let last = run.tasks.last().map_or(1.0, |tasks| *tasks as f64);
    let mut chart = ChartBuilder::on(area)
        .caption(op.title(), ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d((first..last.max(first + 1.0)).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("tasks")
        .y_desc("calls in a second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for (index, competitor) in run.competitors.iter().enumerate() {
        let points = line(competitor);
        if points.is_empty() {
            continue;
        }
        let color = Palette99::pick(index).to_rgba();
        let width = match competitor {
            Competitor::Motorpool => 3,
            _ => 1,
        };
        let style = color.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(competitor.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let dot = |point: &(f64, f64)| Circle::new(*point, 3, color.filled());
        chart.draw_series(points.iter().map(dot))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
