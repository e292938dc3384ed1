//! `/` and `/static/FILE`: the page, whose files are inside the binary.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// A file of the page.
struct File {
    name: &'static str,
    /// Its media type.
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal is $kind:literal;)*) => {
        &[$(File { name: $name, kind: $kind, bytes: include_bytes!(concat!("static/", $name)) },)*]
    };
}

const FILES: &[File] = files! {
    "index.html" is "text/html; charset=utf-8";
    "style.css" is "text/css; charset=utf-8";
    "icon.svg" is "image/svg+xml";
    "common.js" is "text/javascript; charset=utf-8";
    "controls.js" is "text/javascript; charset=utf-8";
    "events.js" is "text/javascript; charset=utf-8";
    "graphs.js" is "text/javascript; charset=utf-8";
    "main.js" is "text/javascript; charset=utf-8";
    "player.js" is "text/javascript; charset=utf-8";
    "saving.js" is "text/javascript; charset=utf-8";
    "zones.js" is "text/javascript; charset=utf-8";
};

/// 200 and the page.
pub(super) async fn page() -> Response {
    file(Path("index.html".to_owned())).await
}

/// 200 and the file, or 404.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => ([(CONTENT_TYPE, file.kind)], file.bytes).into_response(),
        None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::web::tests::{get, serve};
    use std::collections::BTreeSet;

    /// How bright a colour `#rrggbb` is: <https://www.w3.org/TR/WCAG22/#dfn-relative-luminance>.
    fn luminance(color: &str) -> f64 {
        let linear = |at: usize| {
            let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
            match value <= 0.04045 {
                true => value / 12.92,
                false => ((value + 0.055) / 1.055).powf(2.4),
            }
        };
        0.2126 * linear(1) + 0.7152 * linear(3) + 0.0722 * linear(5)
    }

    #[test]
    fn text_and_borders_stand_out_in_both_schemes() {
        let style = include_str!("static/style.css");
        let schemes: Vec<&str> = style.split(":root {").skip(1).collect();
        assert_eq!(schemes.len(), 2, "light and dark");
        for scheme in schemes {
            let color = |name: &str| {
                let from = scheme.split(&format!("--{name}: ")).nth(1).unwrap();
                luminance(&from[..7])
            };
            for (name, least) in [
                ("text", 4.5),
                ("quiet", 4.5),
                ("link", 4.5),
                ("bad", 4.5),
                ("line", 3.0),
            ] {
                for ground in ["ground", "card"] {
                    let (one, other) = (color(name), color(ground));
                    let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                    assert!(contrast >= least, "{name} on {ground}: {contrast:.2}");
                }
            }
        }
    }

    #[test]
    fn the_page_asks_for_files_that_there_are_and_holds_no_script() {
        let (address, _http) = serve(Health::new(Vec::new()));
        let page = get(address, "/");
        assert_eq!(
            (page.code, page.header("content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
        let mut asked = BTreeSet::from(["index.html".to_owned()]);
        for (name, text) in FILES
            .iter()
            .map(|f| (f.name, std::str::from_utf8(f.bytes).unwrap()))
        {
            for (at, _) in text
                .match_indices("\"/static/")
                .chain(text.match_indices("from \"./"))
            {
                let path = text[at..].split('"').nth(1).unwrap();
                asked.insert(path.rsplit('/').next().unwrap().to_owned());
            }
            if name.ends_with(".html") {
                for inline in ["<script>", "style=\"", "onclick", "onload", "javascript:"] {
                    assert!(!text.contains(inline), "{name}: {inline}");
                }
            }
        }
        let names: BTreeSet<String> = FILES.iter().map(|f| f.name.to_owned()).collect();
        assert_eq!(
            asked, names,
            "each file is asked for by another, and each that is asked for is there"
        );
        assert_eq!(
            get(address, "/static/main.js").header("content-type"),
            Some("text/javascript; charset=utf-8")
        );
        assert_eq!(get(address, "/static/..%2FCargo.toml").code, 404);
        assert_eq!(get(address, "/static/none.js").code, 404);
    }
}
