//! The sections of a configuration: raw keys, each of which may be absent. The file, the environment and the command line
//! all fill these.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::capture::{CameraFormat, ControlValue};
use crate::output::Codec;
use vision::overlay::Visualize;

/// A number, or `"auto"`: one that suits the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrName")]
pub enum NumberOrAuto {
    /// What suits the machine.
    Auto,
    /// This.
    Number(usize),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or \"auto\"")]
enum NumberOrName {
    Number(usize),
    Name(String),
}

impl TryFrom<NumberOrName> for NumberOrAuto {
    type Error = String;

    fn try_from(value: NumberOrName) -> Result<Self, String> {
        match value {
            NumberOrName::Number(number) => Ok(Self::Number(number)),
            NumberOrName::Name(name) => name.parse(),
        }
    }
}

impl FromStr for NumberOrAuto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Number)
                .map_err(|_| format!("found {text:?}, expected a number or \"auto\"")),
        }
    }
}

/// One source, or several recordings that are played one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Inputs(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a source, or a list of recordings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Inputs {
    fn from(value: OneOrMany) -> Self {
        match value {
            OneOrMany::One(input) => Self(vec![input]),
            OneOrMany::Many(inputs) => Self(inputs),
        }
    }
}

/// A section whose keys are all optional, and can be laid over those of another. Keys that are `alternatives` stand for
/// each other: a layer that sets one of them takes none from the layers below.
macro_rules! section {
    (
        $(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }
        $(alternatives { $($alternative:ident),* })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// These keys, and for those that aren't set the ones of `defaults`.
            #[must_use]
            pub fn with_defaults(&self, defaults: &Self) -> Self {
                Self {
                    $($field: self.$field.clone().or_else(|| defaults.$field.clone()),)*
                }
            }

            /// These keys, and for those that aren't set the ones of the layer below.
            #[must_use]
            pub fn over(&self, below: &Self) -> Self {
                #[allow(unused_mut, reason = "not every section has alternatives")]
                let mut merged = self.with_defaults(below);
                $(
                    if $(self.$alternative.is_some())||* {
                        $(merged.$alternative.clone_from(&self.$alternative);)*
                    }
                )?
                merged
            }
        }
    };
}

section! {
    /// `[capture]`: where frames come from.
    CaptureSection {
        /// Camera: a device (`/dev/video0`, `/dev/v4l/by-id/...`) or `usb:VENDOR:PRODUCT[:SERIAL]`.
        camera: String,
        /// File, folder, `rtsp://`, `test://` or `gst:` line, in place of a camera; or a list of recordings.
        input: Inputs,
        /// Wanted width in pixels (cameras).
        width: u32,
        /// Wanted height in pixels (cameras).
        height: u32,
        /// Wanted frames per second (cameras).
        fps: f64,
        /// Start files again at their end.
        #[serde(rename = "loop")]
        looped: bool,
        /// A camera or network stream that gives no frame for this many milliseconds is opened again.
        stall_timeout_ms: u64,
        /// Only modes of this format (cameras): `yu12`, `nv12`, `yuyv` or `mjpg`.
        pixel_format: CameraFormat,
        /// Controls of the camera, by the names that `segd probe` lists.
        controls: BTreeMap<String, ControlValue>,
        /// SHA-256 fingerprint of the certificate that an `rtsps://` source has to show.
        tls_fingerprint: String,
        /// PEM file of the certificates that are trusted to sign an `rtsps://` source's.
        tls_ca: PathBuf,
    }
    alternatives { camera, input }
}

section! {
    /// `[model]`: what segments.
    ModelSection {
        /// Name or folder.
        name: String,
        /// `auto`, `tract` or `ort`.
        backend: String,
        /// `auto`, `cpu`, `cuda` or `tensorrt`.
        device: String,
        /// `fp32`, `fp16` or `int8`.
        precision: String,
        /// Whether connected regions of a class are objects.
        regions: bool,
        /// Longer side of the network's input in pixels, or `"auto"`.
        size: NumberOrAuto,
        /// Threads of one inference on the CPU, or `"auto"`.
        threads: NumberOrAuto,
        /// At most this many inferences a second.
        max_inferences_per_second: f64,
    }
}

section! {
    /// `[masks]`: how often masks are made, and what happens between.
    MasksSection {
        /// Cores that segd may use in all.
        cpu_budget: f64,
        /// Age in milliseconds that masks should not exceed, and from which they are not shown.
        max_mask_age_ms: f64,
        /// Segment every n-th frame.
        every: u32,
        /// How many milliseconds a frame may wait for its own mask.
        wait_ms: f64,
        /// Move masks with the picture.
        propagate: bool,
        /// Weight of the mask before, 0 to 0.95.
        smooth: f64,
    }
    alternatives { cpu_budget, max_mask_age_ms, every }
}

section! {
    /// `[overlay]`: how masks are drawn.
    OverlaySection {
        /// `overlay`, `mask`, `labels`, `contour`, `side-by-side`, `instances` or `panoptic`.
        visualize: Visualize,
        /// Opacity of the colours, 0 to 1.
        alpha: f32,
        /// Classes to draw; all but the background if absent.
        classes: Vec<String>,
        /// Least score of the objects that are drawn, 0 to 1.
        score: f32,
        /// Draw the names of the classes in the picture.
        legend: bool,
        /// Colours of classes, `#rrggbb`, in place of the model's.
        colors: BTreeMap<String, String>,
        /// What stands in place of all but the classes: `blur`, a colour (`#rrggbb`), or a picture's file.
        background: String,
    }
}

section! {
    /// `[privacy]`: what no outgoing picture shows.
    PrivacySection {
        /// Classes of which only coarse colours are left, running into each other.
        blur: Vec<String>,
        /// Classes that become coarse squares of one colour.
        pixelate: Vec<String>,
        /// Classes that become grey.
        fill: Vec<String>,
        /// Hidden around each class, as a share of the picture's height.
        margin: f32,
        /// With a mask older than this, in milliseconds, the whole picture is hidden.
        max_mask_age_ms: u64,
    }
}

section! {
    /// `[stream]`: where annotated video goes.
    StreamSection {
        /// `rtsp://` and `rtsps://` addresses, `.mp4`/`.mkv` files, folders.
        outputs: Vec<String>,
        /// `h264` or `h265`.
        codec: Codec,
        /// Video bitrate in kbit/s.
        bitrate_kbps: u32,
        /// Seconds between keyframes at most.
        keyframe_interval_s: f64,
        /// Encoder element; chosen if absent.
        encoder: String,
    }
}

section! {
    /// `[record]`: recordings without end, `record:FOLDER`.
    RecordSection {
        /// A file ends with the first keyframe after so many seconds.
        segment_s: f64,
        /// Older files go.
        keep_hours: f64,
        /// The oldest files go while all of them have more gigabytes.
        keep_gb: f64,
        /// The oldest files go while the disk has fewer gigabytes free.
        min_free_gb: f64,
    }
}

section! {
    /// `[clips]`: clips of events, `clips:FOLDER`.
    ClipsSection {
        /// Seconds before the event.
        before_s: f64,
        /// Seconds after the event's end.
        after_s: f64,
        /// A clip ends so many seconds after its event's beginning.
        longest_s: f64,
        /// Older files go.
        keep_hours: f64,
        /// The oldest files go while all of them have more gigabytes.
        keep_gb: f64,
        /// The oldest files go while the disk has fewer gigabytes free.
        min_free_gb: f64,
    }
}

section! {
    /// `[access]`: who may watch.
    AccessSection {
        /// `NAME:REALM:HA1` as `segd hash-password` prints it.
        users: Vec<String>,
        /// Names of users who may change things in the browser.
        admins: Vec<String>,
        /// Serve addresses other than loopback without users.
        insecure: bool,
        /// Certificate chain (PEM) for `rtsps://`.
        certificate: PathBuf,
        /// The certificate's private key (PEM).
        key: PathBuf,
        /// Clients that may watch at a time, on each address.
        max_clients: u32,
        /// No stream is encoded with more than this many kbit/s: what one client can draw at most.
        max_bitrate_kbps: u32,
    }
}

section! {
    /// `[health]`: the HTTP server, and what counts as unwell.
    HealthSection {
        /// `ADDRESS:PORT`; an empty text for none.
        listen: String,
        /// UDP port of WebRTC; 0 for none.
        webrtc_port: u16,
        /// IP address that browsers send WebRTC to.
        webrtc_address: String,
        /// A mask older than this many milliseconds counts as frozen.
        max_mask_age_ms: u64,
    }
}

section! {
    /// `[events]`: where it is told what happens in zones and at lines.
    EventsSection {
        /// A file of JSON lines; `-` for standard output.
        file: String,
        /// The file is begun anew before it gets larger, in megabytes.
        file_max_mb: f64,
        /// Earlier files that are kept beside it.
        file_keep: u32,
        /// Tell of classes that `[privacy]` hides.
        hidden: bool,
        /// An SQLite file that keeps events to be searched.
        history: PathBuf,
        /// Events that are older are forgotten, in days.
        history_days: f64,
        /// The oldest events are forgotten before the file gets larger, in megabytes.
        history_max_mb: f64,
        /// A folder for the outgoing picture when something begins.
        snapshots: PathBuf,
        /// Pictures that are older are removed, in days.
        snapshots_days: f64,
        /// The oldest pictures are removed before all of them take more, in megabytes.
        snapshots_max_mb: f64,
        /// `http://` or `https://` address that each event is sent to.
        webhook: String,
        /// What the signature of each event is made with.
        webhook_secret: String,
        /// PEM file of the certificates that may sign the program's.
        webhook_ca: PathBuf,
    }
}

section! {
    /// `[mqtt]`: a broker that is told of events and states.
    MqttSection {
        /// `mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` over TLS.
        url: String,
        /// Who segd is to the broker.
        user: String,
        /// The user's password.
        password: String,
        /// PEM file of the certificates that may sign the broker's.
        ca: PathBuf,
        /// What all topics begin with.
        topic: String,
        /// What Home Assistant's discovery topics begin with; an empty text for no discovery.
        discovery: String,
        /// Publish the outgoing picture when a presence begins.
        snapshots: bool,
    }
}

section! {
    /// What only the command line can say: how one run goes.
    RunSection {
        /// End after this many frames.
        frames: u64,
        /// Each frame of a file exactly once, as fast as possible.
        no_pace: bool,
        /// Every frame waits for its own mask.
        lockstep: bool,
        /// End if the source is not there at the start.
        no_wait: bool,
        /// ONNX Runtime's library.
        ort_library: PathBuf,
        /// Trust the backend without testing it.
        no_selftest: bool,
    }
}

impl MasksSection {
    /// Whether it says how often masks are made.
    pub fn says_how_often(&self) -> bool {
        self.cpu_budget.is_some() || self.max_mask_age_ms.is_some() || self.every.is_some()
    }
}

impl PrivacySection {
    /// The classes of each way of hiding them, the way that shows least last.
    pub fn hidden(&self) -> impl Iterator<Item = (vision::redact::How, &str)> {
        use vision::redact::How;
        let ways = [
            (&self.blur, How::Blur),
            (&self.pixelate, How::Pixelate),
            (&self.fill, How::Fill),
        ];
        ways.into_iter().flat_map(|(names, how)| {
            let names = names.iter().flatten();
            names.map(move |name| (how, name.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_threads_are_numbers_or_what_suits_the_machine() {
        let side = |text: &str| toml::from_str::<ModelSection>(text).map(|model| model.size);
        assert_eq!(side("size = 384").unwrap(), Some(NumberOrAuto::Number(384)));
        assert_eq!(side("size = \"auto\"").unwrap(), Some(NumberOrAuto::Auto));
        let threads = |text: &str| toml::from_str::<ModelSection>(text).unwrap().threads;
        assert_eq!(threads("threads = 2"), Some(NumberOrAuto::Number(2)));
        assert_eq!(threads("threads = \"auto\""), Some(NumberOrAuto::Auto));
        assert_eq!("512".parse(), Ok(NumberOrAuto::Number(512)));
        for wrong in ["size = \"large\"", "size = -1", "size = true"] {
            assert!(side(wrong).is_err(), "{wrong}");
        }
        let said = side("size = \"large\"").unwrap_err().to_string();
        assert!(
            said.contains("found \"large\", expected a number or \"auto\""),
            "{said}"
        );
    }

    #[test]
    fn a_layer_that_sets_one_alternative_takes_none_from_below() {
        let below = MasksSection {
            every: Some(4),
            wait_ms: Some(10.0),
            ..MasksSection::default()
        };
        let above = MasksSection {
            cpu_budget: Some(0.5),
            ..MasksSection::default()
        };
        let merged = above.over(&below);
        assert_eq!((merged.every, merged.cpu_budget), (None, Some(0.5)));
        assert_eq!(merged.wait_ms, Some(10.0));
        assert_eq!(MasksSection::default().over(&below), below);
    }
}
