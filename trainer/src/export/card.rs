//! The model's card: what people should know before they use it.

use std::fmt::Write;

use vision::model::contract::{Contract, Precision};
use vision::score::Bootstrap;

use crate::recipe::Recipe;

/// Writes the card of a model trained by `recipe`. `measured` are the scores by precision.
#[must_use]
pub fn write(contract: &Contract, recipe: &Recipe, measured: &[(Precision, Bootstrap)]) -> String {
    let mut card = format!("# {}\n\n{}.\n\n", contract.name, contract.description);
    let mut line = |text: String| {
        card.push_str(&text);
        card.push('\n');
    };
    line(format!("- **Licence**: {}", contract.license));
    if let Some(training) = &contract.training {
        line(format!("- **Data**: {}.", training.data));
        line(format!("- **Recipe**: `{}`.", training.recipe));
    }
    let input = &contract.input;
    line(format!(
        "- **Input**: RGB, longest side {} pixels, sides multiples of {}, mean {:?}, divisor {:?} (0..255 scale).",
        input.width.max(input.height),
        input.multiple,
        input.mean,
        input.std
    ));
    if let Some(count) = contract.multiply_accumulates {
        line(format!(
            "- **Cost**: {:.2} G multiply-adds at {}x{}.",
            count as f64 / 1e9,
            input.width,
            input.height
        ));
    }
    for note in &recipe.about.notes {
        line(format!("\n{note}"));
    }
    if !contract.scores.is_empty() {
        line("\n## Scores\n\n| data | split | images | precision | metric | value | 95 % |\n|---|---|---|---|---|---|---|".into());
        for score in &contract.scores {
            line(format!(
                "| {} | {} | {} | {} | {} | {:.1} | {} |",
                score.dataset,
                score.split,
                score.images,
                score.precision.as_str(),
                score.metric,
                score.value,
                score
                    .interval
                    .map_or("-".to_owned(), |[low, high]| format!("{low:.1} to {high:.1}"))
            ));
        }
        line(format!(
            "\nProtocol: {}. The interval is a bootstrap over pictures.",
            contract.scores[0].protocol
        ));
    }
    if !measured.is_empty() {
        line("\n## Scores by class\n".into());
        let mut header = "| class |".to_owned();
        for (precision, _) in measured {
            let _ = write!(header, " IoU, {} |", precision.as_str());
        }
        line(header);
        line(format!("|---|{}", "---|".repeat(measured.len())));
        for (index, class) in recipe.classes().iter().enumerate() {
            let mut row = format!("| {} |", class.name);
            for (_, scores) in measured {
                match scores.whole().iou(index) {
                    Some(iou) => _ = write!(row, " {:.1} |", 100.0 * iou),
                    None => row += " - |",
                }
            }
            line(row);
        }
    }
    card
}
