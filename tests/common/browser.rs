//! A real browser, steered through chromedriver's WebDriver interface (<https://www.w3.org/TR/webdriver2/>).

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A browser with one window; closed when dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts it; `None` where there is no chromedriver, unless `SEGD_REQUIRE_BROWSER` is set.
    pub fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let driver = match driver {
            Ok(driver) => driver,
            Err(e) if std::env::var_os("SEGD_REQUIRE_BROWSER").is_some() => {
                panic!("chromedriver can't be started ({e}): install chromium and chromium-driver")
            }
            Err(e) => {
                eprintln!("NOT TESTED: chromedriver can't be started: {e}");
                return None;
            }
        };
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "chromedriver does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        let arguments = [
            "--headless=new",
            // Tests run as root in containers, where there is no sandbox and little shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--ignore-certificate-errors",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let begun = browser.ask("POST", "/session", &wanted);
        browser.session = begun["sessionId"].as_str().expect("a session").to_owned();
        browser.command("timeouts", &json!({ "script": 30_000, "pageLoad": 60_000 }));
        Some(browser)
    }

    /// One request to chromedriver; gives the answer's value.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let body = body.to_string();
        let length = body.len();
        let port = self.port;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = Vec::new();
        let length = loop {
            let mut bytes = [0; 65536];
            let count = stream.read(&mut bytes).unwrap();
            answer.extend_from_slice(&bytes[..count]);
            if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
                let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
                let length: usize = length.expect(&head).trim().parse().unwrap();
                break end + 4..end + 4 + length;
            }
            assert!(count > 0, "chromedriver hung up");
        };
        while answer.len() < length.end {
            let mut bytes = [0; 65536];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "chromedriver hung up");
            answer.extend_from_slice(&bytes[..count]);
        }
        let mut answer: Value = serde_json::from_slice(&answer[length]).unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{method} {path}: {value:#}");
        value
    }

    #[track_caller]
    fn command(&self, command: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{command}", self.session), body)
    }

    /// Opens an address.
    #[track_caller]
    pub fn open(&self, address: &str) {
        self.command("url", &json!({ "url": address }));
    }

    /// Runs the body of a JavaScript function; gives what it returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.command("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until a script returns what counts as true.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, script: &str) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let value = self.run(script);
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if Instant::now() >= deadline {
                let page = self.run("return document.body.innerText");
                let log = self.command("se/log", &json!({ "type": "browser" }));
                panic!("not within {limit:?}: {what}\nthe page: {page:#}\nits log: {log:#}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes the window look like a screen of this size, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": metrics });
        self.command("goog/cdp/execute", &command);
    }

    /// Types into what has the focus. `\u{E004}` is Tab, `\u{E007}` Enter, `\u{E00D}` Space, `\u{E012}` to `\u{E015}` the
    /// arrows left, up, right and down.
    pub fn type_keys(&self, keys: &str) {
        let each = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        });
        let actions =
            json!({ "actions": [{ "type": "key", "id": "keys", "actions": each.collect::<Vec<_>>() }] });
        self.command("actions", &actions);
    }

    /// Presses `key` several times while `held`, such as `\u{E008}` for Shift, is down.
    pub fn type_holding(&self, held: char, key: char, times: usize) {
        let act = |kind: &str, key: char| json!({ "type": kind, "value": key.to_string() });
        let mut actions = vec![act("keyDown", held)];
        for _ in 0..times {
            actions.extend([act("keyDown", key), act("keyUp", key)]);
        }
        actions.push(act("keyUp", held));
        self.command(
            "actions",
            &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }),
        );
    }

    /// Presses at a place of the window, moves to others and lets go there; `kind` is `mouse` or `touch`.
    pub fn drag(&self, kind: &str, places: &[(f64, f64)]) {
        let to = |(x, y): (f64, f64)| json!({ "type": "pointerMove", "duration": 20, "x": x.round(), "y": y.round() });
        let mut actions = vec![to(places[0]), json!({ "type": "pointerDown", "button": 0 })];
        actions.extend(places[1..].iter().copied().map(to));
        actions.push(json!({ "type": "pointerUp", "button": 0 }));
        self.command(
            "actions",
            &json!({ "actions": [{
            "type": "pointer", "id": kind, "parameters": { "pointerType": kind }, "actions": actions,
        }] }),
        );
    }

    /// The live picture of the first camera as 64x48 RGBA bytes; `None` while there is none.
    pub fn picture(&self) -> Option<Vec<u8>> {
        let bytes = self.run(
            "const shown = document.querySelector('.picture video, .picture img');
             if (!shown || !(shown.videoWidth || shown.naturalWidth)) return null;
             const canvas = document.createElement('canvas');
             canvas.width = 64; canvas.height = 48;
             const context = canvas.getContext('2d');
             context.drawImage(shown, 0, 0, 64, 48);
             return Array.from(context.getImageData(0, 0, 64, 48).data);",
        );
        let bytes = bytes.as_array()?.iter().map(|byte| byte.as_u64().unwrap() as u8);
        Some(bytes.collect())
    }

    /// A picture of the page, as PNG, into the folder `SEGD_SCREENSHOTS` if that is set.
    pub fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("SEGD_SCREENSHOTS") else {
            return;
        };
        let command = json!({ "cmd": "Page.captureScreenshot", "params": { "captureBeyondViewport": true } });
        let taken = self.command("goog/cdp/execute", &command);
        let png = base64(taken["data"].as_str().unwrap());
        std::fs::write(std::path::Path::new(&folder).join(name), png).unwrap();
    }
}

/// The bytes of a text in base64.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | u32::from(digit(c));
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.ask("DELETE", &format!("/session/{}", self.session), &json!({}));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
