//! Limits and times of the transport, with their defaults.

use std::time::Duration;

use crate::Rate;

/// Limits and times of the transport. Start from [`WsConfig::default`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WsConfig {
    /// The longest frame of a client that is served, in bytes. Longer ones, up to four times this, are read and refused;
    /// still longer ones close the connection unread. Default 128 KiB.
    pub frame_bytes: usize,
    /// The longest frame before a session has begun, in bytes. Default 16 KiB.
    pub hello_bytes: usize,
    /// How long a connection may stay without a session. Default 10 s.
    pub hello_timeout: Duration,
    /// How many connections may be without a session at a time; more are refused with status 503. Default 4,096.
    pub max_waiting: usize,
    /// How many bytes may wait for a client that reads slowly before its requests and events wait too. It is also about the
    /// longest answer: a page that would be longer ends earlier. Default 256 KiB.
    pub outgoing_bytes: usize,
    /// How long a client may read nothing of what waits for it before it is closed; one that reads, but leaves
    /// [`WsConfig::outgoing_bytes`] full, has six times as long. Default 10 s.
    pub write_timeout: Duration,
    /// How long a closing connection waits for the client's part of it. Default 3 s.
    pub close_timeout: Duration,
    /// How many sends of a connection may wait for their acks; then no more requests are read. Default 256.
    pub in_flight: usize,
    /// How many frames a connection may send. Default 50 a second, 200 at once.
    pub rate: Rate,
    /// Over how long a time [`Transport::drain`](crate::Transport::drain) spreads the closing of connections, so that their
    /// clients do not all come back at once. Default 5 s.
    pub drain: Duration,
    /// From which origins browsers may connect, such as `https://chat.example`; none: from any. A client without an `Origin`
    /// (mini-programs, native clients) is not asked: the token in the first frame, not a cookie, says who it is. Default none.
    pub allowed_origins: Option<Vec<String>>,
}

impl Default for WsConfig {
    fn default() -> Self {
        Self {
            frame_bytes: 128 << 10,
            hello_bytes: 16 << 10,
            hello_timeout: Duration::from_secs(10),
            max_waiting: 4096,
            outgoing_bytes: 256 << 10,
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
            in_flight: 256,
            rate: Rate { per_second: 50.0, burst: 200.0 },
            drain: Duration::from_secs(5),
            allowed_origins: None,
        }
    }
}
