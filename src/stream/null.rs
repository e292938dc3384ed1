//! Frames to nowhere, to measure everything else.

use crate::stream::{FrameSink, SinkOpener};
use vision::error::Result;
use vision::frame::{Frame, FrameFormat};

/// Opens a sink that discards its frames. It counts as a file: every frame is to arrive.
#[derive(Debug, Clone, Copy)]
pub struct NullOpener;

impl SinkOpener for NullOpener {
    fn name(&self) -> String {
        "null://".into()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, _format: FrameFormat, _frame_rate: Option<f64>) -> Result<Box<dyn FrameSink>> {
        Ok(Box::new(NullSink))
    }
}

struct NullSink;

impl FrameSink for NullSink {
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
