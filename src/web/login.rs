//! `/login`, `/logout` and `/session`.

use std::time::Instant;

use axum::extract::{Extension, Form, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::json;

use super::app::{App, OfConnection};
use super::guard::{Refused, Role, Who, log_in};

const PAGE: &str = include_str!("static/login.html");
/// Where in the page a refusal is said.
const MESSAGE: &str = "<!--message-->";

fn page(message: &str) -> Html<String> {
    let message = match message {
        "" => String::new(),
        text => format!("<p class=\"refused\" role=\"alert\">{text}</p>"),
    };
    Html(PAGE.replace(MESSAGE, &message))
}

/// 200 and the form.
pub(super) async fn form() -> Html<String> {
    page("")
}

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct Filled {
    name: String,
    password: String,
}

/// 303 to the page with a session's cookie; 401 and the form again; 429 after too many wrong passwords.
pub(super) async fn log_in_by_form(
    State(app): State<App>,
    connection: OfConnection,
    Form(filled): Form<Filled>,
) -> Response {
    let connection = connection.map(|Extension(c)| c).unwrap_or_default();
    let rules = app.gate.rules();
    match log_in(&app, &rules, &filled.name, &filled.password, connection.peer) {
        Ok(()) => {}
        Err(Refused::Wrong) => {
            return (StatusCode::UNAUTHORIZED, page("Wrong name or password.")).into_response();
        }
        Err(Refused::TooMany(refused)) => {
            let wait = refused.headers().get(RETRY_AFTER).cloned();
            let wait = wait.map(|wait| [(RETRY_AFTER, wait)]);
            let again = page("Too many wrong passwords. Wait a few seconds and try again.");
            let mut response = (refused.status(), again).into_response();
            response.headers_mut().extend(wait.into_iter().flatten());
            return response;
        }
    }
    let begun = rules
        .user(&filled.name)
        .map(|user| app.sessions.begin(user, Instant::now()));
    match begun {
        Some(Ok(token)) => {
            let cookie = cookie(&app, &token, connection.is_tls, "");
            ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response()
        }
        Some(Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
        None => (StatusCode::UNAUTHORIZED, page("Wrong name or password.")).into_response(),
    }
}

fn cookie(app: &App, token: &str, is_tls: bool, age: &str) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    format!(
        "{}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{age}",
        app.gate.cookie()
    )
}

/// 303 to the log-in; the session has ended.
pub(super) async fn log_out(State(app): State<App>, connection: OfConnection, request: Request) -> Response {
    let name = app.gate.cookie();
    let cookies = request
        .headers()
        .get_all(COOKIE)
        .iter()
        .filter_map(|c| c.to_str().ok());
    for (key, token) in cookies
        .flat_map(|c| c.split(';'))
        .filter_map(|one| one.trim().split_once('='))
    {
        if key == name {
            app.sessions.end(token);
        }
    }
    let is_tls = connection.is_some_and(|Extension(c)| c.is_tls);
    let gone = cookie(&app, "", is_tls, "; Max-Age=0");
    ([(SET_COOKIE, gone)], Redirect::to("/login")).into_response()
}

/// 200 and who asks.
pub(super) async fn session(Extension(who): Extension<Who>) -> Response {
    let told = json!({
        "user": who.name,
        "may_change": who.role == Role::Admin,
    });
    ([(CONTENT_TYPE, "application/json")], format!("{told}\n")).into_response()
}
