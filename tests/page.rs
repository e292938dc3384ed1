//! The page in a real browser, and what lies behind it through the binary.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod browser;
    pub mod daemon;
    pub mod onnx;
}

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::browser::Browser;
use common::daemon::{Daemon, free_port, make_certificate, small, wait_for};
use common::onnx::Tiny;
use segd::output::access::User;

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=320&height=240&fps=25";

fn page(daemon: &Daemon) -> String {
    format!("http://127.0.0.1:{}/", daemon.http)
}

/// Waits until the live picture changes.
#[track_caller]
fn moves(browser: &Browser) {
    let first = std::cell::RefCell::new(None);
    wait_for("a picture that moves", 30 * SECOND, || {
        let now = browser.picture();
        let mut first = first.borrow_mut();
        match (&*first, now) {
            (Some(before), Some(now)) => *before != now,
            (None, now) => {
                *first = now;
                false
            }
            _ => false,
        }
    });
}

const WAY: &str = "return document.querySelector('[data-is=way]')?.textContent";

#[test]
fn video_moves_in_each_way_and_the_page_fits_a_phone() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let daemon = Daemon::start(&small(PATTERN));
    for way in ["WebRTC", "MSE", "JPEG"] {
        browser.resize(1280, 900);
        browser.open(&format!("{}?way={way}", page(&daemon)));
        browser.wait_for(way, 30 * SECOND, &format!("{WAY} === '{way}'"));
        moves(&browser);
        wait_for("one viewer", 10 * SECOND, || {
            daemon.metric("segd_clients{camera=\"segd\"}") == 1.0
        });
        browser.wait_for(
            "its health",
            10 * SECOND,
            "return document.getElementById('health').textContent === 'All is well.'",
        );
        browser.wait_for(
            "its rate",
            10 * SECOND,
            "return parseFloat(document.querySelector('[data-is=fps]').textContent) > 5",
        );
        browser.wait_for(
            "what is seen",
            10 * SECOND,
            "return document.querySelector('.seen li:not(.none)')?.textContent",
        );
        browser.screenshot(&format!("desktop-{way}.png"));
        browser.resize(390, 844);
        let fits = "return document.documentElement.scrollWidth <= 390";
        assert_eq!(browser.run(fits), true, "nothing to scroll sideways");
        browser.screenshot(&format!("phone-{way}.png"));
    }
    // With all ways open the best one is taken.
    browser.open(&page(&daemon));
    browser.wait_for("WebRTC", 30 * SECOND, &format!("{WAY} === 'WebRTC'"));
    moves(&browser);
    assert_eq!(daemon.metric("segd_encoders{camera=\"segd\"}"), 1.0);
    browser.open("about:blank");
    wait_for("no viewer", 40 * SECOND, || {
        daemon.metric("segd_clients{camera=\"segd\"}") == 0.0
    });
    wait_for("no encoder", 10 * SECOND, || {
        daemon.metric("segd_encoders{camera=\"segd\"}") == 0.0
    });
}

#[test]
fn without_its_udp_port_the_page_falls_back() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let daemon = Daemon::spawn(&small(PATTERN), free_port(), &[("SEGD_HEALTH_WEBRTC_PORT", "0")]);
    wait_for("ready", 90 * SECOND, || daemon.get("/readyz").0 == 200);
    browser.open(&page(&daemon));
    browser.wait_for("MSE", 30 * SECOND, &format!("{WAY} === 'MSE'"));
    moves(&browser);
}

#[test]
fn a_class_is_switched_off_and_its_colour_is_gone() {
    let Some(browser) = Browser::start() else {
        return;
    };
    // All that the network takes for the ground is painted with its colour, nothing shines through.
    let model = tempfile::tempdir().unwrap();
    Tiny::default().write(model.path());
    let folder = model.path().display();
    let daemon = Daemon::start(&format!(
        "[capture]\ninput = \"{PATTERN}\"\n[model]\nname = \"{folder}\"\nbackend = \"tract\"\n[overlay]\nvisualize = \"mask\"\n\
         legend = false\n"
    ));
    browser.open(&page(&daemon));
    moves(&browser);
    let coloured = |picture: &[u8]| {
        let pixels = picture.chunks_exact(4);
        pixels.filter(|p| p[..3].iter().any(|v| *v > 60)).count()
    };
    wait_for("colours", 60 * SECOND, || {
        browser.picture().is_some_and(|p| coloured(&p) > 20)
    });
    browser.run("document.querySelector('.controls summary').click()");
    browser.wait_for(
        "the controls",
        10 * SECOND,
        "return document.querySelectorAll('[name=class]').length > 0",
    );
    browser.screenshot("desktop-controls.png");
    browser.resize(390, 844);
    assert_eq!(
        browser.run("return document.documentElement.scrollWidth <= 390"),
        true
    );
    browser.screenshot("phone-controls.png");
    // By keyboard: the focus stands on each box in turn, and the space bar switches it.
    browser.run("document.querySelector('[name=class]:checked').focus()");
    let boxes = "return document.querySelectorAll('[name=class]:checked').length";
    while browser.run(boxes) != 0 {
        browser.type_keys(" ");
        browser.run("document.querySelector('[name=class]:checked')?.focus()");
    }
    wait_for("no colour", 10 * SECOND, || {
        browser.picture().is_some_and(|p| coloured(&p) == 0)
    });
    assert_eq!(
        daemon.status()["cameras"][0]["classes_shown"],
        serde_json::json!([])
    );
    // What differs from the file is said, saved, and read again.
    browser.wait_for(
        "the difference",
        10 * SECOND,
        "return document.querySelector('.said').textContent.includes('overlay.classes')",
    );
    browser.run("document.querySelector('[name=save]').click()");
    browser.wait_for(
        "saved",
        10 * SECOND,
        "return document.querySelector('.said').textContent.startsWith('Saved in ')",
    );
    let file = std::fs::read_to_string(daemon.config()).unwrap();
    assert!(file.contains("classes = []"), "{file}");
    // A mistake is said beside its field.
    browser.run(
        "const alpha = document.getElementById('alpha'); alpha.type = 'text'; alpha.value = 7;
         alpha.dispatchEvent(new Event('input'))",
    );
    let said = browser.wait_for(
        "the mistake",
        10 * SECOND,
        "return document.querySelector('.mistake')?.textContent",
    );
    assert!(
        said.as_str()
            .unwrap()
            .contains("overlay.alpha = 7, expected 0 to 1"),
        "{said}"
    );
}

#[test]
fn colours_masks_and_the_model_change_while_it_runs() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let models = tempfile::tempdir().unwrap();
    let write = |name: &str, tiny: Tiny| {
        let folder = models.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        tiny.write(&folder);
        let contract = folder.join("contract.toml");
        let text = std::fs::read_to_string(&contract).unwrap();
        let own = text.lines().find(|line| line.starts_with("name = ")).unwrap();
        std::fs::write(&contract, text.replacen(own, &format!("name = \"{name}\""), 1)).unwrap();
    };
    let other = Tiny {
        shift: 1,
        ..Tiny::default()
    };
    let broken = Tiny {
        unknown_operator: true,
        ..Tiny::default()
    };
    write("one", Tiny::default());
    write("two", other);
    write("broken", broken);
    let config = format!(
        "[capture]\ninput = \"{PATTERN}\"\n[model]\nname = \"one\" # the first\nbackend = \"tract\"\n[overlay]\nvisualize = \
         \"mask\"\nlegend = false\n"
    );
    let env = [("SEGD_MODELS", models.path().to_str().unwrap())];
    let daemon = Daemon::spawn(&config, free_port(), &env);
    wait_for("ready", 90 * SECOND, || daemon.get("/readyz").0 == 200);
    let controls = || -> serde_json::Value { serde_json::from_str(&daemon.get("/controls").1).unwrap() };
    browser.resize(1280, 900);
    browser.open(&page(&daemon));
    moves(&browser);
    browser.run("document.querySelector('.controls summary').click()");
    browser.wait_for(
        "the controls",
        10 * SECOND,
        "return document.querySelector('[name=color]') && document.querySelector('.card dd')",
    );
    // All that is drawn becomes green.
    browser.run(
        "for (const ink of document.querySelectorAll('[name=color]')) {
             ink.value = '#00ff00'; ink.dispatchEvent(new Event('input'));
         }",
    );
    let (green, other) = (
        |p: &[u8]| p[1] > 120 && p[0] < 100,
        |p: &[u8]| p[0] > 120 || p[2] > 120,
    );
    wait_for("green alone", 30 * SECOND, || {
        browser.picture().is_some_and(|picture| {
            let pixels = || picture.chunks_exact(4);
            pixels().filter(|p| green(p)).count() > 20 && !pixels().any(other)
        })
    });
    // How masks are made.
    let set = |field: &str, value: &str, event: &str| {
        browser.run(&format!(
            "const field = document.getElementById('{field}'); field.value = '{value}';
             field.dispatchEvent(new Event('{event}'))"
        ));
    };
    set("smooth", "0.8", "input");
    set("every", "3", "change");
    wait_for("the schedule", 10 * SECOND, || {
        let masks = &controls()["masks"];
        (&masks["smooth"], &masks["every"]) == (&0.8.into(), &3.into())
    });
    wait_for("keys at a fixed rate", 10 * SECOND, || {
        let status = daemon.status();
        let asked = status["cameras"][0]["figures"]["asked"].as_array().unwrap();
        asked
            .iter()
            .any(|reason| reason[0] == "every" && reason[1].as_u64() > Some(2))
    });
    set("every", "0", "change");
    let said = browser.wait_for(
        "the mistake beside its field",
        10 * SECOND,
        "return document.querySelector('#every ~ .mistake')?.textContent",
    );
    assert!(
        said.as_str().unwrap().contains("masks.every = 0, expected 1"),
        "{said}"
    );
    assert_eq!(browser.run(NAMELESS), serde_json::json!([]));
    browser.screenshot("desktop-controls-all.png");

    // A model that can't be run leaves the other one running; one that can takes over.
    let load = |name: &str| {
        browser.run(&format!(
            "const model = document.getElementById('model'); model.value = '{name}'; model.dispatchEvent(new Event('change'));
             document.querySelector('[name=load-model]').click()"
        ));
    };
    let told = |words: &str| {
        browser.wait_for(
            words,
            60 * SECOND,
            &format!("return document.querySelector('.model .told').textContent.includes({words:?})"),
        );
    };
    load("broken");
    told("broken could not be loaded, one goes on");
    assert_eq!(controls()["model"], "one");
    browser.resize(390, 844);
    assert_eq!(browser.run(FITS), true);
    browser.screenshot("phone-controls-all.png");
    load("two");
    told("two runs.");
    browser.wait_for(
        "its classes",
        10 * SECOND,
        "return document.querySelector('.classes legend').textContent.includes('two')",
    );
    assert_eq!(controls()["model"], "two");
    wait_for("green alone", 30 * SECOND, || {
        browser
            .picture()
            .is_some_and(|picture| !picture.chunks_exact(4).any(other))
    });
    let unsaved = controls()["unsaved"].clone();
    assert_eq!(
        unsaved,
        serde_json::json!(["model.name", "overlay.colors", "masks.smooth", "masks.every"])
    );
    browser.wait_for(
        "the difference",
        10 * SECOND,
        "return document.querySelector('.saving pre').textContent.includes('+ name = \"two\" # the first')",
    );
    browser.run("document.querySelector('[name=save]').click()");
    browser.wait_for(
        "saved",
        10 * SECOND,
        "return document.querySelector('.said').textContent.startsWith('Saved in ')",
    );
    assert_eq!(controls()["unsaved"], serde_json::json!([]));
    // A start, or a reload, comes to the same.
    daemon.signal("-HUP");
    wait_for("taken", 60 * SECOND, || {
        daemon.metric("segd_reloads_total{result=\"taken\"}") == 1.0
    });
    let after = controls();
    assert_eq!(
        (&after["model"], &after["unsaved"]),
        (&"two".into(), &serde_json::json!([]))
    );
}

/// What is watched, by its name.
fn watched(daemon: &Daemon, name: &str) -> Option<serde_json::Value> {
    let told: serde_json::Value = serde_json::from_str(&daemon.get("/zones").1).unwrap();
    let mut all = told["zones"].as_array()?.iter().chain(told["lines"].as_array()?);
    all.rfind(|place| place["name"] == name).cloned()
}

/// Waits until the editor has said something.
#[track_caller]
fn says(browser: &Browser, words: &str) {
    browser.wait_for(
        words,
        10 * SECOND,
        &format!("return document.querySelector('.told')?.textContent.includes({words:?})"),
    );
}

/// Opens the editor, and begins a zone or a line.
fn draw(browser: &Browser, daemon: &Daemon, kind: &str) {
    browser.open(&page(daemon));
    moves(browser);
    browser.run("document.querySelector('.places summary').click()");
    let button = format!("document.querySelector('[name=add-{kind}]')");
    browser.wait_for("the list", 10 * SECOND, &format!("return {button} !== null"));
    browser.run(&format!("{button}.focus()"));
    browser.type_keys("\u{E007}");
    browser.wait_for(
        "the focus on the picture",
        10 * SECOND,
        "return document.activeElement.classList.contains('board')",
    );
}

/// Controls that are shown and that no screen reader could name.
const NAMELESS: &str = "return [...document.querySelectorAll('input, select, button, summary, [tabindex]')]
    .filter((one) => one.checkVisibility() && !one.labels?.length && !one.ariaLabel && !one.textContent.trim())
    .map((one) => one.outerHTML)";

const FITS: &str = "return document.documentElement.scrollWidth <= 390";

#[test]
fn a_zone_is_drawn_by_keyboard_put_in_force_and_saved() {
    const SHIFT: char = '\u{E008}';
    const CTRL: char = '\u{E009}';
    const LEFT: char = '\u{E012}';
    const UP: char = '\u{E013}';
    const RIGHT: char = '\u{E014}';
    const DOWN: char = '\u{E015}';
    let Some(browser) = Browser::start() else {
        return;
    };
    let daemon = Daemon::start(&small(PATTERN));
    browser.resize(1280, 900);
    draw(&browser, &daemon, "zone");
    // The corners in an order in which the border crosses itself.
    browser.type_keys("a");
    says(&browser, "Point 1 of 1: 50 % across, 50 % down.");
    browser.type_holding(SHIFT, LEFT, 4);
    browser.type_holding(SHIFT, UP, 4);
    says(&browser, "30 % across, 30 % down.");
    browser.type_keys("a");
    browser.type_holding(SHIFT, RIGHT, 6);
    browser.type_holding(SHIFT, DOWN, 8);
    browser.type_keys("a");
    browser.type_keys(&LEFT.to_string().repeat(10));
    browser.type_holding(SHIFT, UP, 8);
    browser.type_keys("a");
    browser.type_holding(SHIFT, LEFT, 10);
    browser.type_holding(SHIFT, DOWN, 8);
    browser.type_holding(CTRL, LEFT, 1);
    says(&browser, "Point 4 of 4: 29.9 % across, 70 % down.");
    browser.type_holding(CTRL, RIGHT, 1);
    browser.type_keys("c");
    says(&browser, "Closed: 4 points.");
    browser.run("document.querySelector('.places [name=name]').focus()");
    browser.type_keys("drive\u{E007}");
    let mistake = browser.wait_for(
        "the mistake beside the points",
        10 * SECOND,
        "return document.querySelector('.points .mistake')?.textContent",
    );
    assert!(
        mistake
            .as_str()
            .unwrap()
            .starts_with("zone drive: polygon: the border crosses itself")
    );
    assert_eq!(
        browser.run("return document.activeElement.getAttribute('aria-invalid')"),
        "true",
        "the picture has the focus again"
    );
    assert_eq!(watched(&daemon, "drive"), None);
    browser.screenshot("desktop-zone-refused.png");
    browser.resize(390, 844);
    assert_eq!(browser.run(FITS), true);
    browser.screenshot("phone-zone-refused.png");
    browser.resize(1280, 900);
    browser.type_keys("p");
    says(&browser, "Point 3 of 4");
    browser.type_holding(SHIFT, DOWN, 8);
    browser.type_keys("p");
    browser.type_holding(SHIFT, UP, 8);
    // Another mistake stands beside its own field.
    browser.run("const field = document.querySelector('[name=enter]'); field.value = 7; field.focus()");
    browser.type_keys("\u{E007}");
    let mistake = browser.wait_for(
        "the mistake beside its field",
        10 * SECOND,
        "return document.querySelector('[name=enter] ~ .mistake')?.textContent",
    );
    assert!(
        mistake
            .as_str()
            .unwrap()
            .starts_with("zone drive: enter = 7, expected 0 to 1")
    );
    browser
        .run("document.querySelector('[name=enter]').value = 0.02; document.querySelector('.board').focus()");
    browser.type_keys("\u{E007}");
    says(&browser, "The zone drive is in force.");
    let zone = serde_json::json!({
        "name": "drive", "enter": 0.02, "polygon": [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]],
    });
    assert_eq!(watched(&daemon, "drive").unwrap(), zone);
    wait_for("what is in it", 30 * SECOND, || {
        let told: serde_json::Value = serde_json::from_str(&daemon.get("/zones").1).unwrap();
        told["now"]
            .as_array()
            .unwrap()
            .iter()
            .any(|known| known["zone"] == "drive")
    });
    // The difference is shown before it is saved.
    let before = std::fs::read_to_string(daemon.config()).unwrap();
    assert!(!before.contains("drive"));
    browser.wait_for(
        "the difference",
        10 * SECOND,
        "return document.querySelector('.said').textContent.includes('zone drive')
             && document.querySelector('.saving pre').textContent.includes('+ name = \"drive\"')",
    );
    browser.screenshot("desktop-zone.png");
    browser.resize(390, 844);
    assert_eq!(browser.run(FITS), true);
    browser.screenshot("phone-zone.png");
    browser.run("document.querySelector('[name=save]').click()");
    browser.wait_for(
        "saved",
        10 * SECOND,
        "return document.querySelector('.said').textContent.startsWith('Saved in ')",
    );
    let after = std::fs::read_to_string(daemon.config()).unwrap();
    assert!(after.starts_with(&before), "{after}");
    assert!(
        after.contains("[[zone]]\nname = \"drive\"\npolygon = [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]]\nenter = 0.02\n"),
        "{after}"
    );
    // Escape leaves all as it was.
    browser.run("document.querySelector('[data-edit=drive]').click()");
    browser.wait_for(
        "the editor",
        10 * SECOND,
        "return document.activeElement.classList.contains('board')",
    );
    browser.type_keys("\u{E017}\u{E017}\u{E00C}");
    says(&browser, "Cancelled");
    assert_eq!(watched(&daemon, "drive").unwrap(), zone);
    assert_eq!(browser.run("return document.activeElement.dataset.edit"), "drive");
}

#[test]
fn a_line_is_drawn_by_finger_and_a_zone_by_mouse() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let daemon = Daemon::start(&small(PATTERN));
    let at = |x: f64, y: f64| {
        let rect = browser.run(
            "const at = document.querySelector('.board').getBoundingClientRect();
             return [at.left, at.top, at.width, at.height]",
        );
        let side = |index: usize| rect[index].as_f64().unwrap();
        (side(0) + x * side(2), side(1) + y * side(3))
    };
    let apply = |name: &str, kind: &str| {
        browser.run(&format!(
            "document.querySelector('.places [name=name]').value = '{name}'; document.querySelector('.places form').requestSubmit()"
        ));
        says(&browser, &format!("The {kind} {name} is in force."));
    };
    let is_near = |point: &serde_json::Value, x: f64, y: f64| {
        let off = |index: usize, wanted: f64| (point[index].as_f64().unwrap() - wanted).abs();
        off(0, x) < 0.01 && off(1, y) < 0.01
    };
    browser.resize(390, 844);
    draw(&browser, &daemon, "line");
    browser.drag("touch", &[at(0.2, 0.5)]);
    says(&browser, "Point 1 of 1");
    browser.drag("touch", &[at(0.8, 0.5)]);
    says(&browser, "Point 2 of 2");
    // A third one there is not, but a point can be moved.
    browser.drag("touch", &[at(0.5, 0.9)]);
    browser.drag("touch", &[at(0.8, 0.5), at(0.7, 0.4), at(0.6, 0.3)]);
    says(&browser, "Point 2 of 2");
    assert_eq!(browser.run(FITS), true);
    assert_eq!(browser.run(NAMELESS), serde_json::json!([]));
    browser.screenshot("phone-line.png");
    apply("gate", "line");
    let gate = watched(&daemon, "gate").unwrap();
    assert!(
        is_near(&gate["points"][0], 0.2, 0.5) && is_near(&gate["points"][1], 0.6, 0.3),
        "{gate}"
    );

    browser.resize(1280, 900);
    draw(&browser, &daemon, "zone");
    for (x, y) in [(0.2, 0.2), (0.8, 0.2), (0.5, 0.8)] {
        browser.drag("mouse", &[at(x, y)]);
    }
    // The first point closes the zone, and the middle of a side becomes a corner.
    browser.drag("mouse", &[at(0.2, 0.2)]);
    says(&browser, "Closed: 3 points.");
    browser.drag("mouse", &[at(0.5, 0.2), at(0.5, 0.1), at(0.5, 0.05)]);
    says(&browser, "Point 2 of 4");
    browser.screenshot("desktop-zone-drawn.png");
    apply("roof", "zone");
    let roof = watched(&daemon, "roof").unwrap();
    assert_eq!(roof["polygon"].as_array().unwrap().len(), 4);
    assert!(is_near(&roof["polygon"][1], 0.5, 0.05), "{roof}");
    assert_eq!(watched(&daemon, "gate").unwrap(), gate, "what was there stays");
    // What is deleted is gone at once.
    browser.run("document.querySelector('[aria-label=\"Delete line gate\"]').click()");
    says(&browser, "The line gate is deleted.");
    assert_eq!(watched(&daemon, "gate"), None);
}

#[test]
fn graphs_and_log_are_shown() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let daemon = Daemon::start(&small(PATTERN));
    browser.open(&page(&daemon));
    browser.wait_for(
        "the log's summary",
        30 * SECOND,
        "return !document.getElementById('log').hidden",
    );
    browser.run(
        "for (const summary of document.querySelectorAll('.graphs summary, #log summary')) summary.click()",
    );
    browser.wait_for(
        "a graph",
        30 * SECOND,
        "return document.querySelector('.graphs svg path')?.getAttribute('d')",
    );
    browser.wait_for(
        "the log",
        10 * SECOND,
        "return document.querySelector('#log pre').textContent.includes('the output is open')",
    );
    std::thread::sleep(6 * SECOND);
    browser.resize(1280, 1800);
    browser.screenshot("desktop-graphs.png");
    browser.resize(390, 844);
    assert_eq!(
        browser.run("return document.documentElement.scrollWidth <= 390"),
        true
    );
    browser.screenshot("phone-graphs.png");
}

/// What comes back for a request to the page's port.
fn ask(daemon: &Daemon, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.http)).unwrap();
    stream.set_read_timeout(Some(30 * SECOND)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn offers_that_are_none_are_refused() {
    let daemon = Daemon::start(&small(PATTERN));
    let post = |path: &str, kind: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = ask(&daemon, &(head + body));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let sdp = "application/sdp";
    let begin = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n";
    let security = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\na=mid:0\r\n\
                    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n";
    let sound = format!(
        "{begin}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\na=recvonly\r\na=rtcp-mux\r\n{security}"
    );
    for (path, kind, body, code) in [
        ("/whep/segd", sdp, "", "400"),
        ("/whep/segd", sdp, "hello", "400"),
        ("/whep/segd", sdp, begin, "400"),
        ("/whep/segd", sdp, &sound, "406"),
        ("/whep/segd", "text/plain", begin, "415"),
        ("/whep/other", sdp, begin, "404"),
    ] {
        assert_eq!(post(path, kind, body), code, "{path} {kind} {body}");
    }
    let head = "DELETE /whep/segd/0123 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(ask(&daemon, head).starts_with("HTTP/1.1 404"));
    // Nobody took a viewer's place for good.
    wait_for("no viewer", 20 * SECOND, || {
        daemon.metric("segd_clients{camera=\"segd\"}") == 0.0
    });
}

#[test]
fn the_log_in_refuses_and_admits() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let entry = User::new("ann", "open sesame").unwrap().entry();
    let users = format!("[access]\nusers = [\"{entry}\"]\n");
    let daemon = Daemon::start(&(small(PATTERN) + &users));
    browser.resize(390, 844);
    browser.open(&page(&daemon));
    let at = "return location.pathname";
    assert_eq!(browser.run(at), "/login");
    browser.screenshot("phone-login.png");
    let fill = |password: &str| {
        browser.run("document.getElementById('name').focus()");
        browser.type_keys(&format!("ann\u{E004}{password}\u{E007}"));
    };
    fill("abracadabra");
    browser.wait_for(
        "the refusal",
        10 * SECOND,
        "return document.querySelector('.refused')?.textContent",
    );
    browser.screenshot("phone-refused.png");
    fill("open sesame");
    browser.wait_for("the page", 10 * SECOND, "return location.pathname === '/'");
    browser.wait_for(
        "the user",
        10 * SECOND,
        "return document.getElementById('user').textContent === 'ann'",
    );
    moves(&browser);
    assert_eq!(
        browser.run("return document.cookie"),
        "",
        "no script reads the session"
    );
    browser.run("document.querySelector('#logout button').click()");
    browser.wait_for("the log-in", 10 * SECOND, "return location.pathname === '/login'");
    browser.open(&page(&daemon));
    assert_eq!(browser.run(at), "/login");
}

/// What a client over TLS is shown and answered.
fn ask_over_tls(daemon: &Daemon, request: &str) -> String {
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-ign_eof",
            "-connect",
            &format!("127.0.0.1:{}", daemon.http),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client
        .stdin
        .take()
        .unwrap()
        .write_all(request.as_bytes())
        .unwrap();
    let output = client.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn one_port_speaks_http_and_https_and_renews_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    make_certificate(&file("tls.crt"), &file("tls.key"), "first");
    let entry = User::new("ann", "open sesame").unwrap().entry();
    let at = folder.path().display();
    let tls =
        format!("[access]\nusers = [\"{entry}\"]\ncertificate = \"{at}/tls.crt\"\nkey = \"{at}/tls.key\"\n");
    let daemon = Daemon::start(&(small(PATTERN) + &tls));
    // Plain HTTP goes on for programs of this machine.
    assert_eq!(daemon.get("/healthz").0, 200);
    let form = "name=ann&password=open%20sesame";
    let length = form.len();
    let log_in = format!(
        "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n{form}"
    );
    let plain = ask(&daemon, &log_in);
    assert!(
        plain.starts_with("HTTP/1.1 303") && !plain.contains("Secure"),
        "{plain}"
    );
    let secure = ask_over_tls(&daemon, &log_in);
    assert!(
        secure.contains("HTTP/1.1 303") && secure.contains("SameSite=Strict; Secure"),
        "{secure}"
    );
    assert!(
        secure.contains("CN = first") || secure.contains("CN=first"),
        "{secure}"
    );
    make_certificate(&file("new.crt"), &file("new.key"), "second");
    std::fs::rename(file("new.key"), file("tls.key")).unwrap();
    std::fs::rename(file("new.crt"), file("tls.crt")).unwrap();
    wait_for("the new certificate", 30 * SECOND, || {
        let shown = ask_over_tls(&daemon, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        shown.contains("CN = second") || shown.contains("CN=second")
    });
}
