//! Chat embedded in an axum application.
fn main() {}
