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
