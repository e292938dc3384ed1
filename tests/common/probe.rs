//! What ffprobe finds in a file.

use std::path::Path;
use std::process::Command;

/// Pictures that can be decoded; nothing may be complained of.
pub fn frames(path: &Path) -> usize {
    let probe = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-count_frames",
            "-show_entries",
            "stream=nb_read_frames",
        ])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("ffprobe is installed");
    assert!(
        probe.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&probe.stderr)
    );
    String::from_utf8(probe.stdout).unwrap().trim().parse().unwrap()
}
