//! A hardware decoder that is installed and does not work: what is read all the same.
#![cfg(feature = "gstreamer")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use segd::capture::{Capture, CaptureOptions, Pace, parse_uri};
use segd::clock::RealClock;
use vision::pool::FramePool;

/// Buffers that reached the broken decoder.
static TRIED: AtomicU32 = AtomicU32::new(0);

mod broken {
    use std::sync::LazyLock;

    use super::*;

    #[derive(Default)]
    pub struct Imp;

    #[glib::object_subclass]
    impl ObjectSubclass for Imp {
        const NAME: &'static str = "SegdBrokenDecoder";
        type Type = Broken;
        type ParentType = gst::Element;
    }

    impl ObjectImpl for Imp {
        fn constructed(&self) {
            self.parent_constructed();
            let object = self.obj();
            let sink = object.pad_template("sink").unwrap();
            let sink = gst::Pad::builder_from_template(&sink)
                .chain_function(|_, parent, _| {
                    TRIED.fetch_add(1, Relaxed);
                    if let Some(element) = parent.and_then(|p| p.downcast_ref::<gst::Element>()) {
                        gst::element_error!(
                            element,
                            gst::StreamError::Decode,
                            ["the engine does not answer"]
                        );
                    }
                    Err(gst::FlowError::Error)
                })
                .event_function(|pad, parent, event| match event.view() {
                    gst::EventView::Caps(_) => true,
                    _ => gst::Pad::event_default(pad, parent, event),
                })
                .build();
            let source = object.pad_template("src").unwrap();
            let source = gst::Pad::from_template(&source);
            object.add_pad(&sink).unwrap();
            object.add_pad(&source).unwrap();
        }
    }

    impl GstObjectImpl for Imp {}

    impl ElementImpl for Imp {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("broken", "Codec/Decoder/Video/Hardware", "fails", "segd")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = |name| gst::Caps::builder(name).build();
                let always = gst::PadPresence::Always;
                vec![
                    gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &caps("video/x-h264"))
                        .unwrap(),
                    gst::PadTemplate::new("src", gst::PadDirection::Src, always, &caps("video/x-raw"))
                        .unwrap(),
                ]
            });
            &TEMPLATES
        }
    }

    glib::wrapper! {
        pub struct Broken(ObjectSubclass<Imp>) @extends gst::Element, gst::Object;
    }
}

#[test]
fn a_hardware_decoder_that_fails_gives_way_to_the_cpu() {
    gst::init().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mkv");
    let line = format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! x264enc speed-preset=ultrafast ! matroskamux ! filesink location=\"{}\"",
        path.display()
    );
    let maker = gst::parse::launch(&line).unwrap();
    maker.set_state(gst::State::Playing).unwrap();
    let end = maker.bus().unwrap().timed_pop_filtered(
        gst::ClockTime::from_seconds(30),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    assert!(matches!(
        end.as_deref().map(gst::MessageRef::view),
        Some(gst::MessageView::Eos(_))
    ));
    maker.set_state(gst::State::Null).unwrap();

    gst::Element::register(
        None,
        "segdbrokendec",
        gst::Rank::from(10_000),
        broken::Broken::static_type(),
    )
    .unwrap();
    let options = CaptureOptions {
        pace: Pace::AsFastAsPossible,
        ..CaptureOptions::default()
    };
    let opener = parse_uri(path.to_str().unwrap())
        .unwrap()
        .opener(&options, RealClock::shared())
        .unwrap();
    let mut source = opener.open().unwrap();
    assert!(TRIED.load(Relaxed) > 0, "the hardware decoder was tried first");
    let text = source.describe();
    assert!(text.contains("decoded by ") && !text.contains("broken"), "{text}");
    let pool = FramePool::new(2, source.format().packed_bytes());
    let mut frames = 0;
    loop {
        match source.next_frame(&pool, Duration::from_secs(10)).unwrap() {
            Capture::Frame(_) => frames += 1,
            Capture::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(frames, 20);
}
