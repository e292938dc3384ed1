//! Video to a server: RTMP, SRT or RTSP.
//!
//! The output reads the encoder that others share. It is opened on a thread of its own, as that waits for the server, and
//! opened again, with the pauses that all outputs have, when the server is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::encode::elements::{self, internal};
use crate::encode::{AccessUnit, Codec, EncodeOptions, Encoder, ReaderKind, Timeline, period_ns};
use crate::output::push_address::{PushAddress, PushKind};
use crate::output::rtsp_push;
use crate::output::{Output, OutputOpener, UnitOutput, Video};
use vision::error::{Error, Result};

/// Units that wait for the network at most, behind the reader's own queue.
const QUEUED_UNITS: u64 = 8;

/// How long a server may take to answer.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a server may take nothing before it counts as gone.
const STALL: Duration = Duration::from_secs(10);

/// How long the last units may take.
const FINISH: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// Who watches there sees notices as well, and no late picture.
const READER: ReaderKind = ReaderKind {
    notices: true,
    low_delay: true,
};

/// Opens a push.
#[derive(Debug, Clone)]
pub struct PushOpener {
    address: PushAddress,
    encoding: EncodeOptions,
}

/// The elements that a kind of server needs, from the encoder's units on, and the packages that have them.
fn needed(kind: PushKind) -> &'static [(&'static str, &'static str)] {
    match kind {
        PushKind::Rtmp => &[
            ("flvmux", "gstreamer1.0-plugins-good"),
            ("rtmp2sink", "gstreamer1.0-plugins-bad"),
        ],
        // It has a client of its own.
        PushKind::Rtsp => &[],
        PushKind::Srt => &[
            ("mpegtsmux", "gstreamer1.0-plugins-bad"),
            ("srtsink", "gstreamer1.0-plugins-bad"),
        ],
    }
}

impl PushOpener {
    /// An opener for pushes to this server.
    ///
    /// # Errors
    /// Usage, if the server can't take what is encoded, or GStreamer lacks an element, naming its package.
    pub fn new(address: PushAddress, encoding: EncodeOptions) -> Result<Self> {
        if address.kind() == PushKind::Rtmp && encoding.codec != Codec::H264 {
            return Err(Error::usage(format!(
                "output {address}: RTMP carries H.264, and stream.codec is {}",
                encoding.codec.name()
            ))
            .hint("use --codec h264, or srt:// or rtsp+push://, which carry both"));
        }
        elements::init()?;
        for (element, package) in needed(address.kind()) {
            if gst::ElementFactory::find(element).is_none() {
                return Err(
                    Error::usage(format!("output {address}: GStreamer has no element {element}"))
                        .hint(format!("install the package {package}")),
                );
            }
        }
        Ok(Self { address, encoding })
    }
}

impl OutputOpener for PushOpener {
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn connects(&self) -> bool {
        true
    }

    fn open(&self, video: &Video) -> Result<Output> {
        if !video.live {
            return Err(
                Error::usage(format!("output {}: a server is sent live video", self.address))
                    .hint("leave --no-pace and --lockstep out, or write a file"),
            );
        }
        if self.address.kind() == PushKind::Rtsp {
            return rtsp_push::open(&self.address, &self.encoding, video, READER);
        }
        let encoder = video.encoder(&self.encoding)?;
        let push = Push::open(self, &encoder)?;
        let reader = encoder.read(&self.name(), READER)?;
        Ok(Output::Units(reader, Box::new(push)))
    }
}

struct Push {
    address: PushAddress,
    encoder: Arc<Encoder>,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    appsrc: gst_app::AppSrc,
    timeline: Timeline,
}

/// Sets a property that not every version has.
fn set_if_there(element: &gst::Element, name: &str, value: impl Into<gst::glib::Value>) {
    if element.find_property(name).is_some() {
        element.set_property_from_value(name, &value.into());
    }
}

impl Push {
    fn open(opener: &PushOpener, encoder: &Arc<Encoder>) -> Result<Self> {
        let address = &opener.address;
        let parameters = encoder.parameters();
        let appsrc = elements::make_unit_appsrc(&parameters)?;
        // Nothing waits for a first picture.
        appsrc.set_is_live(true);
        let parse = elements::make(parameters.codec.parser(), "gstreamer1.0-plugins-bad")?;
        // A server hands the parameter sets to viewers that join.
        parse.set_property("config-interval", -1i32);
        let mut chain = vec![appsrc.clone().upcast::<gst::Element>(), parse];
        for (element, package) in needed(address.kind()) {
            chain.push(elements::make(element, package)?);
        }
        let sink = &chain[chain.len() - 1];
        match address.kind() {
            PushKind::Rtmp => {
                sink.set_property("location", address.url());
                sink.set_property("async-connect", true);
                chain[2].set_property("streamable", true);
            }
            PushKind::Rtsp => {}
            PushKind::Srt => {
                sink.set_property("uri", address.url());
                sink.set_property("wait-for-connection", false);
                // There is one place that tries again.
                set_if_there(sink, "auto-reconnect", false);
                // As many packets as fit into a datagram.
                chain[2].set_property("alignment", 7i32);
            }
        }
        sink.set_property("sync", false);
        sink.set_property("async", false);
        let pipeline = gst::Pipeline::new();
        pipeline
            .add_many(&chain)
            .map_err(|e| internal("adding an element", e))?;
        gst::Element::link_many(&chain).map_err(|e| internal("linking the push's elements", e))?;
        let bus = pipeline
            .bus()
            .ok_or_else(|| Error::fatal("GStreamer: a pipeline without a bus"))?;
        let push = Self {
            address: address.clone(),
            encoder: encoder.clone(),
            pipeline,
            bus,
            appsrc,
            timeline: Timeline::new(period_ns(parameters.frame_rate)),
        };
        if push.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(push
                .failure(Duration::ZERO)
                .unwrap_or_else(|| push.gone("no server answers")));
        }
        push.wait_for_server(sink)?;
        Ok(push)
    }

    /// Waits until the server has answered.
    fn wait_for_server(&self, sink: &gst::Element) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < CONNECT {
            let answered = match self.address.kind() {
                // It has connected when it starts.
                PushKind::Srt | PushKind::Rtsp => true,
                PushKind::Rtmp => {
                    let stats = sink.property::<gst::Structure>("stats");
                    stats.get::<u64>("in-bytes-total").is_ok_and(|bytes| bytes > 0)
                }
            };
            if answered {
                return Ok(());
            }
            if let Some(why) = self.failure(Duration::from_millis(20)) {
                return Err(why);
            }
        }
        Err(self.gone("no server answers"))
    }

    fn gone(&self, why: &str) -> Error {
        let (host, port) = self.address.server();
        Error::transient(format!("{}: {why}", self.address))
            .hint(format!("check the server at {host}, port {port}"))
    }

    /// The error that the pipeline reports within this time, without secrets.
    fn failure(&self, within: Duration) -> Option<Error> {
        let within = gst::ClockTime::from_nseconds(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX));
        let ends = [gst::MessageType::Error, gst::MessageType::Eos];
        let message = self.bus.timed_pop_filtered(within, &ends)?;
        Some(match message.view() {
            gst::MessageView::Error(e) => {
                let text = self.address.mask(&elements::message_text(e));
                self.gone("the connection failed").caused_by(text)
            }
            _ => self.gone("the server has ended it"),
        })
    }

    /// Waits until there is room for another unit.
    fn wait_for_room(&self) -> Result<()> {
        let begun = Instant::now();
        let mut within = Duration::ZERO;
        loop {
            if let Some(why) = self.failure(within) {
                return Err(why);
            }
            if self.appsrc.current_level_buffers() < QUEUED_UNITS {
                return Ok(());
            }
            if begun.elapsed() > STALL {
                return Err(self.gone(&format!("it took nothing for {} s", STALL.as_secs())));
            }
            within = Duration::from_millis(20);
        }
    }
}

impl UnitOutput for Push {
    fn describe(&self) -> String {
        self.encoder.describe(&self.address)
    }

    fn push(&mut self, unit: &AccessUnit) -> Result<()> {
        self.wait_for_room()?;
        // Notices have a time of capture as well, so time goes on across them.
        let pts = gst::ClockTime::from_nseconds(self.timeline.at(unit.captured_at_ns));
        self.appsrc
            .push_buffer(elements::unit_buffer(unit, pts))
            .map_err(|e| {
                self.failure(Duration::from_millis(100))
                    .unwrap_or_else(|| self.gone("it takes no video").caused_by(e))
            })?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        // The server sees the end of the connection in any case.
        if self.appsrc.end_of_stream().is_ok() {
            let ends = [gst::MessageType::Error, gst::MessageType::Eos];
            let _ = self.bus.timed_pop_filtered(FINISH, &ends);
        }
        Ok(())
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
