//! Frames to nowhere, to measure everything else.

use crate::output::{FrameOutput, Output, OutputOpener, Video};
use vision::error::Result;
use vision::frame::Frame;

/// Opens an output that discards its frames. It counts as a file: every frame is to arrive.
#[derive(Debug, Clone, Copy)]
pub struct NullOpener;

impl OutputOpener for NullOpener {
    fn name(&self) -> String {
        "null://".into()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, _video: &Video) -> Result<Output> {
        Ok(Output::Frames(Box::new(NullOutput)))
    }
}

struct NullOutput;

impl FrameOutput for NullOutput {
    fn describe(&self) -> String {
        "null:// (frames are discarded)".into()
    }

    fn push(&mut self, _frame: Frame) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
