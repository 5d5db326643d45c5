//! The status page: one look at the fleet, read-only, without scripts.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use coord_proto::keys::KeySpace;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use tokio::sync::watch;

use crate::artifacts::server::ArtifactServer;
use crate::view::Fleet;
use crate::web::metrics;

mod app;
mod html;
mod row;

/// What the status page is made from.
#[derive(Clone)]
pub struct StatusPage {
    fleets: watch::Receiver<Option<Arc<Fleet>>>,
    keys: KeySpace,
    artifacts: Option<ArtifactServer>,
}

impl StatusPage {
    /// Shows what `fleets` last said; `artifacts` adds its numbers to the metrics.
    pub fn new(fleets: watch::Receiver<Option<Arc<Fleet>>>, keys: KeySpace, artifacts: Option<ArtifactServer>) -> Self {
        Self { fleets, keys, artifacts }
    }

    /// `/`, `/healthz` and `/metrics`.
    pub fn router(self) -> Router {
        Router::new().route("/", get(page)).route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state(self)
    }

    fn fleet(&self) -> Option<Arc<Fleet>> {
        self.fleets.borrow().clone()
    }
}

async fn page(State(page): State<StatusPage>) -> Response {
    let now = jiff::Timestamp::now().as_second();
    let text = html::page(page.fleet().as_deref(), &page.keys.to_string(), now);
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (CACHE_CONTROL, "no-store".to_owned()),
        // Nothing but the one style sheet: whatever slips through the escaping is not executed.
        (CONTENT_SECURITY_POLICY, html::content_security_policy()),
    ];
    (headers, text).into_response()
}

/// 200 while the store answers; 503 with the reason when it does not. Servers keep running what they run (I7).
async fn healthz(State(page): State<StatusPage>) -> Response {
    match page.fleet() {
        Some(fleet) if fleet.restored => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", html::RESTORED)).into_response(),
        Some(fleet) if fleet.fresh => (StatusCode::OK, "ok\n").into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "etcd does not answer; what is shown is the last good view\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "etcd has not answered yet\n").into_response(),
    }
}

async fn metrics(State(page): State<StatusPage>) -> Response {
    let downloads = page.artifacts.as_ref().map(ArtifactServer::downloads_free);
    let text = metrics::text(page.fleet().as_deref(), downloads);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests;
