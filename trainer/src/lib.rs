//! Trains, quantizes, exports and scores the models that segd runs.

pub mod augment;
pub mod command;
pub mod contract;
pub mod data;
pub mod export;
pub mod forward;
pub mod graph;
pub mod import;
pub mod loss;
pub mod nets;
pub mod objects;
pub mod optimizer;
pub mod picture;
pub mod quantize;
pub mod recipe;
pub mod report;
pub mod run;
pub mod tensorboard;
pub mod train;
pub mod validate;
pub mod weights;
