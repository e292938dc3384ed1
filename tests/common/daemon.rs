//! segd as a process with a configuration file, and what its clients do.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits until `ready`, or fails with `what`.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !ready() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A network that is small enough for any machine, on the source `input`.
pub fn small(input: &str) -> String {
    format!("[capture]\ninput = \"{input}\"\n[model]\nbackend = \"tract\"\nsize = 64\n")
}

/// A running segd; killed when dropped.
pub struct Daemon {
    pub child: Child,
    pub folder: tempfile::TempDir,
    pub rtsp: u16,
    pub http: u16,
    /// UDP.
    pub webrtc: u16,
    pub log: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts segd on a configuration in which `RTSP` and `HTTP` stand for free ports; waits until frames go out.
    pub fn start(config: &str) -> Self {
        let daemon = Self::spawn(config, free_port(), &[]);
        wait_for("ready", Duration::from_secs(90), || {
            daemon.get("/readyz").0 == 200
        });
        daemon
    }

    /// Starts segd without waiting.
    pub fn spawn(config: &str, rtsp: u16, env: &[(&str, &str)]) -> Self {
        Self::spawn_under(":", config, rtsp, env)
    }

    /// Starts segd without waiting, from a shell that has run `before`.
    pub fn spawn_under(before: &str, config: &str, rtsp: u16, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let http = free_port();
        let mut daemon = Self {
            child: Command::new("true").spawn().unwrap(),
            folder,
            rtsp,
            http,
            webrtc: free_port(),
            log: Arc::default(),
        };
        let _ = daemon.child.wait();
        daemon.configure(config);
        daemon.child = Command::new("sh")
            .args(["-c", &format!("{before}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_segd"))
            .arg("--config")
            .arg(daemon.config())
            .envs(env.iter().copied())
            .env_remove("SEGD_CAMERA")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = daemon.child.stderr.take().unwrap();
        let log = daemon.log.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut bytes) {
                log.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        daemon
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("segd.toml")
    }

    /// Writes the configuration; `RTSP` and `HTTP` become the ports, `FOLDER` the daemon's own folder.
    pub fn configure(&self, config: &str) {
        let text = config
            .replace("RTSP", &self.rtsp.to_string())
            .replace("FOLDER", self.folder.path().to_str().unwrap());
        let mut text = text;
        if !text.contains("[stream]") {
            text = format!(
                "[stream]\noutputs = [\"rtsp://127.0.0.1:{}/segd\"]\n{text}",
                self.rtsp
            );
        }
        text = format!(
            "[health]\nlisten = \"127.0.0.1:{}\"\nwebrtc_port = {}\n{text}",
            self.http, self.webrtc
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn address(&self) -> String {
        format!("rtsp://127.0.0.1:{}/segd", self.rtsp)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status code and body; 0 if nobody answers.
    pub fn get_bytes(&self, path: &str) -> (u16, Vec<u8>) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.http)) else {
            return (0, Vec::new());
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
            return (0, Vec::new());
        };
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
        (code, answer[end + 4..].to_vec())
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let (code, body) = self.get_bytes(path);
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status").1).expect("a status")
    }

    /// A sample's value in the metrics.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = self.get("/metrics").1;
        text.lines()
            .find_map(|l| l.strip_prefix(sample)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {sample} in {text}"))
    }

    /// The mean luma of the picture that goes out now.
    pub fn snapshot(&self) -> image::RgbImage {
        let (code, body) = self.get_bytes("/snapshot.jpg");
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
        image::load_from_memory(&body).unwrap().to_rgb8()
    }

    /// Asks to stop; exit code within `limit`.
    pub fn stop(mut self, limit: Duration) -> (Option<i32>, String) {
        self.signal("-TERM");
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The reader thread sees the end of the pipe soon after.
                std::thread::sleep(Duration::from_millis(100));
                return (status.code(), self.log());
            }
            assert!(Instant::now() < deadline, "segd is still running: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of segd:\n{}", self.log());
        }
    }
}

/// The resident memory that segd says it has.
pub fn rss_mib(daemon: &Daemon) -> f64 {
    daemon.metric("process_resident_memory_bytes") / 1048576.0
}

/// An ffmpeg that decodes for as long as it is let, counting frames.
pub struct Viewer {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Viewer {
    pub fn watch(address: &str) -> Self {
        let mut child = Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-hide_banner",
                "-loglevel",
                "error",
                "-rtsp_transport",
                "tcp",
            ])
            .args(["-i", address, "-f", "framemd5", "-flush_packets", "1", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ffmpeg is installed");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, seen) = (child.stdout.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                if !line.starts_with('#') {
                    seen.lock().unwrap().push(line);
                }
            }
        });
        Self { child, lines }
    }

    /// Frames seen so far.
    pub fn frames(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// Waits for `more` frames; the connection must hold.
    #[track_caller]
    pub fn wait_frames(&mut self, more: usize, limit: Duration) {
        let goal = self.frames() + more;
        let deadline = Instant::now() + limit;
        while self.frames() < goal {
            assert!(self.is_watching(), "the client was disconnected");
            assert!(
                Instant::now() < deadline,
                "{} of {goal} frames within {limit:?}",
                self.frames()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_watching(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One ffmpeg run that must decode `frames` frames within `limit`; its error text if it can't.
pub fn view(address: &str, frames: u32, limit: Duration) -> Result<(), String> {
    let mut child = Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-hide_banner",
            "-loglevel",
            "error",
            "-rtsp_transport",
            "tcp",
        ])
        .args(["-i", address, "-frames:v", &frames.to_string(), "-f", "null", "-"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("ffmpeg is installed");
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            return if status.success() { Ok(()) } else { Err(text) };
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err("timeout".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A self-signed certificate and its key, under these names.
pub fn make_certificate(certificate: &Path, key: &Path, name: &str) {
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={name}")])
        .arg("-out")
        .arg(certificate)
        .arg("-keyout")
        .arg(key)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(status.success());
}
