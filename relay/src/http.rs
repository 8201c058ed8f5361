//! What is asked of the program from outside: whether it lives, whether it works, and its figures.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use streams_core::{Error, ErrorKind, Result};
use tokio::net::TcpListener;

use crate::status::Status;

/// How often the figures are tidied, so that they do not grow when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Answers {
    status: Status,
    metrics: PrometheusHandle,
}

/// Opens the port.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| {
        Error::new(
            ErrorKind::Unavailable,
            "the address of `http.listen` cannot be listened on; take another, or off",
        )
        .with("address", address)
        .source(source)
    })
}

/// Answers requests until it is dropped.
pub(crate) async fn serve(listener: TcpListener, status: Status, metrics: PrometheusHandle) {
    let answers = Answers { status, metrics };
    let router = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(figures))
        .with_state(answers);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "health and metrics are served no more");
    }
}

/// Tidies the figures from time to time.
pub(crate) async fn upkeep(metrics: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

async fn readiness(State(answers): State<Answers>) -> impl IntoResponse {
    match answers.status.readiness().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn figures(State(answers): State<Answers>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], answers.metrics.render())
}
