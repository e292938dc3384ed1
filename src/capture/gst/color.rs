//! Colour tags. A stream says itself how its samples relate to RGB, and so does the file around it; where they differ the
//! stream is right: the tags in files of phones and screen recorders often leave the range out, or have another one.

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video::{
    VideoColorMatrix, VideoColorPrimaries, VideoColorRange, VideoColorimetry, VideoInfo,
    VideoTransferFunction,
};

use vision::frame::{Colorimetry, Matrix, Range};

/// Parsers that read a stream's own tags, and leave those that the file gave where there are any.
const PARSERS: [&str; 4] = ["h264parse", "h265parse", "mpegvideoparse", "av1parse"];
const FIELD: &str = "colorimetry";

/// Lets a stream's own tags win, if `element` is what parses it: the file's are kept from it, and fill in afterwards what
/// the stream leaves open.
pub(super) fn prefer_the_streams_own(element: &gst::Element) {
    let parses = element
        .factory()
        .is_some_and(|factory| PARSERS.contains(&factory.name().as_str()));
    let (true, Some(sink), Some(source)) = (parses, element.static_pad("sink"), element.static_pad("src"))
    else {
        return;
    };
    let of_file = Arc::new(Mutex::new(None::<String>));
    let kept = of_file.clone();
    sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(mut caps) = caps_of(info) {
            let tag = caps.structure(0).and_then(|s| s.get::<String>(FIELD).ok());
            if tag.is_some() {
                for structure in caps.make_mut().iter_mut() {
                    structure.remove_field(FIELD);
                }
                info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            }
            *kept.lock().unwrap_or_else(|e| e.into_inner()) = tag;
        }
        gst::PadProbeReturn::Ok
    });
    source.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let of_file = of_file.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let (Some(of_file), Some(mut caps)) = (of_file, caps_of(info)) {
            let of_stream = caps.structure(0).and_then(|s| s.get::<String>(FIELD).ok());
            let tag = combined(of_stream.as_deref(), &of_file);
            for structure in caps.make_mut().iter_mut() {
                structure.set(FIELD, &tag);
            }
            info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
        }
        gst::PadProbeReturn::Ok
    });
}

fn caps_of(info: &gst::PadProbeInfo<'_>) -> Option<gst::Caps> {
    match info.event()?.view() {
        gst::EventView::Caps(caps) => Some(caps.caps_owned()),
        _ => None,
    }
}

/// The stream's tags, and the file's for what it leaves open.
fn combined(of_stream: Option<&str>, of_file: &str) -> String {
    let parse = |text: &str| text.parse::<VideoColorimetry>().ok();
    let (Some(stream), Some(file)) = (of_stream.and_then(parse), parse(of_file)) else {
        return of_stream.unwrap_or(of_file).to_owned();
    };
    VideoColorimetry::new(
        if stream.range() == VideoColorRange::Unknown {
            file.range()
        } else {
            stream.range()
        },
        if stream.matrix() == VideoColorMatrix::Unknown {
            file.matrix()
        } else {
            stream.matrix()
        },
        if stream.transfer() == VideoTransferFunction::Unknown {
            file.transfer()
        } else {
            stream.transfer()
        },
        if stream.primaries() == VideoColorPrimaries::Unknown {
            file.primaries()
        } else {
            stream.primaries()
        },
    )
    .to_string()
}

/// How the samples of pictures with these caps relate to RGB.
pub(super) fn colorimetry(caps: &gst::CapsRef, info: &VideoInfo) -> Colorimetry {
    // A VideoInfo drops tags that are not complete, and with them a range that stands alone.
    let tagged = caps
        .structure(0)
        .and_then(|s| s.get::<String>(FIELD).ok())
        .and_then(|text| text.parse::<VideoColorimetry>().ok())
        .unwrap_or_else(|| info.colorimetry());
    Colorimetry {
        matrix: match tagged.matrix() {
            VideoColorMatrix::Bt709 => Matrix::Bt709,
            VideoColorMatrix::Bt2020 => Matrix::Bt2020,
            VideoColorMatrix::Unknown if info.height() > 576 => Matrix::Bt709,
            _ => Matrix::Bt601,
        },
        range: match tagged.range() {
            VideoColorRange::Range0_255 => Range::Full,
            _ => Range::Limited,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_tags_win_and_the_files_fill_in() {
        gst::init().unwrap();
        // Range, matrix, transfer, primaries.
        assert_eq!(combined(Some("1:3:5:1"), "bt709"), "1:3:5:1");
        assert_eq!(combined(Some("1:0:0:0"), "bt709"), "1:3:5:1");
        assert_eq!(combined(Some("2:0:0:0"), "1:3:5:1"), "bt709");
        assert_eq!(combined(None, "bt2020"), "bt2020");
        assert_eq!(combined(Some("bt601"), "nonsense"), "bt601");
    }

    #[test]
    fn a_range_that_stands_alone_counts() {
        gst::init().unwrap();
        let read = |height: i32, tag: Option<&str>| {
            let mut caps = gst::Caps::builder("video/x-raw")
                .field("format", "I420")
                .field("width", 640)
                .field("height", height);
            if let Some(tag) = tag {
                caps = caps.field(FIELD, tag);
            }
            let caps = caps.build();
            let color = colorimetry(&caps, &VideoInfo::from_caps(&caps).unwrap());
            (color.matrix, color.range)
        };
        assert_eq!(read(480, Some("1:0:0:0")), (Matrix::Bt601, Range::Full));
        assert_eq!(read(720, Some("1:0:0:0")), (Matrix::Bt709, Range::Full));
        assert_eq!(read(480, Some("bt709")), (Matrix::Bt709, Range::Limited));
        assert_eq!(read(480, Some("bt2020-10")), (Matrix::Bt2020, Range::Limited));
        assert_eq!(read(480, None), (Matrix::Bt601, Range::Limited));
        assert_eq!(read(1080, None), (Matrix::Bt709, Range::Limited));
    }
}
