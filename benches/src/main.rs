//! Benchmarks of the chat engine beside the raw limit of each backend.
fn main() {}
