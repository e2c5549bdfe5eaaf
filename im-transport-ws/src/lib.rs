//! axum WebSocket transport of the chat engine.
