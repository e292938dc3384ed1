//! What the user writes as an output, and the output that it names.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
#[cfg(feature = "gstreamer")]
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::encode::Codec;
#[cfg(feature = "gstreamer")]
use crate::encode::EncodeOptions;
use crate::output::access::RtspAccess;
#[cfg(feature = "gstreamer")]
use crate::output::camera::CameraOpener;
#[cfg(feature = "gstreamer")]
use crate::output::clips::ClipsOpener;
#[cfg(feature = "gstreamer")]
use crate::output::file::{Container, FileOpener};
use crate::output::images::ImagesOpener;
use crate::output::null::NullOpener;
#[cfg(feature = "gstreamer")]
use crate::output::push::PushOpener;
use crate::output::push_address::PushAddress;
#[cfg(feature = "gstreamer")]
use crate::output::record::RecordOpener;
#[cfg(feature = "gstreamer")]
use crate::output::rtsp::RtspOpener;
use crate::output::{ClipOptions, OutputOpener, RecordOptions};
use vision::error::{Error, Result};

/// Where the video goes if nothing is said.
pub const DEFAULT_OUTPUT: &str = "rtsp://127.0.0.1:8554/segd";

/// The forms that an output can have, for messages.
const FORMS: &str = "rtsp(s)://ADDRESS:PORT/PATH, rtmp(s)://, srt:// or rtsp(s)+push:// SERVER, FILE.mp4, FILE.mkv, record:FOLDER, clips:FOLDER, v4l2:/dev/videoN, FOLDER/ (for PNG images), scenes:FILE.jsonl or null://";

/// How the video is encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamOptions {
    /// What the video is encoded as.
    pub codec: Codec,
    /// Mean bit rate in kbit/s; chosen from size and frame rate if absent (0.15 bit a pixel).
    pub bitrate_kbps: Option<u32>,
    /// Seconds between keyframes at most. A client that joins gets one at once.
    pub keyframe_interval_s: f64,
    /// The encoder's GStreamer element; the best that works if absent.
    pub encoder: Option<String>,
    /// Most that is encoded for RTSP clients, kbit/s.
    pub max_bitrate_kbps: u32,
    /// Who may watch RTSP addresses.
    #[serde(skip)]
    pub access: RtspAccess,
    /// How recordings without end are cut and kept.
    #[serde(skip)]
    pub record: RecordOptions,
    /// What the clips of events show, and which are kept.
    #[serde(skip)]
    pub clips: ClipOptions,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            codec: Codec::default(),
            bitrate_kbps: None,
            keyframe_interval_s: 2.0,
            encoder: None,
            max_bitrate_kbps: 20_000,
            access: RtspAccess::default(),
            record: RecordOptions::default(),
            clips: ClipOptions::default(),
        }
    }
}

impl StreamOptions {
    /// What an encoder is asked for on behalf of clients.
    #[cfg(feature = "gstreamer")]
    pub fn encoding(&self) -> EncodeOptions {
        EncodeOptions {
            codec: self.codec,
            bitrate_kbps: self.bitrate_kbps,
            max_bitrate_kbps: self.max_bitrate_kbps,
            keyframe_interval_s: self.keyframe_interval_s,
            encoder: self.encoder.clone(),
        }
    }

    /// As [`encoding`](Self::encoding), without the limit that is for clients.
    #[cfg(feature = "gstreamer")]
    fn for_files(&self) -> EncodeOptions {
        EncodeOptions {
            max_bitrate_kbps: u32::MAX,
            ..self.encoding()
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Usage, with the key, the value and what it may be.
    pub fn validate(&self) -> Result<()> {
        if let Some(kbps) = self.bitrate_kbps
            && !(50..=200_000).contains(&kbps)
        {
            return Err(Error::usage(format!(
                "bitrate_kbps = {kbps}: expected 50 to 200000 (kbit/s)"
            )));
        }
        let interval = self.keyframe_interval_s;
        if !(0.1..=60.0).contains(&interval) {
            return Err(Error::usage(format!(
                "keyframe_interval_s = {interval}: expected 0.1 to 60 (seconds)"
            )));
        }
        Ok(())
    }
}

/// Where an RTSP server listens, and the path of its video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtspAddress {
    /// An IP address (v6 without brackets) or a host name.
    pub host: String,
    /// The TCP port; 0 takes any free one.
    pub port: u16,
    /// The path, with its leading slash.
    pub path: String,
    /// `rtsps://`: over TLS.
    pub tls: bool,
}

impl RtspAddress {
    /// Whether only this machine can reach the address.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for RtspAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rtsps" } else { "rtsp" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.path)
        } else {
            write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
        }
    }
}

/// An output that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// An RTSP server.
    Rtsp(RtspAddress),
    /// A fragmented MP4 file.
    Mp4(PathBuf),
    /// A Matroska file.
    Mkv(PathBuf),
    /// A folder of recordings without end.
    Record(PathBuf),
    /// A folder of events' clips.
    Clips(PathBuf),
    /// A server that video is sent to.
    Push(PushAddress),
    /// A virtual camera.
    Camera(PathBuf),
    /// A folder of PNG images.
    Images(PathBuf),
    /// What is seen, as lines of JSON, with each segment's mask or without.
    Scenes {
        /// The file.
        path: PathBuf,
        /// Whether each segment has its mask, as COCO's RLE.
        rle: bool,
    },
    /// Nowhere.
    Null,
}

impl OutputSpec {
    /// The output's opener; none for scenes, which are no pictures: whoever has the pipeline opens them.
    ///
    /// # Errors
    /// Usage, if an option has a wrong value or this build lacks what the output needs.
    pub fn opener(&self, options: &StreamOptions) -> Result<Option<Box<dyn OutputOpener>>> {
        options.validate()?;
        Ok(Some(match self {
            #[cfg(feature = "gstreamer")]
            Self::Rtsp(address) => {
                options.access.allows(address)?;
                if let Some(kbps) = options
                    .bitrate_kbps
                    .filter(|kbps| *kbps > options.max_bitrate_kbps)
                {
                    return Err(Error::usage(format!(
                        "bitrate_kbps = {kbps}: more than access.max_bitrate_kbps = {}",
                        options.max_bitrate_kbps
                    )));
                }
                Box::new(RtspOpener::new(address.clone(), options))
            }
            #[cfg(feature = "gstreamer")]
            Self::Mp4(path) => Box::new(FileOpener::new(path.clone(), Container::Mp4, options.for_files())),
            #[cfg(feature = "gstreamer")]
            Self::Mkv(path) => Box::new(FileOpener::new(path.clone(), Container::Mkv, options.for_files())),
            #[cfg(feature = "gstreamer")]
            Self::Record(folder) => Box::new(RecordOpener::new(
                folder.clone(),
                options.encoding(),
                options.record,
            )),
            // Nobody asks at this desk: the daemon opens clips at its camera's.
            #[cfg(feature = "gstreamer")]
            Self::Clips(folder) => Box::new(ClipsOpener::new(folder.clone(), options, Arc::default())),
            #[cfg(feature = "gstreamer")]
            Self::Push(address) => Box::new(PushOpener::new(address.clone(), options.encoding())?),
            #[cfg(feature = "gstreamer")]
            Self::Camera(device) => Box::new(CameraOpener::new(device.clone())),
            #[cfg(not(feature = "gstreamer"))]
            Self::Rtsp(_)
            | Self::Mp4(_)
            | Self::Mkv(_)
            | Self::Record(_)
            | Self::Clips(_)
            | Self::Push(_)
            | Self::Camera(_) => {
                return Err(Error::usage(format!(
                    "output {self}: this build of segd has no GStreamer, which RTSP and video files need"
                ))
                .hint("build with the feature `gstreamer`, or use FOLDER/ or null://"));
            }
            Self::Images(path) => Box::new(ImagesOpener::new(path.clone())),
            Self::Scenes { .. } => return Ok(None),
            Self::Null => Box::new(NullOpener),
        }))
    }
}

impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rtsp(address) => address.fmt(f),
            Self::Mp4(path) | Self::Mkv(path) | Self::Images(path) => path.display().fmt(f),
            Self::Push(address) => address.fmt(f),
            Self::Camera(path) => write!(f, "v4l2:{}", path.display()),
            Self::Record(path) => write!(f, "record:{}", path.display()),
            Self::Clips(path) => write!(f, "clips:{}", path.display()),
            Self::Scenes { path, rle } => {
                let masks = if *rle { "?masks=rle" } else { "" };
                write!(f, "scenes:{}{masks}", path.display())
            }
            Self::Null => f.write_str("null://"),
        }
    }
}

/// Understands an output: `rtsp://ADDRESS:PORT/PATH`, a server that is [sent video](PushAddress), `FILE.mp4`, `FILE.mkv`, `record:FOLDER`, `clips:FOLDER`, `FOLDER/`
/// (or a folder that exists), `scenes:FILE.jsonl[?masks=rle]`, `null://`.
///
/// # Errors
/// Usage, with what was expected.
pub fn parse_output(text: &str) -> Result<OutputSpec> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::usage("the output is empty").hint(format!("expected {FORMS}")));
    }
    if let Some(address) = PushAddress::parse(text) {
        return address.map(OutputSpec::Push);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return match scheme {
            "rtsp" | "rtsps" => parse_rtsp(text, rest, scheme == "rtsps").map(OutputSpec::Rtsp),
            "null" if rest.is_empty() => Ok(OutputSpec::Null),
            _ => Err(Error::usage(format!("output {text:?} is not known")).hint(format!("expected {FORMS}"))),
        };
    }
    if let Some(device) = text.strip_prefix("v4l2:") {
        if !device.starts_with("/dev/") {
            return Err(Error::usage(format!("output {text:?}: there is no device"))
                .hint("expected v4l2:/dev/videoN"));
        }
        return Ok(OutputSpec::Camera(device.into()));
    }
    if let Some((kind @ ("record" | "clips"), folder)) = text.split_once(':') {
        if folder.is_empty() {
            return Err(
                Error::usage(format!("output {text:?}: there is no folder")).hint(format!(
                    "expected {kind}:FOLDER, such as {kind}:/var/lib/segd/{kind}"
                )),
            );
        }
        let folder = PathBuf::from(folder);
        return Ok(match kind {
            "record" => OutputSpec::Record(folder),
            _ => OutputSpec::Clips(folder),
        });
    }
    if let Some(rest) = text.strip_prefix("scenes:") {
        let (path, rle) = match rest.split_once('?') {
            None => (rest, false),
            Some((path, "masks=rle")) => (path, true),
            Some((_, other)) => {
                return Err(Error::usage(format!(
                    "output {text:?}: found {other:?}, expected masks=rle, or nothing"
                )));
            }
        };
        if path.is_empty() || path.ends_with('/') {
            return Err(
                Error::usage(format!("output {text:?}: there is no file")).hint("expected scenes:FILE.jsonl")
            );
        }
        return Ok(OutputSpec::Scenes {
            path: path.into(),
            rle,
        });
    }
    let path = PathBuf::from(text);
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let is_video = matches!(extension.as_deref(), Some("mp4" | "mkv"));
    if text.ends_with('/') || !is_video && path.is_dir() {
        return Ok(OutputSpec::Images(path));
    }
    if path.is_dir() {
        return Err(Error::usage(format!("output {text:?} is a folder")).hint(format!(
            "name a file in it, or write {text}/ for PNG images in it"
        )));
    }
    match extension.as_deref() {
        Some("mp4") => Ok(OutputSpec::Mp4(path)),
        Some("mkv") => Ok(OutputSpec::Mkv(path)),
        Some(other) => Err(Error::usage(format!(
            "output {text:?}: files that end in .{other} can't be written"
        ))
        .hint(format!("expected {FORMS}"))),
        None => Err(Error::usage(format!(
            "output {text:?}: there is no such folder, and no file ending says what to write"
        ))
        .hint(format!(
            "expected {FORMS}; a new folder is written with a slash at its end"
        ))),
    }
}

fn parse_rtsp(text: &str, rest: &str, tls: bool) -> Result<RtspAddress> {
    let wrong = |why: &str| {
        Error::usage(format!("output {text:?}: {why}")).hint(format!(
            "expected rtsp://ADDRESS:PORT/PATH, such as {DEFAULT_OUTPUT}"
        ))
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => return Err(wrong("there is no path")),
    };
    if authority.contains('@') {
        return Err(wrong("a user name or password has no place in the address"));
    }
    let (host, port) = if let Some(v6) = authority.strip_prefix('[') {
        let Some((host, port)) = v6.split_once(']') else {
            return Err(wrong("the bracket of the IPv6 address isn't closed"));
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(wrong("an IPv6 address belongs inside the brackets"));
        }
        (host, port.strip_prefix(':'))
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let Some(port) = port else {
        return Err(wrong("there is no port"));
    };
    let Ok(port) = port.parse::<u16>() else {
        return Err(wrong(&format!(
            "the port {port:?} is not a number from 0 to 65535"
        )));
    };
    if host.is_empty() {
        return Err(wrong("there is no address"));
    }
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if !host.chars().all(is_host) {
        return Err(wrong(&format!("{host:?} is not an address")));
    }
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    if path.len() < 2 || path.ends_with('/') || path.contains("//") || !path.chars().all(is_path) {
        return Err(wrong(&format!(
            "the path {path:?} must be names of letters, digits and -_.~ with slashes between them"
        )));
    }
    Ok(RtspAddress {
        host: host.to_owned(),
        port,
        path: path.to_owned(),
        tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtsp(text: &str) -> RtspAddress {
        match parse_output(text) {
            Ok(OutputSpec::Rtsp(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refused(text: &str, expected: &str) {
        let e = parse_output(text).unwrap_err();
        assert!(e.to_string().contains(expected), "{text}: {e}");
        assert_eq!(e.exit_code(), 2, "{text}");
    }

    #[test]
    fn each_form_is_understood() {
        let address = rtsp(DEFAULT_OUTPUT);
        assert_eq!(
            (address.host.as_str(), address.port, address.path.as_str()),
            ("127.0.0.1", 8554, "/segd")
        );
        assert_eq!(address.to_string(), DEFAULT_OUTPUT);
        assert_eq!(
            parse_output("a/b.mp4").unwrap(),
            OutputSpec::Mp4("a/b.mp4".into())
        );
        assert_eq!(parse_output("b.MKV").unwrap(), OutputSpec::Mkv("b.MKV".into()));
        assert_eq!(
            parse_output("new/folder/").unwrap(),
            OutputSpec::Images("new/folder/".into())
        );
        assert_eq!(parse_output("null://").unwrap(), OutputSpec::Null);
        for (text, expected) in [
            ("record:/var/lib/segd", OutputSpec::Record("/var/lib/segd".into())),
            ("clips:a/b", OutputSpec::Clips("a/b".into())),
            ("v4l2:/dev/video9", OutputSpec::Camera("/dev/video9".into())),
        ] {
            assert_eq!(parse_output(text).unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
        for (text, rle) in [("scenes:a/b.jsonl", false), ("scenes:a/b.jsonl?masks=rle", true)] {
            let path = "a/b.jsonl".into();
            assert_eq!(parse_output(text).unwrap(), OutputSpec::Scenes { path, rle });
            assert_eq!(parse_output(text).unwrap().to_string(), text);
        }
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().to_str().unwrap();
        assert_eq!(parse_output(text).unwrap(), OutputSpec::Images(text.into()));
        // Who names a video did not mean pictures.
        let text = &format!("{text}/clip.mp4");
        std::fs::create_dir(text).unwrap();
        refused(text, "is a folder");
        assert!(matches!(
            parse_output(&format!("{text}/")),
            Ok(OutputSpec::Images(_))
        ));
    }

    #[test]
    fn ipv6_and_host_names() {
        let v6 = rtsp("rtsp://[::1]:554/a/b");
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 554));
        assert_eq!(v6.to_string(), "rtsp://[::1]:554/a/b");
        assert!(v6.is_loopback());
        assert!(rtsp("rtsp://localhost:1/a").is_loopback());
        assert!(!rtsp("rtsp://0.0.0.0:1/a").is_loopback());
        assert!(!rtsp("rtsp://edge-3.local:1/a").is_loopback());
    }

    #[test]
    fn wrong_forms_say_what_was_expected() {
        refused("", "rtsp(s)://ADDRESS:PORT/PATH");
        refused("http://127.0.0.1:80/x", "FILE.mp4");
        refused("null://x", "null://");
        refused("record:", "no folder");
        refused("v4l2:video9", "v4l2:/dev/videoN");
        refused("clips:", "clips:FOLDER");
        refused("scenes:", "no file");
        refused("scenes:a.jsonl?masks=png", "masks=rle");
        refused("out.avi", ".avi");
        refused("out", "slash at its end");
        refused("rtsp://127.0.0.1:8554", "no path");
        refused("rtsp://127.0.0.1:8554/", "the path");
        refused("rtsp://127.0.0.1:8554/a b", "the path");
        refused("rtsp://127.0.0.1:8554/a?x=1", "the path");
        refused("rtsp://127.0.0.1/a", "no port");
        refused("rtsp://127.0.0.1:70000/a", "70000");
        refused("rtsp://:8554/a", "no address");
        refused("rtsp://me:secret@127.0.0.1:8554/a", "password");
        refused("rtsp://[::1:8554/a", "bracket");
        refused("rtsp://[nonsense]:8554/a", "IPv6");
    }

    #[test]
    fn options_are_checked() {
        let wrong = StreamOptions {
            bitrate_kbps: Some(3),
            ..StreamOptions::default()
        };
        let e = OutputSpec::Null.opener(&wrong).err().unwrap();
        assert!(e.to_string().contains("bitrate_kbps = 3"), "{e}");
        let wrong = StreamOptions {
            keyframe_interval_s: f64::NAN,
            ..StreamOptions::default()
        };
        assert!(wrong.validate().is_err());
        let parsed: StreamOptions = toml::from_str("bitrate_kbps = 900").unwrap();
        assert_eq!(parsed.bitrate_kbps, Some(900));
        assert_eq!(parsed.keyframe_interval_s, 2.0);
        assert!(toml::from_str::<StreamOptions>("bitrate = 900").is_err());
    }
}
