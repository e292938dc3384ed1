//! From one section's keys to what one stage takes, checked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::{
    AccessSection, CaptureSection, ClipsSection, Drawing, EventSettings, EventsSection, Hiding, MasksSection,
    ModelSection, MqttSection, NumberOrAuto, OverlaySection, PrivacySection, RecordSection, RunSection,
    Sections, check_range,
};
use crate::capture::{CaptureOptions, Pace, SourceSpec, parse_uri};
use crate::choose::{ChoiceOptions, DeviceName, InputLength, Threads};
use crate::events::file::FileOptions;
use crate::events::history::HistoryOptions;
use crate::events::mqtt::MqttOptions;
use crate::events::secret::Secret;
use crate::events::snapshots::SnapshotOptions;
use crate::events::webhook::{self, WebhookOptions};
use crate::output::access::{RtspAccess, TlsFiles, User};
use crate::output::{ClipOptions, Keep, OutputSpec, RecordOptions, StreamOptions, parse_output};
use crate::pipeline::{self, LostPicture, MaskPolicy, PipelineOptions};
use crate::schedule::ScheduleOptions;
use crate::supervise::OnTransient;
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, PixelFormat};
use vision::model::contract::MAX_SIDE;
use vision::overlay::{Behind, OverlayOptions, Visualize};
use vision::picture::read_rgb;
use vision::propagate::Smoothing;

/// What all cameras of a run share.
pub(super) struct Shared<'a> {
    pub run: &'a RunSection,
    pub access: &'a RtspAccess,
    pub max_bitrate_kbps: u32,
    /// How many cameras share the machine.
    pub cameras: usize,
    /// Whether the command line says how often masks are made.
    pub arguments_say_how_often: bool,
}

/// The source that is named, or the first camera of the machine.
pub(super) fn source(section: &CaptureSection) -> Result<SourceSpec> {
    let input = section.input.as_ref().map(|inputs| inputs.0.as_slice());
    match (section.camera.as_deref(), input) {
        (Some(_), Some(_)) => {
            Err(Error::usage("capture.camera and capture.input are both set").hint("keep one of them"))
        }
        (Some(camera), None) if camera.starts_with("csi://") => parse_uri(camera),
        (Some(camera), None) => Ok(SourceSpec::Camera(camera.into())),
        (None, Some(input)) => {
            let items = input.iter().map(|text| parse_uri(text));
            SourceSpec::playlist(items.collect::<Result<_>>()?)
        }
        (None, None) if Path::new("/dev/video0").exists() => Ok(SourceSpec::Camera("/dev/video0".into())),
        (None, None) => Err(Error::usage(
            "no source: there is no /dev/video0, and neither --camera nor --input was given",
        )
        .hint("try `segd --input VIDEO.mp4` or `segd --input test://`")),
    }
}

/// How the source is read.
pub(super) fn capture(section: &CaptureSection, run: &RunSection) -> Result<CaptureOptions> {
    let mut options = CaptureOptions::default();
    if let Some(width) = section.width {
        check_range("capture.width", f64::from(width), 16.0..=16384.0)?;
        options.width = width;
    }
    if let Some(height) = section.height {
        check_range("capture.height", f64::from(height), 16.0..=16384.0)?;
        options.height = height;
    }
    if let Some(fps) = section.fps {
        options.fps = check_range("capture.fps", fps, 0.1..=1000.0)?;
        options.untimed_fps = Some(options.fps);
    }
    options.pixel_format = section.pixel_format;
    options.controls = section.controls.clone().unwrap_or_default().into_iter().collect();
    options.tls_fingerprint.clone_from(&section.tls_fingerprint);
    options.tls_ca.clone_from(&section.tls_ca);
    options.looped = section.looped.unwrap_or(false);
    options.pace = match run.no_pace {
        Some(true) => Pace::AsFastAsPossible,
        _ => Pace::Recorded,
    };
    Ok(options)
}

/// The model that is asked for, and where it runs. Without a word on threads: one.
///
/// # Errors
/// Usage, naming the key.
pub fn model(section: &ModelSection, run: &RunSection) -> Result<ChoiceOptions> {
    let mut options = ChoiceOptions::default();
    if let Some(name) = &section.name {
        options.model.clone_from(name);
    }
    options.backend = named("model.backend", section.backend.as_deref())?.unwrap_or_default();
    let device: DeviceName = named("model.device", section.device.as_deref())?.unwrap_or_default();
    options.device = device.first();
    options.accelerate = device == DeviceName::Auto;
    options.precision = named("model.precision", section.precision.as_deref())?;
    options.regions = section.regions.unwrap_or(false);
    options.length = match section.size {
        None => InputLength::Contract,
        Some(NumberOrAuto::Auto) => InputLength::auto(),
        Some(NumberOrAuto::Number(pixels)) => {
            check_range("model.size", pixels as f64, 16.0..=MAX_SIDE as f64)?;
            InputLength::Pixels(pixels)
        }
    };
    options.threads = match section.threads {
        None => Threads::default(),
        Some(NumberOrAuto::Auto) => Threads::auto(1),
        Some(NumberOrAuto::Number(threads)) => {
            check_range("model.threads", threads as f64, 1.0..=256.0)?;
            Threads::Count(threads)
        }
    };
    options.ort_library.clone_from(&run.ort_library);
    options.selftest = !run.no_selftest.unwrap_or(false);
    Ok(options)
}

/// The same for one of `cameras` that share the machine, within a schedule's CPU budget.
pub(super) fn within_share(
    mut options: ChoiceOptions,
    section: &ModelSection,
    schedule: &ScheduleOptions,
    cameras: usize,
) -> ChoiceOptions {
    options.length = options.length.within_budget(schedule);
    if !matches!(section.threads, Some(NumberOrAuto::Number(_))) {
        options.threads = Threads::auto(cameras).within_budget(schedule);
    }
    options
}

/// One of a kind's values by its name.
fn named<T: ValueEnum>(key: &str, text: Option<&str>) -> Result<Option<T>> {
    let Some(text) = text else {
        return Ok(None);
    };
    T::from_str(text, false).map(Some).map_err(|_| {
        let values = T::value_variants().iter().filter_map(|v| v.to_possible_value());
        let names: Vec<String> = values.map(|v| v.get_name().to_owned()).collect();
        Error::usage(format!("{key} = {text:?}, expected one of {}", names.join(", ")))
    })
}

/// The least time between two inferences.
pub(super) fn infer_interval(section: &ModelSection) -> Result<Duration> {
    match section.max_inferences_per_second {
        Some(rate) => {
            let rate = check_range("model.max_inferences_per_second", rate, 0.01..=1000.0)?;
            Ok(Duration::from_secs_f64(1.0 / rate))
        }
        None => Ok(Duration::ZERO),
    }
}

/// Which frames are segmented. `hides`: masks hide something.
///
/// # Errors
/// Usage, naming the key.
pub fn schedule(section: &MasksSection, hides: bool) -> Result<ScheduleOptions> {
    let mut options = ScheduleOptions::default();
    let ms = |key: &str, value: f64, least: f64| -> Result<Duration> {
        Ok(Duration::from_secs_f64(
            check_range(key, value, least..=60_000.0)? / 1e3,
        ))
    };
    if let Some(every) = section.every {
        options.every = Some(check_range("masks.every", f64::from(every), 1.0..=100_000.0)? as u32);
    }
    if let Some(cores) = section.cpu_budget {
        options.cpu_budget = Some(check_range("masks.cpu_budget", cores, 0.01..=1024.0)?);
    }
    if let Some(age) = section.max_mask_age_ms {
        options.max_mask_age = ms("masks.max_mask_age_ms", age, 1.0)?;
        options.hide_after = options.max_mask_age;
    }
    if let Some(wait) = section.wait_ms {
        options.wait = ms("masks.wait_ms", wait, 0.0)?;
    }
    options.propagate = section.propagate.unwrap_or(options.propagate);
    if let Some(smooth) = section.smooth {
        options.smooth = match check_range("masks.smooth", smooth, 0.0..=0.95)? {
            0.0 => Smoothing::OFF,
            strength => Smoothing {
                strength: strength as f32,
                ..options.smooth
            },
        };
    }
    if !options.propagate {
        options.smooth = Smoothing::OFF;
        // Nothing is known of the picture's motion then, so nothing else can decide.
        let other =
            options.cpu_budget.is_some() || options.max_mask_age != ScheduleOptions::default().max_mask_age;
        if options.every.is_none() && !other {
            options.every = Some(1);
        }
    }
    // A few masks are enough to show things, but not to hide them: with privacy, every frame that there is time for is
    // segmented.
    if hides && !section.says_how_often() {
        options.every = Some(1);
    }
    Ok(options)
}

/// What a pipeline's options depend on.
pub(super) struct PipelineParts<'a> {
    pub source: &'a SourceSpec,
    pub capture: &'a CaptureOptions,
    pub stall_timeout_ms: Option<u64>,
    pub schedule: ScheduleOptions,
    pub mode: Visualize,
    pub shared: &'a Shared<'a>,
}

/// How frames go through.
pub(super) fn pipeline(parts: &PipelineParts<'_>) -> Result<PipelineOptions> {
    /// Less would take every pause between two frames for a fault.
    const SHORTEST_STALL: Duration = Duration::from_millis(500);
    let run = parts.shared.run;
    let is_live = parts.source.is_live();
    let stall_ms = parts.stall_timeout_ms.unwrap_or(5_000);
    check_range("capture.stall_timeout_ms", stall_ms as f64, 0.0..=86_400_000.0)?;
    let no_pace = run.no_pace.unwrap_or(false);
    let asked_lockstep = run.lockstep.unwrap_or(false);
    if no_pace && is_live {
        return Err(
            Error::usage("--no-pace is for files; a camera or network stream has its own pace")
                .hint("leave --no-pace out, or use --lockstep"),
        );
    }
    // Every frame with its own mask, unless it is said which.
    let lockstep = asked_lockstep || (no_pace && !parts.shared.arguments_say_how_often);
    let live = !(no_pace || asked_lockstep);
    Ok(PipelineOptions {
        masks: if lockstep {
            MaskPolicy::Lockstep
        } else {
            MaskPolicy::Newest
        },
        schedule: parts.schedule,
        live,
        on_source_error: if is_live {
            pipeline::reconnect()
        } else {
            OnTransient::GiveUp
        },
        read_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(stall_ms).max(SHORTEST_STALL),
        stamp: false,
        max_frames: run.frames,
        lost_picture: live.then(|| lost_picture(parts.capture, parts.mode)),
    })
}

/// What clients see while a live source is away: twice a second is enough to see the seconds count.
fn lost_picture(capture: &CaptureOptions, mode: Visualize) -> LostPicture {
    let mut width = capture.width as usize;
    if mode == Visualize::SideBySide {
        width *= 2;
    }
    LostPicture {
        after: Duration::from_secs(1),
        period: Duration::from_millis(500),
        format: FrameFormat::new(PixelFormat::I420, width, capture.height as usize),
        frame_rate: Some(capture.fps),
    }
}

/// How masks are drawn.
///
/// # Errors
/// Usage, naming the key.
pub fn drawing(section: &OverlaySection) -> Result<Drawing> {
    let mut options = OverlayOptions::default();
    if let Some(mode) = section.visualize {
        options.mode = mode;
    }
    if let Some(alpha) = section.alpha {
        check_range("overlay.alpha", f64::from(alpha), 0.0..=1.0)?;
        options.alpha = alpha;
    }
    if let Some(score) = section.score {
        check_range("overlay.score", f64::from(score), 0.0..=1.0)?;
        options.score = score;
    }
    if let Some(legend) = section.legend {
        options.legend = legend;
    }
    if let Some(text) = section.background.as_deref().filter(|text| !text.is_empty()) {
        if options.mode != Visualize::Overlay {
            return Err(Error::usage(format!(
                "overlay.background is set, and overlay.visualize = \"{}\"",
                options.mode
            ))
            .hint("leave one of them out: what stays in front of a background is shown as it is"));
        }
        options.behind = Some(behind(text)?);
    }
    let colors = section.colors.iter().flatten();
    let colors = colors.map(|(name, text)| Ok((name.clone(), color("overlay.colors", text)?)));
    Ok(Drawing {
        options,
        classes: section.classes.clone(),
        colors: colors.collect::<Result<_>>()?,
    })
}

/// A colour that is written as `#rrggbb`.
///
/// # Errors
/// Usage, naming the key.
pub fn color(key: &str, text: &str) -> Result<[u8; 3]> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6);
    let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let [_, rgb @ ..] = number
        .ok_or_else(|| {
            Error::usage(format!("{key} = {text:?} is no colour"))
                .hint("expected six hexadecimal digits, such as #00b140")
        })?
        .to_be_bytes();
    Ok(rgb)
}

/// What stands in place of the background: `blur`, a colour, or the file of a picture.
///
/// # Errors
/// Usage, naming the key.
pub fn behind(text: &str) -> Result<Behind> {
    if text == "blur" {
        return Ok(Behind::Blur);
    }
    if text.starts_with('#') {
        return Ok(Behind::Color(color("overlay.background", text)?));
    }
    let picture = read_rgb(Path::new(text)).map_err(|e| {
        Error::usage(format!("overlay.background = {text:?} is no picture"))
            .caused_by(e)
            .hint("expected blur, a colour such as #00b140, or the file of a picture")
    })?;
    Ok(Behind::Picture(Arc::new(picture)))
}

/// What is hidden.
pub(super) fn hiding(section: &PrivacySection) -> Result<Hiding> {
    let margin = section.margin.unwrap_or(0.04);
    check_range("privacy.margin", f64::from(margin), 0.0..=1.0)?;
    let max_age_ms = section.max_mask_age_ms.unwrap_or(500);
    check_range("privacy.max_mask_age_ms", max_age_ms as f64, 1.0..=60_000.0)?;
    Ok(Hiding {
        classes: section
            .hidden()
            .map(|(how, name)| (how, name.to_owned()))
            .collect(),
        margin,
        max_mask_age: Duration::from_millis(max_age_ms),
    })
}

/// Who may watch.
pub(super) fn access(section: &AccessSection) -> Result<RtspAccess> {
    let users = section.users.iter().flatten().map(|entry| User::parse(entry));
    let tls = match (&section.certificate, &section.key) {
        (Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        (None, None) => None,
        _ => {
            return Err(Error::usage(
                "access.certificate and access.key: one is set without the other",
            ));
        }
    };
    let access = RtspAccess {
        users: users.collect::<Result<_>>()?,
        admins: section.admins.clone().unwrap_or_default(),
        insecure: section.insecure.unwrap_or(false),
        tls,
        max_clients: section
            .max_clients
            .unwrap_or_else(|| RtspAccess::default().max_clients),
    };
    access.validate()?;
    Ok(access)
}

/// Where events go.
pub(super) fn events(section: &EventsSection, broker: &MqttSection) -> Result<EventSettings> {
    let max_mb = section.file_max_mb.unwrap_or(16.0);
    check_range("events.file_max_mb", max_mb, 0.01..=100_000.0)?;
    let keep = section.file_keep.unwrap_or(4);
    check_range("events.file_keep", f64::from(keep), 0.0..=1000.0)?;
    let file = section.file.as_deref().filter(|file| !file.is_empty());
    Ok(EventSettings {
        stdout: file == Some("-"),
        file: file.filter(|file| *file != "-").map(|path| FileOptions {
            path: path.into(),
            max_bytes: (max_mb * 1e6) as u64,
            keep,
        }),
        history: history(section)?,
        snapshots: snapshots(section)?,
        webhook: webhook(section)?,
        mqtt: mqtt(broker)?,
    })
}

/// The history; `None` if none is kept.
fn history(section: &EventsSection) -> Result<Option<HistoryOptions>> {
    let keep = days("events.history_days", section.history_days)?;
    let max_bytes = megabytes("events.history_max_mb", section.history_max_mb.unwrap_or(256.0))?;
    let path = section
        .history
        .clone()
        .filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = path
        .as_ref()
        .filter(|path| section.file.as_deref().map(Path::new) == Some(path))
    {
        return Err(Error::usage(format!(
            "events.history and events.file are both {}, expected another file for each",
            path.display()
        )));
    }
    Ok(path.map(|path| HistoryOptions {
        path,
        keep,
        max_bytes,
    }))
}

/// How long something is kept: this many days, or 30.
fn days(key: &str, days: Option<f64>) -> Result<Duration> {
    let days = days.unwrap_or(30.0);
    check_range(key, days, 0.01..=36_500.0)?;
    Ok(Duration::from_secs_f64(days * 86_400.0))
}

/// The bytes of so many megabytes.
fn megabytes(key: &str, megabytes: f64) -> Result<u64> {
    check_range(key, megabytes, 1.0..=1_000_000.0)?;
    Ok((megabytes * 1e6) as u64)
}

/// The folder of pictures; `None` if none is named.
fn snapshots(section: &EventsSection) -> Result<Option<SnapshotOptions>> {
    let keep = days("events.snapshots_days", section.snapshots_days)?;
    let max_bytes = megabytes(
        "events.snapshots_max_mb",
        section.snapshots_max_mb.unwrap_or(500.0),
    )?;
    let folder = section
        .snapshots
        .clone()
        .filter(|folder| !folder.as_os_str().is_empty());
    Ok(folder.map(|folder| SnapshotOptions {
        folder,
        keep,
        max_bytes,
    }))
}

/// The program that is told; `None` if none is named.
fn webhook(section: &EventsSection) -> Result<Option<WebhookOptions>> {
    let Some(url) = section.webhook.as_deref().filter(|url| !url.is_empty()) else {
        let more = [
            ("secret", section.webhook_secret.is_some()),
            ("ca", section.webhook_ca.is_some()),
        ];
        return match more.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(Error::usage(format!(
                "events.webhook_{key} is set without events.webhook"
            ))),
            None => Ok(None),
        };
    };
    // The address may be a secret itself.
    let wrong = |why: &str| {
        Error::usage(format!("events.webhook: {why}")).hint("expected http://HOST[:PORT]/PATH, or https://")
    };
    webhook::address(url).map_err(wrong)?;
    if section.webhook_secret.as_deref() == Some("") {
        return Err(Error::usage("events.webhook_secret is empty").hint("leave it out for no signature"));
    }
    if section.webhook_ca.is_some() && !url.starts_with("https:") {
        return Err(
            Error::usage("events.webhook_ca is set, and events.webhook is not over TLS")
                .hint("write https://"),
        );
    }
    Ok(Some(WebhookOptions {
        url: url.to_owned(),
        secret: section.webhook_secret.clone().map(Secret),
        ca: section.webhook_ca.clone(),
    }))
}

/// The broker; `None` if none is named.
fn mqtt(section: &MqttSection) -> Result<Option<MqttOptions>> {
    let Some(url) = section.url.as_deref().filter(|url| !url.is_empty()) else {
        return Ok(None);
    };
    let wrong = |why: &str| {
        Error::usage(format!("mqtt.url = {url:?}: {why}"))
            .hint("expected mqtt://HOST[:PORT], or mqtts://HOST[:PORT] over TLS")
    };
    let (tls, rest) = match url.split_once("://") {
        Some(("mqtt", rest)) => (false, rest),
        Some(("mqtts", rest)) => (true, rest),
        _ => return Err(wrong("it does not begin with mqtt:// or mqtts://")),
    };
    if rest.contains('@') {
        // The text may hold a password.
        return Err(Error::usage("mqtt.url: user and password have no place in it")
            .hint("set mqtt.user and mqtt.password"));
    }
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6
                .split_once(']')
                .ok_or_else(|| wrong("the bracket isn't closed"))?;
            (host, port.strip_prefix(':'))
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_host) {
        return Err(wrong("there is no name or address of a broker"));
    }
    let port = match port {
        None => match tls {
            true => 8883,
            false => 1883,
        },
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong("the port is no number from 1 to 65535"))?,
    };
    let topic = |key: &str, text: &str| -> Result<String> {
        let is_level = |level: &str| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            !level.is_empty() && level.chars().all(is_name)
        };
        match text.split('/').all(is_level) {
            true => Ok(text.to_owned()),
            false => Err(Error::usage(format!(
                "{key} = {text:?}, expected letters, digits, - and _, in levels with / between them"
            ))),
        }
    };
    if section.password.is_some() && section.user.is_none() {
        return Err(Error::usage("mqtt.password is set without mqtt.user"));
    }
    if section.ca.is_some() && !tls {
        return Err(Error::usage("mqtt.ca is set, and mqtt.url is not over TLS").hint("write mqtts://"));
    }
    let discovery = section.discovery.as_deref().unwrap_or("homeassistant");
    Ok(Some(MqttOptions {
        host: host.to_owned(),
        port,
        tls,
        ca: section.ca.clone(),
        user: section.user.clone(),
        password: section.password.clone().map(Secret),
        prefix: topic("mqtt.topic", section.topic.as_deref().unwrap_or("segd"))?,
        discovery: match discovery {
            "" => None,
            prefix => Some(topic("mqtt.discovery", prefix)?),
        },
        snapshots: section.snapshots.unwrap_or(true),
    }))
}

/// The most that an RTSP stream is encoded with, kbit/s.
pub(super) fn max_bitrate_kbps(section: &AccessSection) -> Result<u32> {
    let kbps = section
        .max_bitrate_kbps
        .unwrap_or_else(|| StreamOptions::default().max_bitrate_kbps);
    check_range("access.max_bitrate_kbps", f64::from(kbps), 50.0..=1_000_000.0)?;
    Ok(kbps)
}

/// How the video is encoded.
pub(super) fn stream(sections: &Sections, shared: &Shared<'_>) -> Result<StreamOptions> {
    let section = &sections.stream;
    let defaults = StreamOptions::default();
    let options = StreamOptions {
        codec: section.codec.unwrap_or_default(),
        bitrate_kbps: section.bitrate_kbps,
        keyframe_interval_s: section
            .keyframe_interval_s
            .unwrap_or(defaults.keyframe_interval_s),
        encoder: section.encoder.clone(),
        max_bitrate_kbps: shared.max_bitrate_kbps,
        access: shared.access.clone(),
        record: record(&sections.record)?,
        clips: clips(&sections.clips)?,
    };
    options.validate()?;
    #[cfg(feature = "gstreamer")]
    crate::output::check_encoder(&options)?;
    Ok(options)
}

/// How recordings without end are cut and kept.
fn record(section: &RecordSection) -> Result<RecordOptions> {
    let defaults = RecordOptions::default();
    let segment = seconds(
        "record.segment_s",
        section.segment_s,
        defaults.segment,
        1.0..=3600.0,
    )?;
    let limits = (section.keep_hours, section.keep_gb, section.min_free_gb);
    Ok(RecordOptions {
        segment,
        keep: keep("record", limits, defaults.keep)?,
    })
}

/// What the clips of events show, and which are kept.
fn clips(section: &ClipsSection) -> Result<ClipOptions> {
    let defaults = ClipOptions::default();
    let limits = (section.keep_hours, section.keep_gb, section.min_free_gb);
    Ok(ClipOptions {
        before: seconds("clips.before_s", section.before_s, defaults.before, 0.0..=60.0)?,
        after: seconds("clips.after_s", section.after_s, defaults.after, 0.0..=600.0)?,
        longest: seconds(
            "clips.longest_s",
            section.longest_s,
            defaults.longest,
            1.0..=3600.0,
        )?,
        keep: keep("clips", limits, defaults.keep)?,
    })
}

fn seconds(
    key: &str,
    value: Option<f64>,
    default: Duration,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Duration> {
    let seconds = check_range(key, value.unwrap_or(default.as_secs_f64()), range)?;
    Ok(Duration::from_secs_f64(seconds))
}

/// What is kept of a folder: hours, gigabytes, and gigabytes that stay free.
fn keep(
    section: &str,
    (hours, gb, free_gb): (Option<f64>, Option<f64>, Option<f64>),
    defaults: Keep,
) -> Result<Keep> {
    let bytes = |key: &str, value: Option<f64>, default: u64, least: f64| -> Result<u64> {
        let gb = value.unwrap_or(default as f64 / 1e9);
        Ok((check_range(&format!("{section}.{key}"), gb, least..=1e6)? * 1e9) as u64)
    };
    let hours = hours.unwrap_or(defaults.age.as_secs_f64() / 3600.0);
    let hours = check_range(&format!("{section}.keep_hours"), hours, 0.01..=1e6)?;
    Ok(Keep {
        age: Duration::from_secs_f64(hours * 3600.0),
        bytes: bytes("keep_gb", gb, defaults.bytes, 0.001)?,
        free: bytes("min_free_gb", free_gb, defaults.free, 0.0)?,
    })
}

/// One output, of which it is seen that it may be opened like this.
pub(super) fn output(text: &str, options: &StreamOptions) -> Result<OutputSpec> {
    let spec = parse_output(text)?;
    // Making an opener opens nothing.
    spec.opener(options)?;
    Ok(spec)
}
