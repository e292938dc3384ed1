//! One frame to one outgoing picture: painted, hidden where it must be, and fitted to the outputs' size.

use std::sync::Arc;
use std::time::Duration;

use super::TimedMask;
use super::control::Looks;
use super::lost::in_words;
use crate::clock::TimeNs;
use crate::metrics::Preparing;
use vision::fit::Letterbox;
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::overlay::{Painter, Visualize, caption, notice};
use vision::redact::Redactor;

/// What a picture that is hidden as a whole says.
const HIDDEN: [&str; 2] = ["picture hidden", "no current mask"];
/// The same where the picture itself can't be trusted: nobody is found in remains of a picture.
const HIDDEN_DAMAGED: [&str; 2] = ["picture hidden", "damaged on the way"];

/// The other modes show no pixel of the picture: their values are what programs read.
fn shows_picture(mode: Visualize) -> bool {
    !matches!(mode, Visualize::Mask | Visualize::Labels)
}

/// Tables and buffers for frames of one format, shown in one way.
pub(super) struct Painting {
    format: FrameFormat,
    looks: Arc<Looks>,
    painter: Painter,
    redactor: Option<Redactor>,
    /// Where the outputs have another format than what is painted.
    fit: Option<(Letterbox, Box<[u8]>)>,
    out: FrameFormat,
}

impl Painting {
    /// For frames of `format`; pictures go out as `out`, or as they are painted if `None`.
    pub(super) fn new(format: FrameFormat, looks: Arc<Looks>, out: Option<FrameFormat>) -> Self {
        let painter = Painter::new(format, &looks.colored(), looks.overlay.clone());
        let painted = painter.output_format();
        let out = out.unwrap_or(painted);
        let fits = out != painted && out.pixel == PixelFormat::I420 && painted.pixel == PixelFormat::I420;
        let fit = fits.then(|| {
            (
                Letterbox::new(painted, out),
                vec![0; painted.packed_bytes()].into_boxed_slice(),
            )
        });
        let shows_picture = shows_picture(looks.overlay.mode);
        let redactor = looks
            .privacy
            .as_ref()
            .filter(|_| shows_picture)
            .map(|privacy| Redactor::new(format.width, format.height, &privacy.redact));
        Self {
            format,
            looks,
            painter,
            redactor,
            fit,
            out,
        }
    }

    /// Whether this is made for frames of `format`, shown as `looks` say.
    pub(super) fn is_for(&self, format: FrameFormat, looks: &Arc<Looks>) -> bool {
        self.format == format && Arc::ptr_eq(&self.looks, looks)
    }

    /// The format of what is painted, before it is fitted.
    pub(super) fn painted_format(&self) -> FrameFormat {
        self.painter.output_format()
    }

    /// Makes the outgoing picture; true if it had to be hidden as a whole.
    ///
    /// The mask must be of the frame's size and of the model whose looks these are.
    pub(super) fn paint(&mut self, frame: &Frame, mask: Option<&TimedMask>, out: &mut [u8]) -> bool {
        if let (Some(privacy), Some(_)) = (&self.looks.privacy, &self.redactor) {
            let max_ns = u64::try_from(privacy.max_mask_age.as_nanos()).unwrap_or(u64::MAX);
            let current = mask.is_some_and(|m| frame.captured_at_ns.abs_diff(m.captured_at_ns) <= max_ns);
            if frame.damaged || !current {
                let why = if frame.damaged { &HIDDEN_DAMAGED } else { &HIDDEN };
                notice(self.out, why, out);
                return true;
            }
        }
        let painted = self.painter.output_format();
        let target = match &mut self.fit {
            Some((_, scratch)) => scratch,
            None => &mut *out,
        };
        let scene = mask.map(|m| (&*m.mask, &*m.segments));
        self.painter.paint_segments(&frame.image(), scene, target);
        if let (Some(redactor), Some(mask)) = (&mut self.redactor, mask)
            && redactor.look_at_segments(&mask.mask, &mask.segments)
        {
            if painted.pixel == PixelFormat::I420 {
                redactor.hide(painted, 0, target);
                if self.looks.overlay.mode == Visualize::SideBySide {
                    redactor.hide(painted, painted.width / 2, target);
                }
            } else {
                notice(painted, &HIDDEN, target);
            }
        }
        if let Some((letterbox, scratch)) = &self.fit {
            letterbox.run(scratch, out);
        }
        false
    }
    /// Writes onto an outgoing picture which faster device is being prepared, and for how long; not onto masks and labels.
    pub(super) fn say_preparing(&self, preparing: &Preparing, now_ns: TimeNs, out: &mut [u8]) {
        if shows_picture(self.looks.overlay.mode) {
            let time = Duration::from_nanos(now_ns.saturating_sub(preparing.since_ns));
            let text = format!("preparing {}: {}", preparing.name, in_words(time));
            caption(self.out, &text, out);
        }
    }
}
