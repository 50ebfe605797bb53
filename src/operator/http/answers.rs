//! The answers: the paths, who may ask, and the headers that keep browsers from doing more with an answer.
//!
//! Invariant: every answer carries the headers of [`guarded`], including errors, and none takes longer than the time for
//! answers.

use crate::wire::wall_clock::now_ms;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::history::{History, PlotSeries};
use super::{StatusSource, host, metrics, page};
use crate::proto::admin::{DeadLetter, StatusResponse};

/// Number of dead letters that the page shows.
pub(super) const LETTERS: usize = 50;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// Headers of every answer. The page has a policy of its own.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];
const NOTHING_ALLOWED: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

#[derive(Debug)]
struct HttpAnswers {
    source: Arc<dyn StatusSource>,
    history: Arc<History>,
    draining: CancellationToken,
    /// Whether this is served on the loopback interface only.
    loopback: bool,
    answer_time: Duration,
}

pub(super) fn router(
    source: Arc<dyn StatusSource>,
    history: Arc<History>,
    draining: CancellationToken,
    loopback: bool,
    answer_time: Duration,
) -> Router {
    let answers = Arc::new(HttpAnswers { source, history, draining, loopback, answer_time });
    Router::new()
        .route("/", get(shown))
        .route("/metrics", get(measured))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/status.json", get(told))
        .fallback(nowhere)
        .layer(from_fn_with_state(answers.clone(), guarded))
        .with_state(answers)
}

/// Checks method and host before anything else, limits the time, and adds the headers.
async fn guarded(State(answers): State<Arc<HttpAnswers>>, request: Request, next: Next) -> Response {
    let mut response = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = "only GET and HEAD: nothing can be changed here\n";
        (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], text).into_response()
    } else if answers.loopback && !host::names_loopback(request.uri(), request.headers()) {
        let text = "this address is of the loopback interface and answers to localhost, 127.0.0.1 and [::1] only; \
                    set HTTP_LISTEN_ADDR to be reached by other names\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    } else {
        tokio::time::timeout(answers.answer_time, next.run(request)).await.unwrap_or_else(|_| {
            let text = format!("the store did not say within {:?} how it is\n", answers.answer_time);
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        })
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(NOTHING_ALLOWED);
    response
}

async fn nowhere() -> Response {
    let text = "nothing is here; there are / /metrics /healthz /readyz /status.json\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn alive() -> Response {
    ([(CONTENT_TYPE, TEXT)], "alive\n").into_response()
}

async fn ready(State(answers): State<Arc<HttpAnswers>>) -> Response {
    if answers.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining: the gateway is shutting down\n").into_response();
    }
    if answers.source.is_serving() {
        return ([(CONTENT_TYPE, TEXT)], "serving\n").into_response();
    }
    let StatusResponse { state, state_reason, .. } = answers.source.status().await;
    (StatusCode::SERVICE_UNAVAILABLE, format!("{state}: {state_reason}\n")).into_response()
}

async fn measured(State(answers): State<Arc<HttpAnswers>>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = metrics::MetricsFormat::wanted(accept);
    match metrics::write(answers.source.clone(), format).await {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            let text = format!("the metrics cannot be written: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// The data from which the page is drawn.
#[derive(Debug, Serialize)]
struct PageData {
    now_ms: u64,
    status: StatusResponse,
    /// The newest ones.
    dead_letters: Vec<DeadLetter>,
    history: PlotSeries,
}

async fn told(State(answers): State<Arc<HttpAnswers>>) -> Response {
    let told = PageData {
        now_ms: now_ms(),
        status: answers.source.status().await,
        dead_letters: answers.source.dead_letters(LETTERS).await,
        history: answers.history.series(),
    };
    match serde_json::to_vec(&told) {
        Ok(json) => ([(CONTENT_TYPE, JSON)], json).into_response(),
        Err(error) => {
            let text = format!("the status cannot be written as JSON: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn shown() -> Response {
    match page::page() {
        Ok(page::Page { policy, html }) => {
            ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, &policy)], html).into_response()
        }
        Err(error) => {
            let text = format!("the system gives no random bytes for the page's policy: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}
