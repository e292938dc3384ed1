//! `/log`: the newest lines of the log; and `/diagnosis.txt`: what a report of a fault needs, in one file without secrets.

use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::IntoResponse;

use super::app::App;
use super::off_thread::off_thread;
use super::status;
use crate::capture::mask_credentials;
use crate::config::Origin;
use crate::health::Health;
use crate::metrics::process_age;
use crate::output::push_address::mask_push_addresses;
use crate::stdio::recent_log;

const TEXT: &str = "text/plain; charset=utf-8";

/// 200 and the newest lines of the log. For admins.
pub(super) async fn log() -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT)], recent_log())
}

/// 200 and the file. For admins.
pub(super) async fn diagnosis(State(app): State<App>, State(health): State<Health>) -> impl IntoResponse {
    let origin = app.origin();
    // It reads files.
    let made = off_thread(move || make(&health, origin.as_deref())).await;
    let text = made.unwrap_or_else(|e| format!("{e}\n"));
    let name = "attachment; filename=\"segd-diagnosis.txt\"";
    ([(CONTENT_TYPE, TEXT), (CONTENT_DISPOSITION, name)], text)
}

fn make(health: &Health, origin: Option<&Origin>) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| format!("{path}: {e}"));
    let processor = read("/proc/cpuinfo");
    let processor = processor
        .lines()
        .find(|line| line.starts_with("model name") || line.starts_with("Model"));
    let machine = format!(
        "segd {} for {}, up for {} s\n{} cores, {}\n{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        process_age().as_secs(),
        std::thread::available_parallelism().map_or(1, usize::from),
        processor.unwrap_or("an unknown processor"),
        read("/proc/version"),
    );
    let configuration = match origin.and_then(Origin::file) {
        Some(path) => format!(
            "{}\n{}",
            path.display(),
            without_secrets(&read(&path.display().to_string()))
        ),
        None => "no configuration file".into(),
    };
    let sections = [
        ("machine", machine),
        ("problems", health.troubles().join("\n")),
        ("configuration", configuration),
        (
            "status",
            mask_credentials(&format!("{:#}", status::render(health))),
        ),
        ("log", mask_credentials(&recent_log())),
    ];
    let sections = sections.map(|(name, text)| format!("=== {name}\n{}\n", text.trim_end()));
    sections.join("\n")
}

/// The text without what stands behind `password =`, `secret =` and the like, up to the end of the line.
fn without_values(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        // Of the first that the line has: in an inline table more may follow, and nothing behind it is shown.
        let value = SECRETS
            .iter()
            .flat_map(|key| line.match_indices(key).map(|(at, _)| at + key.len()))
            .filter_map(|end| {
                let rest = line[end..].trim_start_matches(['"', '\'']).trim_start();
                let value = rest.strip_prefix('=')?.trim_start();
                Some(line.len() - value.len())
            })
            .min();
        match value {
            Some(at) if at < line.trim_end().len() => {
                out.push_str(&line[..at]);
                out.push_str("***");
                out.push_str(if line.ends_with('\n') { "\n" } else { "" });
            }
            _ => out.push_str(line),
        }
    }
    out
}

/// Ends of keys whose values nobody else is to read. A webhook's address may hold a token.
const SECRETS: [&str; 3] = ["password", "secret", "webhook"];

/// A configuration without passwords and without the hashes of users.
fn without_secrets(text: &str) -> String {
    /// The digits of a user's hash.
    const DIGITS: usize = 32;
    let text = mask_credentials(&mask_push_addresses(&without_values(text)));
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(':') {
        let (head, tail) = rest.split_at(at + 1);
        out.push_str(head);
        let digits = tail.bytes().take_while(u8::is_ascii_hexdigit).count();
        rest = if digits == DIGITS {
            out.push_str("***");
            &tail[digits..]
        } else {
            tail
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use crate::output::access::{RtspAccess, User};
    use crate::web::tests::{get, serve, serve_as};

    #[test]
    fn secrets_are_left_out() {
        let entry = User::new("ann", "open sesame").unwrap().entry();
        let text = format!("users = [\"{entry}\", \"bob:segd:0123\"]\ninput = \"rtsp://u:pass@cam/1\"\n");
        assert_eq!(
            without_secrets(&text),
            "users = [\"ann:segd:***\", \"bob:segd:0123\"]\ninput = \"rtsp://***@cam/1\"\n"
        );
        let outputs = "outputs = [\"rtmp://live.example/app/s3cret\", \"srt://a:1?streamid=s3cret\"]";
        assert_eq!(
            without_secrets(outputs),
            "outputs = [\"rtmp://live.example/app/***\", \"srt://a:1\"]"
        );
        let text = "[mqtt]\npassword = \"open \\\" sesame\"\n#mqtt.\"password\" = 'x'\nuser = \"password\"\n\
                    events = { webhook_secret=\"y\", webhook = \"https://z/token\" }\nwebhook=\"https://z/token\"";
        assert_eq!(
            without_secrets(text),
            "[mqtt]\npassword = ***\n#mqtt.\"password\" = ***\nuser = \"password\"\nevents = { webhook_secret=***\nwebhook=***"
        );
    }

    #[test]
    fn a_diagnosis_has_all_that_a_report_needs() {
        let camera = watched("door");
        camera.metrics.vitals.set_source_lost("unplugged".into());
        let (address, _http) = serve(Health::new(vec![(*camera).clone()]));
        let file = get(address, "/diagnosis.txt");
        assert_eq!(file.code, 200);
        assert!(
            file.header("content-disposition")
                .unwrap()
                .contains("segd-diagnosis.txt")
        );
        let text = file.text();
        for part in [
            "=== machine\nsegd ",
            "cores",
            "=== problems\ndoor: source lost",
            "=== configuration\nno configuration file",
            "\"name\": \"door\"",
            "=== log",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(get(address, "/log").code, 200);
    }

    #[test]
    fn viewers_read_neither() {
        let rules = RtspAccess {
            users: vec![User::new("bob", "x").unwrap()],
            ..RtspAccess::default()
        };
        let (address, _http) = serve_as(Health::new(Vec::new()), rules);
        for path in ["/log", "/diagnosis.txt"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic Ym9iOng=\r\n\r\n");
            assert_eq!(crate::web::tests::ask(address, &request).code, 403, "{path}");
        }
    }
}
