//! Who may ask for what. Every request passes here first.
//!
//! Without users everyone on this machine may do all, and everyone else, who only reaches an address that was opened with
//! `insecure`, may look. With users nobody gets further than the log-in without a name and password.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::app::{App, Connection};
use crate::output::access::RtspAccess;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Nothing but log in.
    Nobody,
    /// Look.
    Viewer,
    /// Change things.
    Admin,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    /// The user's name, if users log in.
    pub(super) name: Option<String>,
    pub(super) role: Role,
}

/// What everybody may have: whether segd is well, the log-in, and the files that its page is made of.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/livez" | "/login") || path.starts_with("/static/")
}

/// Requests that change something, but nothing that others see: those who look may send them.
fn is_a_viewer_s(path: &str) -> bool {
    path == "/logout" || path == "/whep" || path.starts_with("/whep/")
}

/// What says more than viewers need to know.
fn is_an_admin_s(path: &str) -> bool {
    matches!(path, "/log" | "/diagnosis.txt")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Lets through who may, with [`Who`] among the request's extensions.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let connection = request
        .extensions()
        .get::<Connection>()
        .cloned()
        .unwrap_or_default();
    let rules = app.gate.rules();
    let headers = request.headers();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if connection.wants_tls {
        return to_tls(&request);
    }
    if rules.users.is_empty() && is_local(connection.peer) && !names_this_machine(text(headers, "host")) {
        // A page elsewhere whose name was made to lead here must not act through a browser on this machine.
        return (StatusCode::FORBIDDEN, "ask by IP address, or as localhost\n").into_response();
    }
    if is_foreign(headers, is_read) {
        return (StatusCode::FORBIDDEN, "a page from elsewhere asked\n").into_response();
    }
    let who = match identify(&app, &rules, headers, connection.peer) {
        Ok(who) => who,
        Err(refused) => return *refused,
    };
    let path = request.uri().path();
    let needs = match path {
        path if is_open(path) => Role::Nobody,
        path if is_an_admin_s(path) => Role::Admin,
        path if is_read || is_a_viewer_s(path) => Role::Viewer,
        _ => Role::Admin,
    };
    if who.role < needs {
        return refuse(&who, request.headers(), is_read, rules.realm());
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

/// Whether a request came from this machine.
fn is_local(peer: Option<SocketAddr>) -> bool {
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// 308 to the same over TLS.
fn to_tls(request: &Request) -> Response {
    let Some(host) = text(request.headers(), "host") else {
        return (StatusCode::BAD_REQUEST, "ask over https\n").into_response();
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    Redirect::permanent(&format!("https://{host}{path}")).into_response()
}

/// Whether the request was made by a page of another site, other than by a link to look at.
/// <https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site>
fn is_foreign(headers: &HeaderMap, is_read: bool) -> bool {
    let is_navigation = is_read && text(headers, "sec-fetch-mode") == Some("navigate");
    match text(headers, "sec-fetch-site") {
        Some("same-origin" | "none") => false,
        Some(_) => !is_navigation,
        // Browsers leave that out over plain HTTP to an address other than loopback. All send `Origin` with what changes
        // something, and with WebSockets.
        None if is_read && !headers.contains_key("upgrade") => false,
        None => match headers.get("origin") {
            None => false,
            Some(origin) => {
                let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
                let host = text(headers, "host");
                !matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
            }
        },
    }
}

/// Whether `Host` is an IP address or `localhost`; nothing, as HTTP/1.0 has it, counts as well.
fn names_this_machine(host: Option<&str>) -> bool {
    let Some(host) = host else {
        return true;
    };
    let is_ip = host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    is_ip || name.eq_ignore_ascii_case("localhost")
}

/// Who asks.
///
/// # Errors
/// The answer, if the password was wrong or too many were.
fn identify(
    app: &App,
    rules: &RtspAccess,
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
) -> Result<Who, Box<Response>> {
    if rules.users.is_empty() {
        let role = if is_local(peer) { Role::Admin } else { Role::Viewer };
        return Ok(Who { name: None, role });
    }
    let known = |name: String| Who {
        role: match rules.admins.contains(&name) {
            true => Role::Admin,
            false => Role::Viewer,
        },
        name: Some(name),
    };
    if let Some((name, password)) = text(headers, "authorization").and_then(basic) {
        return match log_in(app, rules, &name, &password, peer) {
            Ok(()) => Ok(known(name)),
            Err(Refused::Wrong) => Err(Box::new(ask_for_password(rules.realm()))),
            Err(Refused::TooMany(response)) => Err(response),
        };
    }
    let cookie = app.gate.cookie();
    let token = headers.get_all("cookie").iter().filter_map(|c| c.to_str().ok());
    let user = token
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|one| one.trim().split_once('='))
        .find(|(name, _)| *name == cookie)
        .and_then(|(_, token)| app.sessions.user(token, rules, Instant::now()));
    Ok(user.map_or(
        Who {
            name: None,
            role: Role::Nobody,
        },
        known,
    ))
}

/// Why nobody was logged in.
pub(super) enum Refused {
    /// No such user, or another password.
    Wrong,
    /// Too many wrong passwords came from there: the answer.
    TooMany(Box<Response>),
}

/// Checks a password, unless too many wrong ones came from that address.
pub(super) fn log_in(
    app: &App,
    rules: &RtspAccess,
    name: &str,
    password: &str,
    peer: Option<SocketAddr>,
) -> Result<(), Refused> {
    let (address, now) = (
        peer.map_or(IpAddr::from([0; 4]), |peer| peer.ip()),
        Instant::now(),
    );
    if let Err(wait) = app.attempts.may_try(address, now) {
        let seconds = wait.as_secs() + 1;
        let text = format!("too many wrong passwords: try again in {seconds} s\n");
        let mut response = (StatusCode::TOO_MANY_REQUESTS, text).into_response();
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
        return Err(Refused::TooMany(Box::new(response)));
    }
    if rules.user(name).is_some_and(|user| user.has_password(password)) {
        return Ok(());
    }
    app.attempts.failed(address, now);
    tracing::warn!(%address, "HTTP: wrong user name or password");
    Err(Refused::Wrong)
}

/// Name and password of a Basic authorization.
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn ask_for_password(realm: &str) -> Response {
    let mut response = (StatusCode::UNAUTHORIZED, "name and password are needed\n").into_response();
    let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Sends a browser to the log-in; a program is asked for a password, a page's script is not, as its browser would show a
/// window.
fn refuse(who: &Who, headers: &HeaderMap, is_read: bool, realm: &str) -> Response {
    if who.role >= Role::Viewer {
        let text = match who.name {
            Some(_) => "only users in access.admins may do this\n",
            None => "only who is on the machine itself may do this, or users in access.admins\n",
        };
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    match text(headers, "sec-fetch-mode") {
        Some("navigate") if is_read => Redirect::to("/login").into_response(),
        Some(_) => (StatusCode::UNAUTHORIZED, "log in first\n").into_response(),
        None if is_read && text(headers, "accept").is_some_and(|a| a.contains("text/html")) => {
            Redirect::to("/login").into_response()
        }
        None => ask_for_password(realm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::health::tests::watched;
    use crate::output::access::User;
    use crate::web::tests::{Answer, ask, get, serve_as};

    fn users() -> RtspAccess {
        RtspAccess {
            users: vec![
                User::new("ann", "admin's").unwrap(),
                User::new("bob", "viewer's").unwrap(),
            ],
            admins: vec!["ann".into()],
            ..RtspAccess::default()
        }
    }

    fn health() -> Health {
        Health::new(vec![watched("door").into()])
    }

    /// A request with these lines in its head, and a body.
    fn send(address: SocketAddr, first: &str, lines: &[&str], body: &str) -> Answer {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let head = format!("{first} HTTP/1.1\r\nHost: {address}\r\n{lines}Content-Length: {length}\r\n\r\n");
        ask(address, &(head + body))
    }

    fn authorization(name: &str, password: &str) -> String {
        format!(
            "Authorization: Basic {}",
            STANDARD.encode(format!("{name}:{password}"))
        )
    }

    #[test]
    fn without_users_who_is_on_the_machine_may_do_all_and_is_asked_nothing() {
        let (address, _http) = serve_as(health(), RtspAccess::default());
        let session = get(address, "/session");
        assert_eq!(
            (session.code, session.text()),
            (200, "{\"may_change\":true,\"user\":null}\n".into())
        );
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_not_answered() {
        let (address, _http) = serve_as(health(), RtspAccess::default());
        let code = |host: &str| ask(address, &format!("GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n")).code;
        for host in [
            "localhost",
            "LOCALHOST:8555",
            "127.0.0.1",
            "127.0.0.1:8555",
            "[::1]:8555",
            "[::1]",
            "192.0.2.1:80",
        ] {
            assert_eq!(code(host), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8555",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a:b:c",
        ] {
            assert_eq!(code(host), 403, "{host}");
        }
        // With users the password protects, whatever the machine is called.
        let (address, _http) = serve_as(health(), users());
        let line = authorization("bob", "viewer's");
        let named = ask(
            address,
            &format!("GET /status HTTP/1.1\r\nHost: camera.example\r\n{line}\r\n\r\n"),
        );
        assert_eq!(named.code, 200);
    }

    #[test]
    fn with_users_nothing_but_the_log_in_is_seen_without_a_password() {
        let (address, _http) = serve_as(health(), users());
        for path in [
            "/",
            "/status",
            "/metrics",
            "/snapshot.jpg",
            "/scene.json",
            "/mask.png",
            "/stream.mjpeg",
            "/session",
            "/none",
        ] {
            let refused = get(address, path);
            assert_eq!(refused.code, 401, "{path}");
            let challenge = "Basic realm=\"segd\", charset=\"UTF-8\"";
            assert_eq!(refused.header("www-authenticate"), Some(challenge), "{path}");
        }
        for path in ["/healthz", "/login", "/static/style.css"] {
            assert_eq!(get(address, path).code, 200, "{path}");
        }
        for path in [
            "/static/../status",
            "/static/%2e%2e/status",
            "/healthz/",
            "//status",
            "/login/../status",
        ] {
            let found = get(address, path);
            assert!(matches!(found.code, 401 | 404), "{path}: {found:?}");
        }
        // A browser is sent to the log-in; a page's script is not asked with a window.
        let page = send(address, "GET /", &["Accept: text/html"], "");
        assert_eq!((page.code, page.header("location")), (303, Some("/login")));
        let script = send(
            address,
            "GET /status",
            &["Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin"],
            "",
        );
        assert_eq!((script.code, script.header("www-authenticate")), (401, None));
    }

    #[test]
    fn the_right_password_is_let_in_and_its_user_s_role_holds() {
        let (address, _http) = serve_as(health(), users());
        let session = |name: &str, password: &str| {
            send(address, "GET /session", &[&authorization(name, password)], "").text()
        };
        assert_eq!(
            session("ann", "admin's"),
            "{\"may_change\":true,\"user\":\"ann\"}\n"
        );
        assert_eq!(
            session("bob", "viewer's"),
            "{\"may_change\":false,\"user\":\"bob\"}\n"
        );
        let post = |name: &str, password: &str| {
            let answer = send(address, "POST /status", &[&authorization(name, password)], "");
            (answer.code, answer.text())
        };
        // There is nothing to change at this address, but an admin gets so far as to be told.
        assert_eq!(post("ann", "admin's").0, 405);
        let (code, text) = post("bob", "viewer's");
        assert!(code == 403 && text.contains("access.admins"), "{code} {text}");
        for line in [
            "Authorization: Basic",
            "Authorization: Basic ???",
            "Authorization: Bearer abc",
            "Authorization: Basic YWJj",
        ] {
            assert_eq!(send(address, "GET /status", &[line], "").code, 401, "{line}");
        }
    }

    #[test]
    fn guesses_are_slowed_down_and_even_the_right_one_waits_then() {
        let (address, _http) = serve_as(health(), users());
        let code = |password: &str| send(address, "GET /status", &[&authorization("ann", password)], "").code;
        let codes: Vec<u16> = (0..8).map(|n| code(&format!("guess {n}"))).collect();
        assert_eq!(codes, [401, 401, 401, 401, 401, 429, 429, 429]);
        let late = send(address, "POST /login", &[], "name=ann&password=admin%27s");
        assert_eq!(late.code, 415, "no form was sent");
        let form = "Content-Type: application/x-www-form-urlencoded";
        let late = send(address, "POST /login", &[form], "name=ann&password=admin%27s");
        assert_eq!(late.code, 429);
        assert!(late.header("retry-after").unwrap().parse::<u64>().unwrap() <= 7);
        assert!(
            late.text().contains("Too many wrong passwords"),
            "{}",
            late.text()
        );
    }

    #[test]
    fn a_session_begins_with_the_form_and_ends_with_logging_out() {
        let (address, _http) = serve_as(health(), users());
        let form = "Content-Type: application/x-www-form-urlencoded";
        let wrong = send(address, "POST /login", &[form], "name=ann&password=viewer%27s");
        assert!(
            wrong.code == 401 && wrong.text().contains("Wrong name or password"),
            "{wrong:?}"
        );
        let begun = send(address, "POST /login", &[form], "name=ann&password=admin%27s");
        assert_eq!((begun.code, begun.header("location")), (303, Some("/")));
        let cookie = begun.header("set-cookie").unwrap();
        let (pair, rest) = cookie.split_once(';').unwrap();
        assert_eq!(rest, " Path=/; HttpOnly; SameSite=Strict");
        assert!(pair.starts_with(&format!("segd-{}=", address.port())), "{pair}");
        let with = format!("Cookie: other=1; {pair}; more=2");
        assert!(
            send(address, "GET /session", &[&with], "")
                .text()
                .contains("\"ann\"")
        );
        let ended = send(address, "POST /logout", &[&with], "");
        assert_eq!((ended.code, ended.header("location")), (303, Some("/login")));
        assert!(ended.header("set-cookie").unwrap().ends_with("; Max-Age=0"));
        assert_eq!(send(address, "GET /session", &[&with], "").code, 401);
    }

    #[test]
    fn pages_from_elsewhere_change_and_embed_nothing() {
        let (address, _http) = serve_as(health(), RtspAccess::default());
        let code = |first: &str, lines: &[&str]| send(address, first, lines, "").code;
        let own = format!("Origin: http://{address}");
        // 405: it was let through, and there is nothing to change.
        for lines in [
            &["Sec-Fetch-Site: same-origin"][..],
            &["Sec-Fetch-Site: none"],
            &[&own],
            &[],
        ] {
            assert_eq!(code("POST /status", lines), 405, "{lines:?}");
        }
        for lines in [
            &["Sec-Fetch-Site: cross-site"][..],
            &["Sec-Fetch-Site: same-site"],
            &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"],
            &["Origin: http://evil.example"],
            &["Origin: null"],
            &["Origin: http://127.0.0.1"],
        ] {
            assert_eq!(code("POST /status", lines), 403, "{lines:?}");
        }
        assert_eq!(code("GET /status", &["Sec-Fetch-Site: cross-site"]), 403);
        assert_eq!(
            code(
                "GET /status",
                &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"]
            ),
            200
        );
        let socket = [
            "Upgrade: websocket",
            "Connection: upgrade",
            "Origin: http://evil.example",
        ];
        assert_eq!(code("GET /status", &socket), 403);
        assert_eq!(
            get(address, "/status").header("cross-origin-resource-policy"),
            Some("same-origin")
        );
    }
}
