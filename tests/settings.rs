//! Whatever `segd check-config` accepts starts, and whatever a reload accepts starts as well: for every key, with values
//! that are right and wrong, each of the three says the same.

#![cfg(feature = "tract")]

#[path = "common/onnx.rs"]
mod onnx;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use onnx::Tiny;
use proptest::prelude::*;
use segd::choose::Chooser;
use segd::cli::check_config;
use segd::config::{Layer, Layers, Settings};
use segd::daemon::{self, reload::Fleet};
use vision::error::Result;

/// A key with values as a configuration writes them, right ones and wrong ones. `MODEL` stands for a small model's folder,
/// which has the classes class0 to class3.
const KEYS: &[(&str, &[&str])] = &[
    (
        "capture.camera",
        &["\"/dev/video0\"", "\"csi://0\"", "\"csi://x\"", "\"\""],
    ),
    (
        "capture.input",
        &[
            "\"test://\"",
            "\"test://?width=64&height=48\"",
            "\"test://?width=1\"",
            "\"test://?fps=9999\"",
            "[\"a.mp4\", \"b.mp4\"]",
            "[\"test://\", \"rtsp://192.0.2.1/a\"]",
            "[]",
            "\"\"",
            "\"tset://\"",
            "\"rtsp://192.0.2.1/a\"",
        ],
    ),
    (
        "capture.width",
        &["640", "16", "15", "16384", "16385", "4294967295", "0"],
    ),
    ("capture.height", &["480", "16", "15", "16384", "16385", "0"]),
    (
        "capture.fps",
        &["30", "0.1", "0.0", "1000", "1000.1", "nan", "inf", "-1"],
    ),
    ("capture.loop", &["true", "false"]),
    (
        "capture.stall_timeout_ms",
        &["0", "900", "86400000", "86400001", "9223372036854775807"],
    ),
    ("capture.tls_fingerprint", &["\"00\"", "\"\""]),
    ("capture.tls_ca", &["\"/nonexistent.pem\"", "\"\""]),
    ("capture.pixel_format", &["\"yuyv\"", "\"mjpg\""]),
    ("capture.controls", &["{ brightness = 3, auto = true }", "{}"]),
    (
        "model.name",
        &["\"MODEL\"", "\"nonsuch\"", "\"\"", "\"./nonsuch\""],
    ),
    ("model.backend", &["\"tract\"", "\"tensorflow\"", "\"\""]),
    ("model.device", &["\"cpu\"", "\"npu\"", "\"\""]),
    ("model.precision", &["\"fp32\"", "\"int4\"", "\"int8\""]),
    ("model.regions", &["true", "false"]),
    ("model.size", &["32", "16", "15", "0", "99999999", "\"auto\""]),
    ("model.threads", &["1", "2", "0", "256", "257", "\"auto\""]),
    (
        "model.max_inferences_per_second",
        &["10.0", "0.01", "0.0", "1000", "1001", "nan", "-3"],
    ),
    ("masks.cpu_budget", &["0.5", "0.01", "0.0", "1024", "1025", "nan"]),
    (
        "masks.max_mask_age_ms",
        &["100", "1", "0.5", "0", "60000", "60001", "nan", "-1"],
    ),
    ("masks.every", &["1", "4", "0", "100000", "100001"]),
    ("masks.wait_ms", &["0", "30", "60000", "60001", "-1", "nan"]),
    ("masks.propagate", &["true", "false"]),
    ("masks.smooth", &["0", "0.5", "0.95", "0.96", "-0.1", "nan"]),
    (
        "overlay.visualize",
        &["\"overlay\"", "\"side-by-side\"", "\"instances\"", "\"panoptic\""],
    ),
    ("overlay.alpha", &["0.5", "0", "1", "1.01", "-0.1", "nan"]),
    (
        "overlay.classes",
        &["[\"class1\"]", "[]", "[\"unicorn\"]", "[\"\"]"],
    ),
    ("overlay.score", &["0.5", "0", "1", "1.01", "-0.1", "nan"]),
    ("overlay.legend", &["true", "false"]),
    (
        "overlay.colors",
        &[
            "{ class1 = \"#ff0000\", class2 = \"#00ff00\" }",
            "{}",
            "{ class1 = \"red\" }",
            "{ class1 = \"#ff000\" }",
            "{ unicorn = \"#ff0000\" }",
        ],
    ),
    (
        "overlay.background",
        &[
            "\"blur\"",
            "\"#00b140\"",
            "\"\"",
            "\"#00b14\"",
            "\"#00b14g\"",
            "\"/nonexistent.png\"",
        ],
    ),
    ("privacy.blur", &["[\"class1\"]", "[]", "[\"unicorn\"]"]),
    ("privacy.pixelate", &["[\"class2\"]", "[\"class1\", \"class1\"]"]),
    ("privacy.fill", &["[\"class3\"]", "[\"clas3\"]"]),
    ("privacy.margin", &["0", "1", "0.04", "1.1", "-0.1", "nan"]),
    ("privacy.max_mask_age_ms", &["1", "500", "0", "60000", "60001"]),
    (
        "stream.outputs",
        &[
            "[\"null://\"]",
            "[]",
            "[\"\"]",
            "[\"a.avi\"]",
            "[\"http://127.0.0.1:80/a\"]",
            "[\"record:\"]",
            "[\"v4l2:/dev/video4242\"]",
            "[\"rtmp://127.0.0.1/live/key\"]",
            "[\"srt://127.0.0.1\"]",
            "[\"rtsp+push://ann:pw@127.0.0.1/door\"]",
            "[\"rtsp+push://127.0.0.1\"]",
            "[\"rtsp://127.0.0.1:0/a\"]",
            "[\"rtsp://0.0.0.0:0/a\"]",
            "[\"rtsps://127.0.0.1:0/a\"]",
            "[\"null://\", \"null://\"]",
        ],
    ),
    ("stream.codec", &["\"h264\"", "\"h265\""]),
    (
        "stream.bitrate_kbps",
        &["900", "50", "49", "200000", "200001", "0"],
    ),
    (
        "stream.keyframe_interval_s",
        &["2", "0.1", "0.0", "60", "61", "nan"],
    ),
    ("stream.encoder", &["\"x264enc\"", "\"nosuchenc\"", "\"\""]),
    ("record.segment_s", &["60", "1", "0.5", "3600", "3601", "nan"]),
    ("record.keep_hours", &["72", "0.01", "0", "1000001"]),
    ("record.keep_gb", &["20", "0.001", "0", "-1", "inf"]),
    ("record.min_free_gb", &["0", "1", "-1", "1000001"]),
    ("clips.before_s", &["0", "5", "60", "61", "-1"]),
    ("clips.after_s", &["0", "600", "601"]),
    ("clips.longest_s", &["1", "120", "0", "3601"]),
    ("clips.keep_hours", &["720", "0"]),
    ("clips.keep_gb", &["10", "0"]),
    ("clips.min_free_gb", &["0.5", "-1"]),
    (
        "access.users",
        &[
            "[]",
            "[\"ann:segd:0123456789abcdef0123456789abcdef\"]",
            "[\"ann\"]",
        ],
    ),
    ("access.admins", &["[]", "[\"ann\"]"]),
    ("access.insecure", &["true", "false"]),
    ("access.certificate", &["\"a.pem\""]),
    ("access.key", &["\"a.key\""]),
    ("access.max_clients", &["1", "16", "1000", "1001", "0"]),
    (
        "access.max_bitrate_kbps",
        &["20000", "50", "49", "1000000", "1000001", "0"],
    ),
    ("health.webrtc_port", &["0", "8189", "65535"]),
    (
        "health.webrtc_address",
        &["\"192.0.2.7\"", "\"::\"", "\"camera\""],
    ),
    (
        "health.listen",
        &[
            "\"\"",
            "\"127.0.0.1:0\"",
            "\"0.0.0.0:0\"",
            "\"8555\"",
            "\"localhost:1\"",
        ],
    ),
    (
        "health.max_mask_age_ms",
        &["3000", "1", "0", "3600000", "3600001"],
    ),
    ("events.file", &["\"-\"", "\"a.jsonl\"", "\"\""]),
    ("events.file_max_mb", &["16", "0.01", "0", "100001", "nan"]),
    ("events.file_keep", &["4", "0", "1000", "1001"]),
    ("events.hidden", &["true", "false"]),
    (
        "events.webhook",
        &[
            "\"http://127.0.0.1:9/hook\"",
            "\"https://example.org/\"",
            "\"\"",
            "\"example.org\"",
            "\"ftp://example.org/\"",
            "\"http://ann:pw@example.org/\"",
        ],
    ),
    ("events.snapshots", &["\"pictures\"", "\"\""]),
    ("events.snapshots_days", &["30", "0.01", "0", "36501", "nan"]),
    ("events.snapshots_max_mb", &["500", "1", "0.9", "1000001", "nan"]),
    ("events.webhook_secret", &["\"x\""]),
    ("events.webhook_ca", &["\"/nonexistent.pem\""]),
    ("events.history", &["\"a.db\"", "\"\""]),
    ("events.history_days", &["30", "0.01", "0", "36501", "nan"]),
    ("events.history_max_mb", &["256", "1", "0.9", "1000001", "nan"]),
    (
        "mqtt.url",
        &[
            "\"mqtt://127.0.0.1\"",
            "\"mqtts://broker.lan:1\"",
            "\"mqtt://[::1]:1883/\"",
            "\"\"",
            "\"broker.lan\"",
            "\"mqtt://\"",
            "\"mqtt://a:0\"",
            "\"mqtt://me:secret@a\"",
            "\"http://a\"",
        ],
    ),
    ("mqtt.user", &["\"ann\""]),
    ("mqtt.password", &["\"secret\""]),
    ("mqtt.ca", &["\"/nonexistent.pem\""]),
    ("mqtt.topic", &["\"segd\"", "\"home/segd\"", "\"\"", "\"a/+\""]),
    ("mqtt.discovery", &["\"homeassistant\"", "\"\"", "\"a#\""]),
    ("mqtt.snapshots", &["true", "false"]),
    (
        "zone",
        &[
            "[]",
            "[{ name = \"z\", polygon = [[0, 0], [1, 0], [1, 1]] }]",
            "[{ name = \"z\", polygon = [[0, 0], [1, 0], [1, 1]], classes = [\"class1\"] }]",
            "[{ name = \"z\", polygon = [[0, 0], [1, 0], [1, 1]], classes = [\"unicorn\"] }]",
            "[{ name = \"z\", polygon = [[0, 0], [1, 0], [1, 1]], camera = \"yard\" }]",
            "[{ name = \"z\", polygon = [[0, 0], [1, 1], [1, 0], [0, 1]] }]",
        ],
    ),
    (
        "line",
        &[
            "[]",
            "[{ name = \"l\", points = [[0, 0], [1, 1]], classes = [\"class1\"] }]",
            "[{ name = \"l\", points = [[0, 0], [1, 1]], classes = [\"clas1\"] }]",
            "[{ name = \"l\", points = [[0, 0], [0, 0]] }]",
        ],
    ),
];

fn model() -> &'static Path {
    static MODEL: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        Tiny::default().write(folder.path());
        folder
    });
    folder.path()
}

/// The layers of a configuration file with these keys over ones that any machine can run.
fn layers(keys: &[(&str, &str)]) -> Result<Layers> {
    let base = [
        ("capture.input", "\"test://\""),
        ("model.name", "\"MODEL\""),
        ("model.backend", "\"tract\""),
        ("stream.outputs", "[\"null://\"]"),
        ("health.listen", "\"\""),
    ];
    let is_set = |key: &str| keys.iter().any(|(set, _)| *set == key);
    let has_camera = is_set("capture.camera");
    let kept = base
        .into_iter()
        .filter(|(key, _)| !(is_set(key) || has_camera && *key == "capture.input"));
    let lines = kept.chain(keys.iter().copied());
    let text: String = lines.map(|(key, value)| format!("{key} = {value}\n")).collect();
    let text = text.replace("MODEL", model().to_str().unwrap());
    Ok(Layers::of_file(Layer::parse(&text, "segd.toml")?))
}

/// What `segd check-config`, a start and a reload have to say.
fn verdicts(keys: &[(&str, &str)]) -> [Result<()>; 3] {
    let layers = match layers(keys) {
        Ok(layers) => layers,
        Err(e) => panic!("{keys:?}: {e}"),
    };
    let check = check_config::check(&layers, false).map(drop);
    let chooser = Arc::new(Chooser::default());
    let start = Settings::resolve(&layers)
        .and_then(|settings| daemon::build(&settings, &chooser))
        .map(drop);
    let running = Settings::resolve(&self::layers(&[]).unwrap()).unwrap();
    let built = daemon::build(&running, &chooser).unwrap();
    let fleet = Fleet::new(running, &built, chooser);
    let reload = Settings::resolve(&layers)
        .and_then(|settings| fleet.prepare(settings))
        .map(drop);
    [check, start, reload]
}

/// Fails unless all three agree. Gives whether they accept.
fn agree(keys: &[(&str, &str)]) -> bool {
    let said = verdicts(keys).map(|verdict| verdict.map_err(|e| (e.exit_code(), e.to_string())));
    let [check, start, reload] = &said;
    assert_eq!(check, start, "check-config and start: {keys:?}");
    assert_eq!(start, reload, "start and reload: {keys:?}");
    check.is_ok()
}

/// Sections and keys of the installed configuration, without comments.
fn installed_keys() -> BTreeSet<String> {
    let text: String = include_str!("../systemd/segd.toml")
        .lines()
        .take_while(|line| !line.starts_with("# Several cameras"))
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key.to_owned() + "\n",
            _ => line.to_owned() + "\n",
        })
        .collect();
    let table: toml::Table = toml::from_str(&text).unwrap();
    let keys = table.iter().flat_map(|(section, keys)| {
        let keys = keys.as_table().unwrap().keys();
        keys.map(move |key| format!("{section}.{key}"))
    });
    keys.collect()
}

#[test]
fn every_key_is_tried() {
    // Tables of any number stand behind the sections.
    let sections = KEYS.iter().filter(|(key, _)| key.contains('.'));
    let tried: BTreeSet<String> = sections.map(|(key, _)| key.to_string()).collect();
    assert_eq!(tried, installed_keys());
}

#[test]
fn each_value_of_each_key_is_taken_or_refused_by_all() {
    let mut accepted = 0;
    let mut refused = 0;
    for (key, values) in KEYS {
        for value in *values {
            match agree(&[(key, value)]) {
                true => accepted += 1,
                false => refused += 1,
            }
        }
    }
    // Neither is empty talk.
    assert!(
        accepted > 60 && refused > 60,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn a_mask_age_of_zero_is_refused_by_all() {
    for key in [
        "health.max_mask_age_ms",
        "privacy.max_mask_age_ms",
        "masks.max_mask_age_ms",
    ] {
        let [check, start, reload] = verdicts(&[(key, "0")]).map(|v| v.unwrap_err().to_string());
        assert!(check.contains(&format!("{key} = 0, expected 1 to")), "{check}");
        assert_eq!((&check, &check), (&start, &reload));
    }
}

#[test]
fn a_zone_may_not_look_for_what_is_hidden_unless_that_is_allowed() {
    let zone = (
        "zone",
        "[{ name = \"z\", polygon = [[0, 0], [1, 0], [1, 1]], classes = [\"class1\"] }]",
    );
    let hides = ("privacy.blur", "[\"class1\"]");
    for verdict in verdicts(&[zone, hides]) {
        let why = verdict.unwrap_err().to_string();
        assert!(why.contains("zone z: classes: \"class1\" is hidden"), "{why}");
    }
    assert!(agree(&[zone, hides, ("events.hidden", "true")]));
    assert!(agree(&[zone]));
}

#[test]
fn several_cameras_are_taken_or_refused_by_all() {
    let camera = |name: &str, rest: &str| {
        format!(
            "[[camera]]\nname = {name:?}\ncapture.input = \"test://\"\nstream.outputs = [\"{name}/\"]\n{rest}\n"
        )
    };
    let folder = model().to_str().unwrap();
    let common =
        format!("[model]\nname = {folder:?}\nbackend = \"tract\"\nsize = 32\n[health]\nlisten = \"\"\n");
    let running = common.clone() + &camera("a", "");
    for (more, fits) in [
        (camera("b", ""), true),
        (camera("b", "overlay.classes = [\"class1\"]"), true),
        (camera("b", "overlay.classes = [\"unicorn\"]"), false),
        (camera("b", "model.name = \"nonsuch\""), false),
        (camera("b", "masks.every = 0"), false),
        (camera("a", ""), false),
        (camera("b c", ""), false),
    ] {
        let layers = |text: &str| Layers::of_file(Layer::parse(text, "segd.toml").unwrap());
        let both = layers(&(running.clone() + &more));
        let chooser = Arc::new(Chooser::default());
        let check = check_config::check(&both, false).map(drop);
        let start = Settings::resolve(&both)
            .and_then(|s| daemon::build(&s, &chooser))
            .map(drop);
        let settings = Settings::resolve(&layers(&running)).unwrap();
        let built = daemon::build(&settings, &chooser).unwrap();
        let fleet = Fleet::new(settings, &built, chooser);
        let reload = Settings::resolve(&both).and_then(|s| fleet.prepare(s)).map(drop);
        let said = [check, start, reload].map(|v| v.map_err(|e| e.to_string()));
        assert_eq!(said[0].is_ok(), fits, "{more}: {said:?}");
        assert!(said.iter().all(|s| *s == said[0]), "{more}: {said:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_configuration_is_taken_or_refused_by_all(
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
    ) {
        let mut keys: Vec<(&str, &str)> = Vec::new();
        for (key, value) in &picks {
            let (key, values) = *key.get(KEYS);
            if keys.iter().all(|(set, _)| *set != key) {
                keys.push((key, *value.get(values)));
            }
        }
        agree(&keys);
    }
}

#[test]
fn a_reload_puts_in_force_what_it_can_and_names_the_rest() {
    let settings = |keys: &[(&str, &str)]| Settings::resolve(&layers(keys).unwrap()).unwrap();
    let chooser = Arc::new(Chooser::default());
    let running = settings(&[]);
    let built = daemon::build(&running, &chooser).unwrap();
    let control = built[0].parts.control.clone();
    let mut fleet = Fleet::new(running, &built, chooser);
    let new = settings(&[
        ("overlay.classes", "[\"class1\"]"),
        ("overlay.colors", "{ class2 = \"#0102ff\" }"),
        ("masks.smooth", "0.2"),
        ("model.max_inferences_per_second", "4"),
        ("capture.width", "320"),
        ("access.max_bitrate_kbps", "900"),
    ]);
    let prepared = fleet.prepare(new).unwrap();
    assert_eq!(control.looks().overlay.shown, None, "nothing has changed yet");
    let restart = fleet.apply(prepared).unwrap();
    assert_eq!(restart, ["segd: [capture]", "access.max_bitrate_kbps"]);
    assert_eq!(control.looks().overlay.shown, Some(vec![1]));
    assert_eq!(control.looks().colored()[2].color, [1, 2, 255]);
    assert_eq!(control.schedule().unwrap().smooth.strength, 0.2);
    assert_eq!(control.infer_interval().as_millis(), 250);
    // What was named once is not named again.
    let same = settings(&[("capture.width", "320"), ("access.max_bitrate_kbps", "900")]);
    let prepared = fleet.prepare(same).unwrap();
    assert_eq!(fleet.apply(prepared).unwrap(), [""; 0]);
    assert_eq!(control.looks().overlay.shown, None);
}
