//! The report as HTML.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vision::score::Scores;

use super::{Report, curves};

const STYLE: &str = "\
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1340px; padding: 0 1em; color: #222 }
h2 { margin-top: 2em }
table { border-collapse: collapse }
td, th { padding: 3px 9px; text-align: right; border-bottom: 1px solid #e4e4e4; font-variant-numeric: tabular-nums; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
.bar { display: inline-block; height: 0.8em; background: #1466a8; vertical-align: baseline }
.swatch { display: inline-block; width: 0.9em; height: 0.9em; border: 1px solid #888; vertical-align: -0.1em; margin-right: 0.5em }
.matrix td { padding: 2px 5px; font-size: 12px; border: 1px solid #fff; min-width: 2.4em }
.matrix th { padding: 2px 5px; font-size: 12px; border: 0 }
.matrix th.over { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; height: 8em }
figure { margin: 0 0 1.2em } figure img { max-width: 100%; display: block }
figcaption { font-size: 13px; color: #555 }
.note { color: #555; font-size: 13px; max-width: 60em }";

/// The report as one HTML file.
///
/// # Errors
/// The curves can't be drawn.
pub fn write(report: &Report) -> Result<String> {
    let mut out = String::new();
    let name = escape(&report.name);
    writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\n\
         <style>\n{STYLE}\n</style></head><body>\n<h1>{name}</h1>"
    )?;
    out += "<table>\n";
    for (key, value) in &report.facts {
        writeln!(
            out,
            "<tr><td>{}</td><td style=\"text-align:left\">{}</td></tr>",
            escape(key),
            escape(value)
        )?;
    }
    out += "</table>\n";
    summary(&mut out, &report.scores)?;
    writeln!(out, "<p class=\"note\">{}</p>", escape(&report.protocol))?;
    if let Some(log) = &report.log {
        out += "<h2>Training</h2>\n";
        out += &curves::svg(log).map_err(|why| anyhow!("drawing the curves: {why}"))?;
    }
    classes(&mut out, report)?;
    matrix(&mut out, report)?;
    rows(&mut out, report)?;
    out += "</body></html>\n";
    Ok(out)
}

fn percent(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{:.1}", 100.0 * value))
}

fn summary(out: &mut String, scores: &Scores) -> Result<()> {
    let Scores {
        matrix,
        boundary,
        regions,
    } = scores;
    out.push_str("<h2>Scores, %</h2>\n<table>\n");
    for (name, value) in [
        ("mean IoU", matrix.mean_iou()),
        ("pixel accuracy", matrix.pixel_accuracy()),
        ("mean class accuracy", matrix.mean_class_accuracy()),
        ("frequency-weighted IoU", matrix.frequency_weighted_iou()),
        ("mean Dice", matrix.mean_dice()),
        ("mean boundary F-score", boundary.mean()),
        ("over-segmentation", regions.over_all()),
        ("under-segmentation", regions.under_all()),
    ] {
        writeln!(out, "<tr><td>{name}</td><td>{}</td></tr>", percent(value))?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn swatch(color: [u8; 3]) -> String {
    let [r, g, b] = color;
    format!("<span class=\"swatch\" style=\"background:rgb({r},{g},{b})\"></span>")
}

fn classes(out: &mut String, report: &Report) -> Result<()> {
    let Scores {
        matrix,
        boundary,
        regions,
    } = &report.scores;
    out.push_str(
        "<h2>Classes, %</h2>\n<table>\n<tr><th>class</th><th>share of pixels</th><th style=\"text-align:left\">IoU</th>\
         <th>accuracy</th><th>Dice</th><th>boundary F</th><th>over-seg.</th><th>under-seg.</th></tr>\n",
    );
    let of = |class: usize| (0..matrix.classes()).map(|p| matrix.count(class, p)).sum::<u64>();
    let total: u64 = (0..matrix.classes()).map(of).sum();
    for (index, class) in report.classes.iter().enumerate() {
        let iou = matrix.iou(index);
        writeln!(
            out,
            "<tr><td>{}{}</td><td>{}</td><td style=\"text-align:left\"><span class=\"bar\" style=\"width:{:.0}px\"></span> {}</td>\
             <td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            swatch(class.color),
            escape(&class.name),
            percent((total > 0).then(|| of(index) as f64 / total as f64)),
            260.0 * iou.unwrap_or(0.0),
            percent(iou),
            percent(matrix.class_accuracy(index)),
            percent(matrix.dice(index)),
            percent(boundary.class(index)),
            percent(regions.over(index)),
            percent(regions.under(index))
        )?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn matrix(out: &mut String, report: &Report) -> Result<()> {
    let matrix = &report.scores.matrix;
    out.push_str(
        "<h2>Confusion matrix</h2>\n<p class=\"note\">Rows are true classes, columns predicted ones; % of each row.</p>\n\
         <table class=\"matrix\">\n<tr><th></th>",
    );
    for class in &report.classes {
        write!(out, "<th class=\"over\">{}</th>", escape(&class.name))?;
    }
    out.push_str("</tr>\n");
    for (truth, class) in report.classes.iter().enumerate() {
        write!(out, "<tr><th>{}{}</th>", swatch(class.color), escape(&class.name))?;
        let total: u64 = (0..matrix.classes()).map(|p| matrix.count(truth, p)).sum();
        for predicted in 0..report.classes.len() {
            let share = matrix.count(truth, predicted) as f64 / total.max(1) as f64;
            // Blue where right, red where wrong; a share of a tenth must be seen.
            let depth = share.sqrt();
            let [r, g, b] = if truth == predicted {
                [20, 102, 168]
            } else {
                [200, 50, 30]
            }
            .map(|level: u8| (255.0 - depth * (255.0 - f64::from(level))) as u8);
            let ink = if depth > 0.6 { "#fff" } else { "#222" };
            let text = match 100.0 * share {
                share if share >= 10.0 => format!("{share:.0}"),
                share if share >= 0.05 => format!("{share:.1}"),
                _ => String::new(),
            };
            write!(
                out,
                "<td style=\"background:rgb({r},{g},{b});color:{ink}\">{text}</td>"
            )?;
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
    Ok(())
}

fn rows(out: &mut String, report: &Report) -> Result<()> {
    if report.rows.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<h2>Pictures</h2>\n<p class=\"note\">Picture, truth (white: not labelled), prediction, errors in red (dark: not \
         scored). From the worst over the middle to the best.</p>\n",
    );
    for row in &report.rows {
        writeln!(
            out,
            "<figure><img alt=\"\" src=\"data:image/jpeg;base64,{}\"><figcaption>{}</figcaption></figure>",
            STANDARD.encode(&row.jpeg),
            escape(&row.title)
        )?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;
    use crate::run::Log;
    use vision::dataset::DatasetClass;

    #[test]
    fn a_report_shows_what_was_scored() {
        let mut scores = Scores::new(2);
        scores.add(4, &[0, 0, 0, 1], &[0, 0, 1, 1]);
        let report = Report {
            name: "a <b>".into(),
            facts: vec![("network".into(), "unet".into())],
            log: Some(Log::parse("h\n20,1.0,2.5,\n40,2.0,1.5,0.5\n").unwrap()),
            classes: [("sky", [1, 2, 3]), ("road", [4, 5, 6])]
                .map(|(name, color)| DatasetClass {
                    name: name.into(),
                    color,
                })
                .into(),
            scores,
            protocol: "single scale".into(),
            rows: vec![Row {
                title: "0001: 50.0".into(),
                jpeg: vec![1, 2, 3],
            }],
        };
        let html = write(&report).unwrap();
        for part in [
            "a &lt;b&gt;",
            "<svg",
            "rgb(4,5,6)",
            "58.3",
            ">66.7</td>",
            "data:image/jpeg;base64,AQID",
            "0001: 50.0",
            "single scale",
        ] {
            assert!(html.contains(part), "{part}");
        }
        // It needs nothing from elsewhere.
        for part in ["http://", "https://", "src=\"/", "<script"] {
            let html = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(part), "{part}");
        }
    }
}
