//! The table of what can be asked for, and what every answer has in common.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{MethodRouter, get};

use super::app::App;
use super::{healthz, metrics, mjpeg, scene, snapshot, status};

/// A resource.
struct Route {
    path: &'static str,
    /// What may follow the path, as people are told.
    query: &'static str,
    /// Its methods; `get` answers HEAD as well.
    methods: fn() -> MethodRouter<App>,
}

const ROUTES: [Route; 8] = [
    Route {
        path: "/healthz",
        query: "",
        methods: || get(healthz::healthz),
    },
    Route {
        path: "/readyz",
        query: "",
        methods: || get(healthz::readyz),
    },
    Route {
        path: "/metrics",
        query: "",
        methods: || get(metrics::metrics),
    },
    Route {
        path: "/status",
        query: "",
        methods: || get(status::status),
    },
    Route {
        path: "/snapshot.jpg",
        query: "[?camera=NAME]",
        methods: || get(snapshot::snapshot),
    },
    Route {
        path: "/scene.json",
        query: "[?camera=NAME]",
        methods: || get(scene::scene),
    },
    Route {
        path: "/mask.png",
        query: "[?camera=NAME]",
        methods: || get(scene::mask),
    },
    Route {
        path: "/stream.mjpeg",
        query: "[?camera=NAME]",
        methods: || get(mjpeg::stream),
    },
];

/// All addresses in one line, for people.
pub(super) fn listing() -> String {
    ROUTES.map(|r| format!("{}{}", r.path, r.query)).join(" ")
}

/// Answers requests.
pub fn router(app: App) -> Router {
    let add = |router: Router<App>, route: &Route| router.route(route.path, (route.methods)());
    ROUTES
        .iter()
        .fold(Router::new(), add)
        .fallback(async || (StatusCode::NOT_FOUND, listing() + "\n"))
        .method_not_allowed_fallback(not_allowed)
        .layer(map_response(not_stored))
        .with_state(app)
}

/// The header `Allow` is added to this.
async fn not_allowed(method: Method) -> (StatusCode, String) {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not allowed here\n"),
    )
}

/// What is true now is no answer for later.
async fn not_stored(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::health::Health;
    use crate::health::tests::watched;
    use crate::web::tests::{ask, get, serve};

    #[test]
    fn the_table_is_what_404_lists_and_the_documentation_says() {
        let (address, _http) = serve(Health::new(vec![watched("door").into()]));
        let lost = get(address, "/../etc/passwd");
        assert_eq!((lost.code, lost.text()), (404, listing() + "\n"));
        for route in &ROUTES {
            // A camera that there is not: no picture is waited for.
            let found = get(address, &format!("{}?camera=none", route.path));
            assert!(
                found.code != 404 || found.text().starts_with("cameras: "),
                "{} {found:?}",
                route.path
            );
        }

        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let mut tables = Vec::new();
        for file in std::fs::read_dir(docs).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "md") {
                tables.extend(documented(&std::fs::read_to_string(path).unwrap()));
            }
        }
        let table: Vec<String> = listing().split(' ').map(str::to_owned).collect();
        assert_eq!(
            tables,
            [table],
            "the one table in docs/*.md that has a row for `/healthz`"
        );
    }

    /// The first column of each table that has a row for `/healthz`.
    fn documented(text: &str) -> Vec<Vec<String>> {
        let lines: Vec<&str> = text.lines().collect();
        let tables = lines.split(|l| !l.starts_with('|'));
        tables
            .filter(|t| t.iter().any(|row| row.starts_with("| `/healthz`")))
            .map(|table| {
                let rows = table.iter().filter_map(|row| row.strip_prefix("| `"));
                rows.filter_map(|row| row.split('`').next())
                    .map(str::to_owned)
                    .collect()
            })
            .collect()
    }

    #[test]
    fn head_has_no_body_and_other_methods_are_told_which_there_are() {
        let (address, _http) = serve(Health::new(vec![watched("door").into()]));
        let got = get(address, "/healthz");
        let head = ask(address, "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((got.code, head.code), (200, 200));
        assert_eq!(head.body, b"");
        for name in ["content-type", "content-length", "cache-control", "connection"] {
            assert!(head.header(name).is_some(), "{name} is not in {head:?}");
            assert_eq!(head.header(name), got.header(name));
        }
        assert_eq!(got.header("cache-control"), Some("no-store"));
        assert_eq!(got.header("connection"), Some("close"));
        let refused = ask(
            address,
            "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        );
        assert_eq!(refused.code, 405);
        assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    }
}
