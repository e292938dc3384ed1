//! Loss and score of a run over its steps.

use plotters::prelude::*;

use crate::run::Log;

/// The curves of loss and score as SVG.
///
/// # Errors
/// They can't be drawn.
pub fn svg(log: &Log) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    draw(log, &mut svg)?;
    Ok(svg)
}

fn draw(log: &Log, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let (loss_color, score_color) = (RGBColor(150, 150, 150), RGBColor(20, 110, 180));
    let steps = log.losses.iter().map(|(step, _)| *step).fold(1.0, f64::max);
    let highest = log.losses.iter().map(|(_, loss)| *loss).fold(0.1, f64::max);
    let area = SVGBackend::with_string(svg, (800, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .right_y_label_area_size(50)
        .build_cartesian_2d(0.0..steps, 0.0..highest)?
        .set_secondary_coord(0.0..steps, 0.0..100.0);
    // Each axis has its curve's colour, in place of a legend that would lie over one of them.
    let colored = |color: &RGBColor| ("sans-serif", 16).into_font().color(color);
    chart
        .configure_mesh()
        .light_line_style(WHITE.mix(0.0))
        .x_desc("step")
        .y_desc("training loss")
        .axis_desc_style(colored(&RGBColor(110, 110, 110)))
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc(format!("validation {}, %", log.metric.name()))
        .axis_desc_style(colored(&score_color))
        .draw()?;
    chart.draw_series(LineSeries::new(log.losses.iter().copied(), &loss_color))?;
    chart.draw_secondary_series(
        LineSeries::new(log.scores.iter().copied(), score_color.stroke_width(2)).point_size(3),
    )?;
    area.present()?;
    Ok(())
}
