//! Events and states over MQTT, with a broker of the system's packages.

#![cfg(all(feature = "tract", feature = "gstreamer"))]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/onnx.rs"]
mod onnx;
#[path = "common/schema.rs"]
mod schema;

use daemon::{Daemon, free_port, wait_for};
use onnx::Tiny;

const LIMIT: Duration = Duration::from_secs(60);

/// A broker; killed when dropped.
struct Broker {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Broker {
    fn start(port: u16, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\npersistence false\nuser root\n{more}\n");
        std::fs::write(&config, text).unwrap();
        let broker = ["mosquitto", "/usr/sbin/mosquitto"]
            .into_iter()
            .find_map(|program| {
                let mut command = Command::new(program);
                command
                    .arg("-c")
                    .arg(&config)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                command.spawn().ok()
            });
        let broker = Self {
            child: broker.expect("mosquitto is installed: scripts/deps.sh test"),
            port,
            folder,
        };
        wait_for("the broker", LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        broker
    }

    fn stop(mut self) -> u16 {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap();
        self.port
    }

    fn publish(&self, topic: &str, payload: &str) {
        let status = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1"])
            .args(["-t", topic, "-m", payload])
            .status()
            .expect("mosquitto-clients is installed: scripts/deps.sh test");
        assert!(status.success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(self.folder.path().exists());
    }
}

/// A message: whether it was retained, its topic and its payload.
type Message = (bool, String, String);

/// Reads all topics from now on.
struct Reader {
    child: Child,
    messages: Arc<Mutex<Vec<Message>>>,
}

impl Reader {
    fn new(port: u16) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1"])
            .args(["-t", "#", "-T", "segd/segd/snapshot", "-F", "%r %t %p"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto-clients is installed: scripts/deps.sh test");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let seen = messages.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut parts = line.splitn(3, ' ');
                let retained = parts.next() == Some("1");
                let topic = parts.next().unwrap_or_default().to_owned();
                let payload = parts.next().unwrap_or_default().to_owned();
                seen.lock().unwrap().push((retained, topic, payload));
            }
        });
        Self { child, messages }
    }

    /// Payloads on a topic, in their order.
    fn on(&self, topic: &str) -> Vec<String> {
        let messages = self.messages.lock().unwrap();
        let on_topic = messages.iter().filter(|(_, t, _)| t == topic);
        on_topic.map(|(.., payload)| payload.clone()).collect()
    }

    fn last(&self, topic: &str) -> String {
        self.on(topic).pop().unwrap_or_default()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        wait_for(what, LIMIT, || ready(self));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CLASSES: &str = "classes = [\"class0\", \"class1\", \"class2\", \"class3\"]\n";

fn config(model: &Path, port: u16, more: &str) -> String {
    format!(
        "[capture]\ninput = \"test://?width=128&height=96&fps=20\"\n[model]\nname = {:?}\nbackend = \"tract\"\n[mqtt]\nurl = \
         \"mqtt://127.0.0.1:{port}\"\n[[zone]]\nname = \"all\"\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\n{CLASSES}{more}",
        model.display()
    )
}

/// A zone in which something is.
fn zone(name: &str) -> String {
    format!("[[zone]]\nname = \"{name}\"\npolygon = [[0, 0], [1, 0], [1, 1]]\n{CLASSES}")
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(folder.path());
    folder
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn states_are_there_for_who_comes_later_and_the_will_is_told_after_a_kill() {
    let broker = Broker::start(free_port(), "allow_anonymous true");
    let early = Reader::new(broker.port);
    let model = model();
    let mut daemon = Daemon::start(&config(model.path(), broker.port, ""));
    early.wait_for("an event", |r| !r.on("segd/segd/event").is_empty());
    let event = json(&early.on("segd/segd/event")[0]);
    assert_eq!(schema::faults(&schema::of_events(), &event, "event"), [""; 0]);
    let class = event["class"].as_str().unwrap().to_owned();
    let topic = format!("segd/segd/all/{class}");
    early.wait_for("its state", |r| r.last(&topic).contains("\"occupied\":true"));

    let late = Reader::new(broker.port);
    late.wait_for("all states", |r| {
        !r.on(&topic).is_empty()
            && !r.on("segd/segd/state").is_empty()
            && !r.on("segd/segd/classes").is_empty()
            // It is told before the first picture, and again once zones are known.
            && r.last("homeassistant/device/segd/config").contains("_occupancy")
    });
    assert_eq!(late.last("segd/availability"), "online");
    assert_eq!(late.last("segd/segd/enabled"), "ON");
    assert_eq!(json(&late.last(&topic))["occupied"], true);
    assert!(json(&late.last("segd/segd/state"))["troubles"].is_array());
    assert_eq!(late.on("segd/segd/event"), [""; 0], "events are not retained");
    let first = late.messages.lock().unwrap()[0].clone();
    assert!(first.0, "{first:?}");

    let discovery = json(&late.last("homeassistant/device/segd/config"));
    let parts = discovery["components"].as_object().unwrap();
    let occupancy = &parts[&format!("segd_segd_all_{class}_occupancy")];
    assert_eq!(occupancy["platform"], "binary_sensor");
    assert_eq!(occupancy["state_topic"], topic.as_str());
    let kinds: BTreeSet<&str> = parts.values().map(|p| p["platform"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["binary_sensor", "camera", "sensor", "switch"])
    );

    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    late.wait_for("the will", |r| r.last("segd/availability") == "offline");
    let after = Reader::new(broker.port);
    after.wait_for("the will, retained", |r| r.last("segd/availability") == "offline");
}

#[test]
fn commands_are_obeyed_and_home_assistant_is_told_again_when_it_starts() {
    let broker = Broker::start(free_port(), "allow_anonymous true");
    let model = model();
    let daemon = Daemon::start(&config(model.path(), broker.port, ""));
    let reader = Reader::new(broker.port);
    reader.wait_for("states", |r| !r.on("segd/segd/classes").is_empty());
    let occupied = |r: &Reader| {
        let messages = r.messages.lock().unwrap();
        let mut zones = messages
            .iter()
            .filter(|(_, t, _)| t.starts_with("segd/segd/all/"));
        zones
            .next_back()
            .map(|(.., payload)| json(payload)["occupied"].clone())
    };
    broker.publish("segd/segd/enabled/set", "off");
    broker.publish("segd/segd/enabled/set", "OFF");
    reader.wait_for("the switch", |r| r.last("segd/segd/enabled") == "OFF");
    reader.wait_for("nothing known", |r| occupied(r) == Some(serde_json::Value::Null));
    broker.publish("segd/segd/enabled/set", "ON");
    reader.wait_for("the switch", |r| r.last("segd/segd/enabled") == "ON");

    broker.publish("segd/segd/classes/set", "class2, class1");
    reader.wait_for("the classes", |r| r.last("segd/segd/classes") == "class1,class2");
    assert_eq!(
        daemon.status()["cameras"][0]["classes_shown"],
        serde_json::json!(["class2", "class1"])
    );
    broker.publish("segd/segd/classes/set", "unicorn");
    wait_for("the refusal", LIMIT, || {
        daemon.log().contains("no class \"unicorn\"")
    });
    assert_eq!(reader.last("segd/segd/classes"), "class1,class2");

    let announced = |r: &Reader| r.on("homeassistant/device/segd/config").len();
    let before = announced(&reader);
    broker.publish("homeassistant/status", "online");
    reader.wait_for("another announcement", |r| announced(r) > before);

    // A zone that comes is announced, one that goes is removed, and so are its retained states.
    daemon.configure(&config(model.path(), broker.port, &zone("new")));
    daemon.signal("-HUP");
    let config_of = |r: &Reader| r.last("homeassistant/device/segd/config");
    reader.wait_for("the zone", |r| config_of(r).contains("segd_segd_new_class1_area"));
    daemon.configure(&config(model.path(), broker.port, ""));
    daemon.signal("-HUP");
    reader.wait_for("its removal", |r| {
        json(&config_of(r))["components"]["segd_segd_new_class1_area"]
            == serde_json::json!({"platform": "sensor"})
    });
    reader.wait_for("its last state", |r| r.last("segd/segd/new/class1").is_empty());

    let (code, _) = daemon.stop(Duration::from_secs(10));
    assert_eq!(code, Some(0));
    reader.wait_for("a goodbye", |r| r.last("segd/availability") == "offline");
}

#[test]
fn a_broker_that_comes_back_gets_what_it_missed_once() {
    let broker = Broker::start(free_port(), "allow_anonymous true");
    let model = model();
    let daemon = Daemon::start(&config(model.path(), broker.port, ""));
    let before = Reader::new(broker.port);
    before.wait_for("states", |r| !r.on("segd/segd/classes").is_empty());
    wait_for("the first events", LIMIT, || {
        daemon.status()["events"]["sinks"][0]["delivered"].as_u64() > Some(0)
    });
    let port = broker.stop();
    wait_for("the trouble", LIMIT, || {
        let (code, text) = daemon.get("/healthz");
        code == 503 && text.contains(&format!("events: mqtt mqtt://127.0.0.1:{port}"))
    });
    // What happens meanwhile.
    let frames = || daemon.metric("segd_frames_composed_total{camera=\"segd\"}");
    let started = |name: &str| {
        let sample =
            format!("segd_events_total{{camera=\"segd\",place=\"{name}\",rule=\"presence\",type=\"start\"}}");
        daemon.get("/metrics").1.contains(&sample)
    };
    for name in ["one", "two"] {
        daemon.configure(&config(model.path(), port, &zone(name)));
        daemon.signal("-HUP");
        wait_for("a start", LIMIT, || started(name));
    }
    let at = frames();
    wait_for("frames", LIMIT, || frames() > at + 5.0);
    drop(before);

    let _broker = Broker::start(port, "allow_anonymous true");
    let reader = Reader::new(port);
    wait_for("it works again", LIMIT, || daemon.get("/healthz").0 == 200);
    // Whoever subscribes after segd has connected may have missed events: count what the sink has delivered.
    wait_for("all events", LIMIT, || {
        let status = daemon.status();
        status["events"]["sinks"][0]["delivered"] == status["events"]["count"]
    });
    assert_eq!(daemon.status()["events"]["sinks"][0]["lost"], 0);
    reader.wait_for("states", |r| r.last("segd/availability") == "online");
    let all = reader.on("segd/segd/event");
    let distinct: BTreeSet<(String, String)> = all
        .iter()
        .map(|text| json(text))
        .map(|e| (e["id"].to_string(), e["type"].to_string()))
        .collect();
    assert_eq!(distinct.len(), all.len(), "nothing comes twice");
}

#[test]
fn a_broker_that_refuses_the_password_is_named() {
    let broker = Broker::start(free_port(), "allow_anonymous false");
    let model = model();
    let daemon = Daemon::start(&config(model.path(), broker.port, ""));
    wait_for("the trouble", LIMIT, || {
        let (code, text) = daemon.get("/healthz");
        code == 503 && text.contains("mqtt.user and mqtt.password")
    });
    assert!(!daemon.log().contains("panicked"));
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let out = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Makes `NAME.pem`, which may sign others, and its key.
fn make_authority(folder: &Path, name: &str) {
    let subject = format!("/CN={name}");
    let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
    let new = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let mut arguments = vec![
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        &subject,
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    arguments.extend(new);
    openssl(folder, &arguments);
}

#[test]
fn a_broker_over_tls_is_reached_by_its_name_and_its_certificate_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    make_authority(folder.path(), "ours");
    make_authority(folder.path(), "theirs");
    openssl(
        folder.path(),
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=broker",
            "-keyout",
            "broker.key",
            "-out",
            "broker.csr",
        ],
    );
    std::fs::write(folder.path().join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        folder.path(),
        &[
            "x509",
            "-req",
            "-in",
            "broker.csr",
            "-CA",
            "ours.pem",
            "-CAkey",
            "ours.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "names",
            "-out",
            "broker.pem",
        ],
    );
    let plain = free_port();
    let broker = Broker::start(
        free_port(),
        &format!(
            "certfile {}\nkeyfile {}\nlistener {plain} 127.0.0.1\nallow_anonymous true",
            at("broker.pem"),
            at("broker.key")
        ),
    );
    let reader = Reader::new(plain);
    let model = model();
    let config = |host: &str, authority: &str| {
        let text = config(model.path(), broker.port, "");
        let over_tls = format!("mqtts://{host}:{}\"\nca = \"{}\"", broker.port, at(authority));
        text.replace(&format!("mqtt://127.0.0.1:{}\"", broker.port), &over_tls)
    };
    // Each is taken by a reload, while the camera runs.
    let daemon = Daemon::start(&config("127.0.0.1", "ours.pem"));
    let troubled = |what: &str| {
        wait_for(what, LIMIT, || {
            let (code, text) = daemon.get("/healthz");
            code == 503 && text.contains(what)
        });
    };
    troubled("not valid for name");
    daemon.configure(&config("localhost", "theirs.pem"));
    daemon.signal("-HUP");
    troubled("mqtts://localhost");
    troubled("mqtt.ca must name");
    assert_eq!(
        reader.on("segd/availability"),
        [""; 0],
        "nothing is said to a stranger"
    );
    daemon.configure(&config("localhost", "ours.pem"));
    daemon.signal("-HUP");
    reader.wait_for("a state over TLS", |r| r.last("segd/availability") == "online");
    wait_for("all is well", LIMIT, || daemon.get("/healthz").0 == 200);
    // A sink that is no longer named says goodbye.
    let text = config("localhost", "ours.pem");
    let (before, after) = (text.find("[mqtt]").unwrap(), text.find("[[zone]]").unwrap());
    daemon.configure(&format!("{}{}", &text[..before], &text[after..]));
    daemon.signal("-HUP");
    reader.wait_for("a goodbye", |r| r.last("segd/availability") == "offline");
    assert_eq!(daemon.status()["events"]["sinks"], serde_json::json!([]));
}
