//! The table of what can be asked for, and what every answer has in common.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
#[cfg(feature = "gstreamer")]
use axum::routing::delete;
use axum::routing::{MethodRouter, get, post};

use super::app::App;
use super::guard::guard;
use super::{
    controls, diagnosis, events, files, healthz, history, login, metrics, mjpeg, models, scene, scenes,
    snapshot, status, told, zones,
};
#[cfg(feature = "gstreamer")]
use super::{mse, whep};

/// A resource.
struct Route {
    path: &'static str,
    /// What may follow the path, as people are told.
    query: &'static str,
    /// Its methods; `get` answers HEAD as well.
    methods: fn() -> MethodRouter<App>,
}

const ROUTES: &[Route] = &[
    Route {
        path: "/",
        query: "",
        methods: || get(files::page),
    },
    Route {
        path: "/static/{file}",
        query: "",
        methods: || get(files::file),
    },
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
        path: "/livez",
        query: "",
        methods: || get(healthz::livez),
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
        path: "/events",
        query: "[?camera=NAME]",
        methods: || get(events::events),
    },
    Route {
        path: "/events/history.json",
        query: "[?FILTERS]",
        methods: || get(told::events),
    },
    Route {
        path: "/events/hours.json",
        query: "[?FILTERS]",
        methods: || get(told::hours),
    },
    Route {
        path: "/events/minutes.json",
        query: "[?FILTERS]",
        methods: || get(told::minutes),
    },
    Route {
        path: "/events/snapshots/{camera}/{file}",
        query: "",
        methods: || get(told::picture),
    },
    Route {
        path: "/events/clips/{camera}/{file}",
        query: "",
        methods: || get(told::clip),
    },
    Route {
        path: "/scene.json",
        query: "[?camera=NAME]",
        methods: || get(scene::scene),
    },
    Route {
        path: "/scenes",
        query: "[?camera=NAME&masks=rle]",
        methods: || get(scenes::stream),
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
    #[cfg(feature = "gstreamer")]
    Route {
        path: "/stream.mse",
        query: "[?camera=NAME]",
        methods: || get(mse::stream),
    },
    #[cfg(feature = "gstreamer")]
    Route {
        path: "/whep/{camera}",
        query: "",
        methods: || post(whep::offer),
    },
    #[cfg(feature = "gstreamer")]
    Route {
        path: "/whep/{camera}/{id}",
        query: "",
        methods: || delete(whep::end),
    },
    Route {
        path: "/history.json",
        query: "",
        methods: || get(history::history),
    },
    Route {
        path: "/log",
        query: "",
        methods: || get(diagnosis::log),
    },
    Route {
        path: "/diagnosis.txt",
        query: "",
        methods: || get(diagnosis::diagnosis),
    },
    Route {
        path: "/controls",
        query: "[?camera=NAME]",
        methods: || get(controls::controls).post(controls::change),
    },
    Route {
        path: "/controls/save",
        query: "[?camera=NAME]",
        methods: || post(controls::save),
    },
    Route {
        path: "/models",
        query: "[?camera=NAME]",
        methods: || get(models::models).post(models::load),
    },
    Route {
        path: "/zones",
        query: "[?camera=NAME]",
        methods: || get(zones::zones).post(zones::change),
    },
    Route {
        path: "/login",
        query: "",
        methods: || get(login::form).post(login::log_in_by_form),
    },
    Route {
        path: "/logout",
        query: "",
        methods: || post(login::log_out),
    },
    Route {
        path: "/session",
        query: "",
        methods: || get(login::session),
    },
];

/// All addresses in one line, for people.
pub(super) fn listing() -> String {
    let all = ROUTES
        .iter()
        .map(|route| format!("{}{}", route.path, route.query));
    all.collect::<Vec<_>>().join(" ")
}

/// Answers requests.
pub fn router(app: App) -> Router {
    let add = |router: Router<App>, route: &Route| router.route(route.path, (route.methods)());
    ROUTES
        .iter()
        .fold(Router::new(), add)
        .fallback(async || (StatusCode::NOT_FOUND, listing() + "\n"))
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(app.clone(), guard))
        .layer(map_response(in_common))
        .with_state(app)
}

/// The header `Allow` is added to this.
async fn not_allowed(method: Method) -> (StatusCode, String) {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not allowed here\n"),
    )
}

/// Pages take scripts, styles and pictures from here alone, and no page elsewhere shows ours within itself.
/// <https://www.w3.org/TR/CSP3/>
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: mediastream:; \
                      object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What all answers say: what is true now is no answer for later, and nothing is shown or run by others.
async fn in_common(mut response: Response) -> Response {
    let all = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let headers = response.headers_mut();
    for (name, value) in all {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
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
        for route in ROUTES.iter().filter(|route| !route.path.contains('{')) {
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

    #[test]
    fn the_openapi_description_is_that_of_the_table() {
        let text = include_str!("../../docs/openapi.json");
        let described: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = described["paths"].as_object().unwrap();
        let mut names: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
        names.sort_unstable();
        let mut described: Vec<&str> = paths.keys().map(String::as_str).collect();
        described.sort_unstable();
        assert_eq!(described, names);
        let (address, _http) = serve(Health::new(vec![watched("door").into()]));
        for route in ROUTES {
            let resource = &paths[route.path];
            // A method that no route has is told which there are.
            let refused = ask(
                address,
                &format!("TRACE {} HTTP/1.1\r\nHost: localhost\r\n\r\n", route.path),
            );
            assert_eq!(refused.code, 405, "{}", route.path);
            let mut has: Vec<String> = refused
                .header("allow")
                .unwrap()
                .split(',')
                .map(str::to_lowercase)
                .collect();
            // GET answers HEAD as well.
            has.retain(|method| method != "head");
            has.sort();
            let operations = ["delete", "get", "patch", "post", "put"];
            let described: Vec<&str> = operations
                .into_iter()
                .filter(|m| resource.get(m).is_some())
                .collect();
            assert_eq!(described, has, "{}", route.path);
            for method in described {
                let asks = resource[method].get("parameters").is_some();
                assert_eq!(asks, !route.query.is_empty(), "{method} {}", route.path);
            }
            for name in route
                .path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            {
                let named = resource["parameters"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|p| p["name"] == name);
                assert!(named, "{}: {name}", route.path);
            }
        }
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
        let head = ask(address, "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
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
            "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        );
        assert_eq!(refused.code, 405);
        assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    }
}
