//! `segd-train`: trains, exports and scores the models that segd runs.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use segd_train::command::{
    archs, average, eval, export, import, labels, pack, plot, predict, quantize, report, train,
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network; Ctrl-C saves a checkpoint to continue from
    Train(train::Arguments),
    /// Average the weights of runs of one network
    Average(average::Arguments),
    /// Write a checkpoint as a model's folder: fp32.onnx, int8.onnx, contract.toml, card.md
    Export(export::Arguments),
    /// Score a checkpoint, and draw its predictions beside the truth
    Eval(eval::Arguments),
    /// Draw what is read of a data set: classes and objects
    Labels(labels::Arguments),
    /// List the networks
    Archs(archs::Arguments),
    /// Check published trunk weights and write them as segd-train names them
    Import(import::Arguments),
    /// Write a checkpoint in 8 bits for each backend, with a receipt of what that costs
    Quantize(quantize::Arguments),
    /// Store the weights of models' f32 files as f16: half the bytes, the same labels but at ties
    Pack(pack::Arguments),
    /// Label pictures with a checkpoint
    Predict(predict::Arguments),
    /// Write a run's report.html: curves, scores by class, confusion matrix, pictures
    Report(report::Arguments),
    /// Draw a run's loss and scores as SVG
    Plot(plot::Arguments),
}

fn main() -> Result<()> {
    // Threads of libgomp that spin while they wait starve the others on a machine with few cores.
    // It reads the variable before `main`, so the program starts itself again with it.
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        let error = std::process::Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env("OMP_WAIT_POLICY", "passive")
            .exec();
        return Err(error).context("starting again with OMP_WAIT_POLICY=passive");
    }
    load_cuda();
    match Arguments::parse().command {
        Command::Train(arguments) => train::run(&arguments),
        Command::Average(arguments) => average::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Labels(arguments) => labels::run(&arguments),
        Command::Archs(arguments) => archs::run(&arguments),
        Command::Pack(arguments) => pack::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Quantize(arguments) => quantize::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Plot(arguments) => plot::run(&arguments),
    }
}

/// Loads libtorch's CUDA part if there is one. Called before anything else of libtorch, whose first call looks for it.
///
/// The program is not linked with it, so that one binary runs with either libtorch.
fn load_cuda() {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: libtorch_cuda.so is the library that the program's own libtorch belongs to, and running its initialisers
    // on the main thread, before any other, is how torch itself loads it.
    if let Ok(library) = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) } {
        // It stays for as long as the program runs.
        std::mem::forget(library);
    }
}
