//! What systemd would hear of a service.

#![allow(dead_code, reason = "each test file uses its part")]

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

/// What systemd would hear.
pub struct Systemd {
    pub heard: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
    pub path: String,
}

impl Systemd {
    pub fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                list.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Self {
            heard,
            _folder: folder,
            path,
        }
    }

    pub fn count(&self, start: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|l| l.starts_with(start)).count()
    }
}
