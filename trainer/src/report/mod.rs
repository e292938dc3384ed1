//! A run's report: one HTML file that needs no other.

pub mod curves;
mod html;
pub mod sheet;

pub use html::write;

use vision::dataset::DatasetClass;
use vision::score::Scores;

use crate::run::Log;

/// What a report shows.
pub struct Report {
    /// The model's name.
    pub name: String,
    /// What was trained and scored, as rows of a name and a value.
    pub facts: Vec<(String, String)>,
    /// The run's log, where there is one.
    pub log: Option<Log>,
    /// The classes in label order.
    pub classes: Vec<DatasetClass>,
    /// The scores on all pictures.
    pub scores: Scores,
    /// What the scores depend on, in a sentence.
    pub protocol: String,
    /// Pictures to look at.
    pub rows: Vec<Row>,
}

/// A picture to look at.
pub struct Row {
    /// Its name and its score.
    pub title: String,
    /// Picture, truth, prediction and errors side by side, as JPEG.
    pub jpeg: Vec<u8>,
}
