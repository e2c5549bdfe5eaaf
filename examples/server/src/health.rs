//! `GET /health`: whether this server can do its work, for load balancers and supervisors.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use im_engine::{Engine, UserId};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long an answer is given again, so that nobody keeps the database busy by asking.
const FRESH: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Health {
    chat: Engine,
    stop: CancellationToken,
    asked: UserId,
    last: Mutex<Option<(Instant, bool)>>,
}

/// The route: 200 while the server takes work and its store answers, else 503.
pub(crate) fn route(chat: Engine, stop: CancellationToken) -> Router {
    let health = Health { chat, stop, asked: UserId::system(), last: Mutex::new(None) };
    Router::new().route("/health", get(answer)).with_state(Arc::new(health))
}

async fn answer(State(health): State<Arc<Health>>) -> (StatusCode, Json<Value>) {
    let status = if health.stop.is_cancelled() {
        "draining"
    } else if health.store_answers().await {
        return (StatusCode::OK, Json(json!({ "status": "ok" })));
    } else {
        "the store does not answer"
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status })))
}

impl Health {
    async fn store_answers(&self) -> bool {
        let mut last = self.last.lock().await;
        if let Some((at, answered)) = *last
            && at.elapsed() < FRESH
        {
            return answered;
        }
        let question = self.chat.conversations(&self.asked, None, 1);
        let answered = matches!(tokio::time::timeout(PATIENCE, question).await, Ok(Ok(_)));
        *last = Some((Instant::now(), answered));
        answered
    }
}
