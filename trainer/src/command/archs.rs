//! `segd-train archs`.

use std::fmt::Write as _;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::nets::ARCHITECTURES;

/// Arguments of `archs`.
#[derive(Args)]
pub struct Arguments {
    /// The input's size that multiply-adds are counted at; each network's sides are rounded up to its multiple.
    #[arg(long, default_value = "480x360", value_name = "WIDTHxHEIGHT")]
    size: Size,
    /// Classes that the networks tell apart.
    #[arg(long, default_value_t = 21)]
    classes: i64,
}

/// Width and height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    width: i64,
    height: i64,
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = || format!("{text:?} is no size, expected one such as 480x360");
        let (width, height) = text.split_once('x').with_context(expected)?;
        let side = |text: &str| text.parse::<i64>().ok().filter(|side| (1..=16384).contains(side));
        Ok(Self {
            width: side(width).with_context(expected)?,
            height: side(height).with_context(expected)?,
        })
    }
}

/// Runs the command.
///
/// # Errors
/// The number of classes makes no sense.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        (2..=255).contains(&arguments.classes),
        "--classes is {}, expected 2 to 255",
        arguments.classes
    );
    print!("{}", table(arguments.size, arguments.classes));
    Ok(())
}

fn table(size: Size, classes: i64) -> String {
    let width = ARCHITECTURES
        .iter()
        .map(|architecture| architecture.name.len())
        .max();
    let width = width.unwrap_or_default();
    let mut text = format!(
        "{:width$}  {:>12}  {:>14}  {:>9}  {:>6}  {:18}  paper\n",
        "network", "parameters", "multiply-adds", "at", "stride", "trunk"
    );
    for architecture in &ARCHITECTURES {
        let graph = architecture.graph(classes);
        let round =
            |side: i64| (side + architecture.multiple - 1) / architecture.multiple * architecture.multiple;
        let (columns, rows) = (round(size.width), round(size.height));
        let _ = writeln!(
            text,
            "{:width$}  {:>10.2} M  {:>12.2} G  {:>9}  {:>6}  {:18}  {}",
            architecture.name,
            graph.parameters() as f64 / 1e6,
            graph.macs(rows, columns) as f64 / 1e9,
            format!("{columns}x{rows}"),
            architecture.stride,
            architecture.trunk.map_or("-", |trunk| trunk.name()),
            architecture.paper
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_network_with_its_size() {
        let table = table("480x360".parse().unwrap(), 21);
        assert_eq!(table.lines().count(), ARCHITECTURES.len() + 1);
        let row = |name: &str| -> Vec<String> {
            let line = table
                .lines()
                .find(|line| line.split_whitespace().next() == Some(name))
                .unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        // 31.03 M parameters; 360 is no multiple of 16.
        assert_eq!(row("unet")[1], "31.03");
        assert_eq!(row("unet")[5..7], ["480x368", "1"]);
        assert_eq!(row("fcn-8s")[1], "134.38");
        assert_eq!(row("pspnet")[5..7], ["480x384", "8"]);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["480", "480x", "0x3", "-1x4", "480x360x3", "99999x5"] {
            let message = text.parse::<Size>().unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        }
    }
}
