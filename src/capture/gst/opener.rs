//! Opens files, RTSP streams and launch lines.

use vision::error::Result;

use super::source::GstSource;
use crate::capture::options::CaptureOptions;
use crate::capture::paced::Paced;
use crate::capture::source::{FrameSource, SourceOpener};
use crate::capture::spec::SourceSpec;
use crate::clock::{SharedClock, Stop, stop_pair};

/// Opens files, RTSP streams and launch lines.
#[derive(Debug)]
pub struct GstOpener {
    spec: SourceSpec,
    options: CaptureOptions,
    clock: SharedClock,
}

impl GstOpener {
    /// An opener of `spec`, which is a file, an RTSP address or a launch line.
    pub fn new(spec: &SourceSpec, options: &CaptureOptions, clock: SharedClock) -> Self {
        Self {
            spec: spec.clone(),
            options: options.clone(),
            clock,
        }
    }
}

impl SourceOpener for GstOpener {
    fn name(&self) -> String {
        self.spec.name()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        let (_never, stop) = stop_pair();
        self.open_until(&stop)
    }

    fn open_until(&self, stop: &Stop) -> Result<Box<dyn FrameSource>> {
        let source = GstSource::open(&self.spec, &self.options, self.clock.clone(), stop)?;
        if source.is_live() {
            Ok(Box::new(source))
        } else {
            Ok(Box::new(Paced::new(
                source,
                self.options.pace,
                self.clock.clone(),
            )))
        }
    }
}
