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
