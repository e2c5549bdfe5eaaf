//! The example chat server: what cargo run starts.
fn main() {}
