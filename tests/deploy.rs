//! What deploy/ says of segd is so: names of metrics, commands, files.

#![cfg(all(feature = "tract", feature = "gstreamer", feature = "embed-model"))]

#[path = "common/daemon.rs"]
mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use daemon::{Daemon, free_port, small};
use predicates::str::contains;
use segd::config::{Layer, Layers, Settings, from_environment};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The families of a daemon's metrics with their kinds, and the labels of each sample's name.
struct Metrics {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let (mut kinds, mut labels) = (BTreeMap::new(), BTreeMap::<String, BTreeSet<String>>::new());
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, rest) = line.split_once(['{', ' ']).unwrap();
                let of_name = labels.entry(name.to_owned()).or_default();
                // Labels are what stands before `="`.
                let texts = rest.split("=\"").collect::<Vec<_>>();
                for before in texts.iter().take(texts.len() - 1) {
                    of_name.insert(before.rsplit(['"', ',', ' ']).next().unwrap().to_owned());
                }
            }
        }
        Self { kinds, labels }
    }

    /// The kind of the family that a sample's name belongs to.
    fn kind_of(&self, name: &str) -> Option<&str> {
        if let Some(kind) = self.kinds.get(name).filter(|kind| *kind != "histogram") {
            return Some(kind);
        }
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))?;
        self.kinds
            .get(family)
            .filter(|kind| *kind == "histogram")
            .map(String::as_str)
    }

    /// What is wrong with an expression.
    fn faults(&self, expression: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (at, name) in words(expression) {
            if !name.starts_with("segd_") && !name.starts_with("process_") {
                continue;
            }
            let Some(kind) = self.kind_of(name) else {
                faults.push(format!("there is no metric {name}: {expression}"));
                continue;
            };
            let before = expression[..at].trim_end_matches('(');
            let function = before.rsplit(|c| !is_word(c)).next().unwrap_or_default();
            let counts = ["rate", "increase", "resets", "changes"].contains(&function);
            if counts && kind == "gauge" {
                faults.push(format!("{function} of the gauge {name}: {expression}"));
            }
            if !counts && kind == "counter" && !expression.starts_with("label_values") {
                faults.push(format!("{name} counts, and is taken as it is: {expression}"));
            }
            let matchers = expression[at + name.len()..]
                .strip_prefix('{')
                .and_then(|rest| rest.split_once('}'))
                .map_or("", |(matchers, _)| matchers);
            let Some(known) = self.labels.get(name) else {
                continue;
            };
            for label in matchers.split(',').filter_map(|m| m.split(['=', '!']).next()) {
                if !label.is_empty() && !known.contains(label) && !["job", "instance"].contains(&label) {
                    faults.push(format!("{name} has no label {label}: {expression}"));
                }
            }
        }
        faults
    }
}

/// The words of an expression with where they begin, without texts in quotes.
fn words(expression: &str) -> Vec<(usize, &str)> {
    let (mut words, mut start, mut quoted) = (Vec::new(), None, false);
    for (at, c) in expression.char_indices().chain([(expression.len(), ' ')]) {
        let is_word = !quoted && (c.is_ascii_alphanumeric() || c == '_');
        match (start, is_word) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                words.push((from, &expression[from..at]));
                start = None;
            }
            _ => {}
        }
        quoted ^= c == '"';
    }
    words
}

/// The expressions of a dashboard: of panels, variables and annotations.
fn expressions(json: &serde_json::Value, found: &mut Vec<String>) {
    match json {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&key.as_str()) => found.push(text.into()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|one| expressions(one, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_ask_for_what_the_daemon_says() {
    let events = "[events]\nfile = \"FOLDER/events.jsonl\"\n";
    let running = Daemon::start(&format!("{}{events}", small("test://")));
    let metrics = Metrics::parse(&running.get("/metrics").1);

    let mut asked = Vec::new();
    let dashboard = read("deploy/helm/segd/files/dashboard.json");
    expressions(&serde_json::from_str(&dashboard).unwrap(), &mut asked);
    assert!(asked.len() > 25, "the dashboard has {} expressions", asked.len());
    let alerts = read("deploy/helm/segd/files/alerts.yml");
    let of_alerts: Vec<String> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .map(str::to_owned)
        .collect();
    assert_eq!(of_alerts.len(), alerts.matches("- alert: ").count());
    assert!(of_alerts.len() > 8);
    asked.extend(of_alerts);

    let faults: Vec<String> = asked
        .iter()
        .flat_map(|expression| metrics.faults(expression))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_expression_that_asks_for_nothing_is_found() {
    let metrics = Metrics::parse(
        "# TYPE segd_a_total counter\nsegd_a_total{camera=\"x\"} 1\n# TYPE segd_b gauge\nsegd_b 1\n\
         # TYPE segd_h histogram\nsegd_h_bucket{camera=\"x\",le=\"+Inf\"} 1\nsegd_h_sum{camera=\"x\"} 1\n",
    );
    for right in [
        "sum by (camera) (rate(segd_a_total{camera=~\"$camera\",job=\"j\"}[5m]))",
        "segd_b > 3",
        "rate(segd_h_bucket{le=\"1\"}[5m])",
        "count(segd_b{job=\"segd_nothing\"})",
    ] {
        assert_eq!(metrics.faults(right), [""; 0], "{right}");
    }
    for (wrong, said) in [
        ("segd_c > 3", "no metric segd_c"),
        ("segd_h > 1", "no metric segd_h"),
        ("rate(segd_b[5m])", "of the gauge"),
        ("segd_a_total > 3", "taken as it is"),
        ("rate(segd_a_total{queue=\"q\"}[1m])", "no label queue"),
    ] {
        let faults = metrics.faults(wrong);
        assert!(
            faults.len() == 1 && faults[0].contains(said),
            "{wrong}: {faults:?}"
        );
    }
}

#[test]
fn the_images_healthcheck_asks_the_daemon() {
    let running = Daemon::start(&small("test://"));
    let address = format!("127.0.0.1:{}", running.http);
    let segd = || {
        let mut command = Command::cargo_bin("segd").unwrap();
        command.env_remove("SEGD_CONFIG");
        command
    };
    segd()
        .args(["health", "--http", &address])
        .assert()
        .success()
        .stdout("ok\n");
    // From the file that the daemon reads.
    segd()
        .args(["health", "--ready", "--config"])
        .arg(running.config())
        .assert()
        .success()
        .stdout("ready\n");
    // All addresses are reached at loopback.
    segd()
        .arg("health")
        .env("SEGD_HEALTH_LISTEN", format!("0.0.0.0:{}", running.http))
        .assert()
        .success();
    let nobody = format!("127.0.0.1:{}", free_port());
    segd()
        .args(["health", "--http", &nobody])
        .assert()
        .code(1)
        .stderr(contains("no answer from"));
    for (listen, said) in [("\"\"", "serves no HTTP"), ("8555", "ADDRESS:PORT")] {
        segd()
            .arg("health")
            .env("SEGD_HEALTH_LISTEN", listen)
            .assert()
            .code(2)
            .stderr(contains(said));
    }
    for dockerfile in ["Dockerfile", "Dockerfile.jetpack"] {
        let text = read(&format!("deploy/container/{dockerfile}"));
        assert!(text.contains("CMD [\"segd\", \"health\"]"), "{dockerfile}");
    }
}

/// What compose.yaml mounts of this repository is there.
#[test]
fn files_that_compose_mounts_exist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/container");
    let compose = read("deploy/container/compose.yaml");
    let mounted: Vec<&str> = compose
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("- ./")
                .or(line.trim().strip_prefix("- .."))
        })
        .map(|rest| rest.split(':').next().unwrap())
        .collect();
    assert!(mounted.len() > 5, "only {mounted:?}");
    for path in mounted {
        let path = match path.strip_prefix('/') {
            Some(above) => folder.join("..").join(above),
            None => folder.join(path),
        };
        assert!(path.is_file(), "there is no {}", path.display());
    }
}

/// The blocks of text after `key` in YAML, without their indentation.
fn blocks(yaml: &str, key: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() != format!("{key}: |") {
            continue;
        }
        let depth = line.len() - line.trim_start().len() + 2;
        let mut block = String::new();
        while let Some(inside) = lines.next_if(|l| l.is_empty() || l.starts_with(&" ".repeat(depth))) {
            block.push_str(inside.get(depth..).unwrap_or_default());
            block.push('\n');
        }
        blocks.push(block);
    }
    blocks
}

#[test]
fn configurations_that_the_chart_makes_are_taken() {
    for (values, groups) in [("small", 2), ("all", 4)] {
        let yaml = read(&format!("deploy/helm/rendered/{values}.yaml"));
        let files = blocks(&yaml, "segd.toml");
        assert_eq!(files.len(), groups, "{values}");
        // The chart's variables, with a user in place of the secret's, and without the certificate.
        let variable = |name: &str| {
            let after = yaml.split(&format!("- name: {name}\n")).nth(1).unwrap();
            let value = after
                .lines()
                .next()
                .unwrap()
                .trim()
                .strip_prefix("value: ")
                .unwrap();
            let value: String = serde_json::from_str(value).unwrap();
            (name.to_owned(), value.replace("rtsps://", "rtsp://"))
        };
        let environment = [
            variable("SEGD_HEALTH_LISTEN"),
            variable("SEGD_HEALTH_WEBRTC_PORT"),
            variable("SEGD_STREAM_OUTPUTS"),
            ("SEGD_ACCESS_INSECURE".into(), "true".into()),
        ];
        let mut names = BTreeSet::new();
        for text in files {
            let layers = Layers {
                file: Layer::parse(&text, values).unwrap(),
                environment: from_environment(environment.clone()).unwrap(),
                ..Layers::default()
            };
            let settings = Settings::resolve(&layers).unwrap_or_else(|e| panic!("{e}\n{text}"));
            for camera in settings.cameras {
                assert!(!camera.outputs.is_empty());
                assert!(names.insert(camera.name.clone()), "{} runs twice", camera.name);
            }
        }
        assert_eq!(names.len(), 5, "{values}");
    }
}
