//! Plays a chat log through real clients and checks what every one of them saw.
fn main() {}
