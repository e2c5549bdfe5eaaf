//! `GET /health`: whether this server can do its work, for load balancers and supervisors.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use im_engine::{Engine, UserId};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

/// How long an answer is given again, so that nobody keeps the database busy by asking.
const FRESH: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Health {
    chat: Engine,
    last: Mutex<Option<(Instant, bool)>>,
}

/// The route: 200 while the store answers, else 503. A server that drains takes no connection at all.
pub(crate) fn route(chat: Engine) -> Router {
    let health = Health { chat, last: Mutex::new(None) };
    Router::new().route("/health", get(answer)).with_state(Arc::new(health))
}

async fn answer(State(health): State<Arc<Health>>) -> (StatusCode, Json<Value>) {
    match health.store_answers().await {
        true => (StatusCode::OK, Json(json!({ "status": "ok" }))),
        false => {
            let status = json!({ "status": "the store does not answer" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(status))
        }
    }
}

impl Health {
    async fn store_answers(&self) -> bool {
        let mut last = self.last.lock().await;
        if let Some((at, answered)) = *last
            && at.elapsed() < FRESH
        {
            return answered;
        }
        let nobody = UserId::system();
        let question = self.chat.conversations(&nobody, None, 1);
        let answered = matches!(tokio::time::timeout(PATIENCE, question).await, Ok(Ok(_)));
        *last = Some((Instant::now(), answered));
        answered
    }
}

#[cfg(test)]
mod tests {
    use im_store_sqlite::Sqlite;

    use super::*;

    #[tokio::test]
    async fn a_server_whose_store_is_gone_is_not_healthy() {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(folder.path().join("chat.db")).await.unwrap();
        let chat = Engine::builder(sqlite.clone()).start().await.unwrap();
        let health = Arc::new(Health { chat, last: Mutex::new(None) });
        assert_eq!(answer(State(health.clone())).await.0, StatusCode::OK);
        sqlite.close().await.unwrap();
        assert_eq!(answer(State(health.clone())).await.0, StatusCode::OK, "asked a moment ago");
        *health.last.lock().await = None;
        assert_eq!(answer(State(health)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
