//! Tasks of the project: setup, test, check.
fn main() {}
