//! What a source's name says: which kind of source, and its own settings. Nothing is opened; of a path no more is asked
//! than what kind of file it is.

use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use vision::error::{Error, Result};
use vision::frame::PixelFormat;
use vision::picture::is_picture;

use super::credentials::mask_credentials;
use super::meant::meant;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Nothing, or nothing that can be looked at.
    Missing,
    /// A folder.
    Folder,
    /// A device that is read as it runs: a camera, a terminal.
    Device,
    /// Anything else: a file, a pipe.
    File,
}

impl PathKind {
    /// What the file system says.
    pub fn of(path: &Path) -> Self {
        match std::fs::metadata(path).map(|meta| meta.file_type()) {
            Err(_) => Self::Missing,
            Ok(kind) if kind.is_dir() => Self::Folder,
            Ok(kind) if kind.is_char_device() => Self::Device,
            Ok(_) => Self::File,
        }
    }
}

/// A source, as named by the user.
#[derive(Clone, PartialEq)]
pub enum SourceSpec {
    /// A V4L2 device node.
    Camera(PathBuf),
    /// A camera on the board's CSI connector, by the number of its sensor.
    Csi(u32),
    /// A video file.
    File(PathBuf),
    /// An `rtsp://` address, which may hold a user name and password.
    Rtsp(String),
    /// A folder of images, or one image.
    Images(PathBuf),
    /// The test pattern.
    Test(TestPattern),
    /// A GStreamer launch line that ends in an appsink.
    Launch(String),
    /// Recordings, one after the other.
    Playlist(Vec<SourceSpec>),
}

/// Like [`SourceSpec::name`]: passwords are masked.
impl fmt::Debug for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Camera(_) => "Camera",
            Self::Csi(_) => "Csi",
            Self::File(_) => "File",
            Self::Rtsp(_) => "Rtsp",
            Self::Images(_) => "Images",
            Self::Test(_) => "Test",
            Self::Launch(_) => "Launch",
            Self::Playlist(_) => "Playlist",
        };
        write!(f, "{kind}({})", self.name())
    }
}

impl SourceSpec {
    /// The files and folders that it reads.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Camera(path) | Self::File(path) | Self::Images(path) => vec![path],
            Self::Playlist(items) => items.iter().flat_map(Self::files).collect(),
            Self::Csi(_) | Self::Rtsp(_) | Self::Test(_) | Self::Launch(_) => Vec::new(),
        }
    }
}

/// What can be named, for error messages.
const KINDS: &str = "a source is a camera (/dev/video0, csi://0), a video file, a folder of images, an rtsp:// address, \
                     test:// or gst: with a launch line";

/// Schemes that mean something here.
const SCHEMES: [&str; 9] = [
    "file", "rtsp", "rtsps", "rtspt", "rtspu", "test", "gst", "v4l2", "csi",
];

/// What a test pattern looks like. Fields that are `None` come from [`CaptureOptions`](crate::capture::CaptureOptions).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TestPattern {
    /// Pixels a row, 64 to 8192.
    pub width: Option<u32>,
    /// Rows, 48 to 8192.
    pub height: Option<u32>,
    /// Frames per second, above 0, at most 1000.
    pub fps: Option<f64>,
    /// Frames until the end; endless if `None`.
    pub frames: Option<u64>,
    /// I420, NV12 or YUYV.
    pub pixel: PixelFormat,
}

impl Default for TestPattern {
    fn default() -> Self {
        Self {
            width: None,
            height: None,
            fps: None,
            frames: None,
            pixel: PixelFormat::I420,
        }
    }
}

/// Reads a source's name.
///
/// * `/dev/video0`, another device, or the bare number `0`: a camera;
/// * `csi://0`: a camera on the board's CSI connector, by the number of its sensor;
/// * `file://` or a path: a video file, an image, or a folder of images;
/// * `rtsp://`, `rtsps://` (TLS), `rtspt://` (TCP), `rtspu://` (UDP): a network stream;
/// * `test://[?width=640&height=480&fps=30&frames=N&format=i420|nv12|yuyv]`: the test pattern;
/// * `gst:LAUNCH LINE`: a GStreamer pipeline that ends in an appsink.
///
/// # Errors
/// Usage, with what was probably meant. Whether a path exists is found out when it is opened.
pub fn parse_uri(text: &str) -> Result<SourceSpec> {
    parse(text, &PathKind::of)
}

/// As [`parse_uri`]; `kind` tells what a path leads to.
///
/// # Errors
/// As [`parse_uri`].
pub fn parse(text: &str, kind: &dyn Fn(&Path) -> PathKind) -> Result<SourceSpec> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::usage("no source is named").hint(KINDS));
    }
    if let Some(line) = text.strip_prefix("gst:").filter(|line| !line.starts_with("//")) {
        let line = line.trim();
        if line.is_empty() {
            return Err(Error::usage("gst: without a launch line")
                .hint("write for example \"gst:v4l2src ! videoconvert ! appsink\""));
        }
        return Ok(SourceSpec::Launch(line.to_owned()));
    }
    if text.bytes().all(|b| b.is_ascii_digit())
        && text.len() <= 3
        && kind(Path::new(text)) == PathKind::Missing
    {
        return Ok(SourceSpec::Camera(format!("/dev/video{text}").into()));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return parse_scheme(scheme, rest, text, kind);
    }
    if matches!(text, "test" | "test:") {
        return Err(Error::usage(format!("source {text:?}")).hint("did you mean \"test://\"?"));
    }
    Ok(path_source(PathBuf::from(text), kind))
}

fn parse_scheme(
    scheme: &str,
    rest: &str,
    text: &str,
    kind: &dyn Fn(&Path) -> PathKind,
) -> Result<SourceSpec> {
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            // An authority (file://host/path) is empty or localhost for local files (RFC 8089).
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(Error::usage(format!("source {text:?} names no absolute path"))
                    .hint("write file:///path, or the path alone"));
            }
            let decoded = percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
            let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&decoded);
            Ok(path_source(PathBuf::from(path), kind))
        }
        "v4l2" => Ok(SourceSpec::Camera(PathBuf::from(rest))),
        "csi" => match rest {
            "" => Ok(SourceSpec::Csi(0)),
            rest => rest.parse().map(SourceSpec::Csi).map_err(|_| {
                Error::usage(format!("source \"csi://{rest}\" names no sensor"))
                    .hint("write csi://0 for the first camera on the board's connectors")
            }),
        },
        scheme @ ("rtsp" | "rtsps" | "rtspt" | "rtspu") => Ok(SourceSpec::Rtsp(format!(
            "{scheme}://{}",
            network_address(scheme, rest)?
        ))),
        "test" => parse_test(rest),
        "gst" => Err(Error::usage("source \"gst://\"").hint("write gst: and then the launch line")),
        other @ ("http" | "https" | "srt" | "udp" | "rtmp") => Err(Error::usage(format!(
            "{other}:// is not read directly"
        ))
        .hint(format!(
            "write \"gst:uridecodebin uri={other}://... ! videoconvert ! appsink\""
        ))),
        other => Err(Error::usage(format!("unknown scheme {other:?}")).hint(
            meant(other, &SCHEMES).map_or_else(
                || KINDS.to_owned(),
                |scheme| {
                    if scheme == "gst" {
                        "did you mean \"gst:\"?".to_owned()
                    } else {
                        format!("did you mean \"{scheme}://\"?")
                    }
                },
            ),
        )),
    }
}

fn path_source(path: PathBuf, kind: &dyn Fn(&Path) -> PathKind) -> SourceSpec {
    match kind(&path) {
        PathKind::Device => SourceSpec::Camera(path),
        PathKind::Folder => SourceSpec::Images(path),
        // A camera that isn't plugged in. What programs put into memory lies below /dev as well.
        PathKind::Missing if path.starts_with("/dev") && !path.starts_with("/dev/shm") => {
            SourceSpec::Camera(path)
        }
        _ if is_picture(&path) => SourceSpec::Images(path),
        _ => SourceSpec::File(path),
    }
}

/// The characters of a user name or password that have another meaning in an address, and those that no address has.
const NOT_IN_USER_INFO: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Finds the host in `user:password@host:port/path`, where the password may be written as it is, and writes user and
/// password as an address has them.
///
/// # Errors
/// Usage, if there is no host, or if it can't be told where the password ends.
fn network_address(scheme: &str, rest: &str) -> Result<String> {
    let host_of = |text: &str| text.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    // As the standard reads it (RFC 3986, 3.2): the host ends before the first of / ? #.
    let authority = host_of(rest);
    let plain = match authority.rsplit_once('@') {
        Some((user, host)) => is_host(host).then_some((Some(user.len()), host)),
        None => is_host(&authority).then_some((None, authority.as_str())),
    };
    // As it was perhaps meant: the password holds one of these, and ends before the last @.
    let raw = rest.rfind('@').filter(|at| *at > authority.len()).filter(|at| {
        let (user, host) = (&rest[..*at], host_of(&rest[at + 1..]));
        user.contains(':') && is_host(&host) && (plain.is_none() || is_plainly_a_host(&host))
    });
    let end = match (plain, raw) {
        (None, None) => {
            return Err(Error::usage(format!("source \"{scheme}://...\" names no host"))
                .hint("write rtsp://host/path; in a user name or password write %40 for @, %2F for /, %3F for ?, %23 for #"));
        }
        (Some(_), Some(_)) => {
            return Err(Error::usage(format!(
                "source \"{scheme}://...\": it can't be told where the password ends and the host begins"
            ))
            .hint("in a user name or password write %40 for @, %2F for /, %3F for ?, %23 for #; in a path write %40 for @"));
        }
        (Some((end, _)), None) => end,
        (None, Some(end)) => Some(end),
    };
    let Some(end) = end else {
        return Ok(rest.to_owned());
    };
    let (user, host) = (&rest[..end], &rest[end + 1..]);
    Ok(format!(
        "{}@{host}",
        utf8_percent_encode(&whole_escapes(user), NOT_IN_USER_INFO)
    ))
}

/// `text` with each % that doesn't begin an escape written as one.
fn whole_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        out.push(c);
        let escape = text.as_bytes().get(at + 1..at + 3);
        if c == '%' && !escape.is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)) {
            out.push_str("25");
        }
    }
    out
}

/// Whether this can be `host` or `host:port`.
fn is_host(text: &str) -> bool {
    let (name, port) = split_port(text);
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address
            .split('%')
            .next()
            .is_some_and(|a| a.parse::<Ipv6Addr>().is_ok()),
        None => {
            !name.is_empty() && !name.contains(['@', ':', '[', ']']) && !name.contains(char::is_whitespace)
        }
    };
    is_name && port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok())
}

/// Whether this can't well be anything but a host: it has a port or a dot, is an address, or is this machine.
fn is_plainly_a_host(text: &str) -> bool {
    let (name, port) = split_port(text);
    port.is_some() || name.contains('.') || name.starts_with('[') || name == "localhost"
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    }
}

fn parse_test(rest: &str) -> Result<SourceSpec> {
    const KEYS: [&str; 5] = ["width", "height", "fps", "frames", "format"];
    let query = match rest.trim_start_matches('/') {
        "" => "",
        rest => rest.strip_prefix('?').ok_or_else(|| {
            Error::usage(format!("source \"test://{rest}\""))
                .hint("settings follow a question mark: test://?width=640")
        })?,
    };
    let mut pattern = TestPattern::default();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |wanted: &str| Error::usage(format!("test://: {key}={value:?} is not {wanted}"));
        match key {
            "width" => pattern.width = Some(value.parse().map_err(|_| bad("a number of pixels"))?),
            "height" => pattern.height = Some(value.parse().map_err(|_| bad("a number of pixels"))?),
            "fps" => pattern.fps = Some(value.parse().map_err(|_| bad("a number of frames per second"))?),
            "frames" => pattern.frames = Some(value.parse().map_err(|_| bad("a number of frames"))?),
            "format" => {
                pattern.pixel = match value.to_ascii_lowercase().as_str() {
                    "i420" => PixelFormat::I420,
                    "nv12" => PixelFormat::Nv12,
                    "yuyv" | "yuy2" => PixelFormat::Yuyv,
                    _ => return Err(bad("one of i420, nv12, yuyv")),
                }
            }
            other => {
                let error = Error::usage(format!("test://: unknown setting {other:?}"));
                return Err(error.hint(meant(other, &KEYS).map_or_else(
                    || format!("the settings are {}", KEYS.join(", ")),
                    |key| format!("did you mean {key:?}?"),
                )));
            }
        }
    }
    Ok(SourceSpec::Test(pattern))
}

impl SourceSpec {
    /// One source, or several recordings that follow each other.
    ///
    /// # Errors
    /// Usage: no source, or one of several never ends.
    pub fn playlist(items: Vec<Self>) -> Result<Self> {
        match <[Self; 1]>::try_from(items) {
            Ok([only]) => Ok(only),
            Err(items) if items.is_empty() => Err(Error::usage("no source is named").hint(KINDS)),
            Err(items) => match items.iter().find(|item| item.is_live()) {
                Some(live) => Err(Error::usage(format!(
                    "{} never ends: only recordings can follow each other",
                    live.name()
                ))
                .hint("name it as the only source")),
                None => Ok(Self::Playlist(items)),
            },
        }
    }

    /// The source's name for logs and errors. Passwords are masked.
    pub fn name(&self) -> String {
        match self {
            Self::Camera(path) | Self::File(path) | Self::Images(path) => path.display().to_string(),
            Self::Csi(sensor) => format!("csi://{sensor}"),
            Self::Rtsp(uri) => mask_credentials(uri),
            Self::Test(_) => "test://".to_owned(),
            Self::Launch(line) => format!("gst:{}", mask_credentials(line)),
            Self::Playlist(items) => items.iter().map(Self::name).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether the source has its own time and never ends: what it gives is as fresh as it can be, and
    /// a frame not taken is lost. A launch line is found out when it is opened.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Camera(_) | Self::Csi(_) | Self::Rtsp(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let e = parse_uri(text).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        e.to_string()
    }

    #[test]
    fn only_recordings_follow_each_other() {
        let list = |names: &[&str]| {
            SourceSpec::playlist(names.iter().map(|name| parse_uri(name).unwrap()).collect())
        };
        assert_eq!(list(&["a.mp4"]).unwrap(), SourceSpec::File("a.mp4".into()));
        let both = list(&["a.mp4", "b.png"]).unwrap();
        assert_eq!(both.name(), "a.mp4, b.png");
        assert!(!both.is_live());
        assert!(list(&[]).is_err());
        let refused = list(&["a.mp4", "rtsp://user:secret@camera/1"])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("rtsp://") && refused.contains("camera/1 never ends"),
            "{refused}"
        );
        assert!(!refused.contains("secret"), "{refused}");
    }

    #[test]
    fn names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap();
        let cases = [
            ("/dev/video0", SourceSpec::Camera("/dev/video0".into())),
            ("2", SourceSpec::Camera("/dev/video2".into())),
            ("/dev/null", SourceSpec::Camera("/dev/null".into())),
            ("v4l2:///dev/video1", SourceSpec::Camera("/dev/video1".into())),
            ("csi://1", SourceSpec::Csi(1)),
            (" street.mp4 ", SourceSpec::File("street.mp4".into())),
            ("file:///a/b%20c.mkv", SourceSpec::File("/a/b c.mkv".into())),
            ("file://localhost/a.mkv", SourceSpec::File("/a.mkv".into())),
            ("photo.JPG", SourceSpec::Images("photo.JPG".into())),
            (folder, SourceSpec::Images(folder.into())),
            ("RTSP://cam/1", SourceSpec::Rtsp("rtsp://cam/1".into())),
            (
                "rtspt://u:p@cam:554/1",
                SourceSpec::Rtsp("rtspt://u:p@cam:554/1".into()),
            ),
            (
                "gst: videotestsrc ! appsink",
                SourceSpec::Launch("videotestsrc ! appsink".into()),
            ),
            ("test://", SourceSpec::Test(TestPattern::default())),
            (
                "test://?width=320&height=240&fps=12.5&frames=9&format=nv12",
                SourceSpec::Test(TestPattern {
                    width: Some(320),
                    height: Some(240),
                    fps: Some(12.5),
                    frames: Some(9),
                    pixel: PixelFormat::Nv12,
                }),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_uri(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("", "no source is named"),
            ("rtps://cam/1", "did you mean \"rtsp://\"?"),
            ("flie:///a", "did you mean \"file://\"?"),
            ("quux://a", "a source is a camera"),
            ("https://cam/1.mp4", "uridecodebin uri=https://"),
            ("test", "did you mean \"test://\"?"),
            ("test://?widht=3", "did you mean \"width\"?"),
            ("test://?colour=3", "the settings are width"),
            ("test://?width=big", "width=\"big\" is not a number of pixels"),
            ("test://?format=bgr", "one of i420"),
            ("test://width=3", "question mark"),
            ("gst:", "launch line"),
            ("gst://x", "launch line"),
            ("rtsp://", "names no host"),
            ("rtsp://user:secret@/1", "names no host"),
            ("file://a.mp4", "absolute path"),
        ] {
            let message = error(text);
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_password_may_be_written_as_it_is() {
        for (text, expected) in [
            ("ann:p@ss@127.0.0.1:554/live", "ann:p%40ss@127.0.0.1:554/live"),
            ("ann:pa/ss@127.0.0.1:554/live", "ann:pa%2Fss@127.0.0.1:554/live"),
            ("ann:pa?ss@cam/live?channel=1", "ann:pa%3Fss@cam/live?channel=1"),
            ("ann:pa#ss@cam.lan/live", "ann:pa%23ss@cam.lan/live"),
            ("ann:pa:ss@cam/live", "ann:pa:ss@cam/live"),
            ("ann:100%@cam/live", "ann:100%25@cam/live"),
            ("ann:pass word@cam/live", "ann:pass%20word@cam/live"),
            (
                "ann:p@[x]@[fe80::1]:554/live",
                "ann:p%40%5Bx%5D@[fe80::1]:554/live",
            ),
            // What is encoded already stays as it is.
            ("ann:p%40ss%2Fw%3Frd@cam/live", "ann:p%40ss%2Fw%3Frd@cam/live"),
            // An @ in the path is none of the password's.
            ("ann:pw@cam/stream@1", "ann:pw@cam/stream@1"),
            ("cam/stream@1", "cam/stream@1"),
            ("cam/stream@main.low", "cam/stream@main.low"),
            ("[::1]:8554/a", "[::1]:8554/a"),
        ] {
            let parsed = parse_uri(&format!("rtsp://{text}")).unwrap();
            assert_eq!(parsed, SourceSpec::Rtsp(format!("rtsp://{expected}")), "{text}");
        }
        // Two readings: a host "s" and a path, or a password "p@s/w".
        for text in [
            "ann:p@s/w@127.0.0.1:554/live",
            "ann:1/2@10.0.0.1/live",
            "cam:554/x@10.0.0.1/live",
        ] {
            let message = error(&format!("rtsp://{text}"));
            assert!(
                message.contains("%40") && !message.contains("10.0.0.1"),
                "{message}"
            );
        }
        for text in [
            "",
            "/live",
            "ann:pw@",
            "ann:pw@/live",
            "ann:pw@:554/live",
            "cam:port/live",
        ] {
            assert!(
                error(&format!("rtsp://{text}")).contains("names no host"),
                "{text}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn an_address_that_was_understood_is_understood_again(rest in "[ab1:@/?#%.\\[\\] ]{0,24}") {
            if let Ok(spec) = parse_uri(&format!("rtsp://{rest}")) {
                let SourceSpec::Rtsp(address) = &spec else { panic!("{spec:?}") };
                proptest::prop_assert_eq!(&parse_uri(address).unwrap(), &spec);
            }
        }
    }

    #[test]
    fn the_kind_of_file_counts_and_not_its_folder() {
        let kind = |path: &Path| match path.to_str().unwrap() {
            "/dev/shm/clip.mp4" | "/dev/stdin" | "/dev/shm/photo.png" => PathKind::File,
            "/dev/shm/photos" => PathKind::Folder,
            "/dev/video0" | "/srv/camera" => PathKind::Device,
            _ => PathKind::Missing,
        };
        for (text, expected) in [
            ("/dev/shm/clip.mp4", SourceSpec::File("/dev/shm/clip.mp4".into())),
            (
                "file:///dev/shm/clip.mp4",
                SourceSpec::File("/dev/shm/clip.mp4".into()),
            ),
            ("/dev/stdin", SourceSpec::File("/dev/stdin".into())),
            ("/dev/shm/photos", SourceSpec::Images("/dev/shm/photos".into())),
            (
                "/dev/shm/photo.png",
                SourceSpec::Images("/dev/shm/photo.png".into()),
            ),
            ("/dev/shm/gone.mp4", SourceSpec::File("/dev/shm/gone.mp4".into())),
            ("/dev/video0", SourceSpec::Camera("/dev/video0".into())),
            ("/srv/camera", SourceSpec::Camera("/srv/camera".into())),
            // Not plugged in yet.
            ("/dev/video7", SourceSpec::Camera("/dev/video7".into())),
            (
                "/dev/v4l/by-id/usb-cam",
                SourceSpec::Camera("/dev/v4l/by-id/usb-cam".into()),
            ),
            ("3", SourceSpec::Camera("/dev/video3".into())),
        ] {
            assert_eq!(parse(text, &kind).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn names_show_no_password() {
        let spec = parse_uri("rtsp://bob:secret@cam/1").unwrap();
        assert_eq!(spec.name(), "rtsp://***@cam/1");
        assert_eq!(format!("{spec:?}"), "Rtsp(rtsp://***@cam/1)");
    }
}
