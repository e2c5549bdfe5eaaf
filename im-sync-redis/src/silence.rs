//! Connections that are open, and on which nothing is answered any more.
//!
//! fred 10.1 gives a connection up whose last command is older than a limit, so never one that is asked without a pause. Here it is given
//! up when a command has waited for its answer as long as it may, and nothing came meanwhile.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// When the servers were heard of last.
#[derive(Debug)]
pub(crate) struct Silence {
    begun: Instant,
    /// In µs since then; also when the connections were given up last.
    heard: AtomicU64,
}

impl Silence {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), heard: AtomicU64::default() }
    }

    /// The time of a command that is sent now.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// An answer came.
    pub(crate) fn heard(&self) {
        self.heard.fetch_max(self.now(), Ordering::Relaxed);
    }

    /// Whether nothing was heard since a command was sent, for which nobody waits any more. True once: the connections are to be given
    /// up then, and what was sent on them before says nothing of the next ones.
    pub(crate) fn lasts_since(&self, sent: u64) -> bool {
        let given_up = |heard| (heard < sent).then(|| self.now());
        self.heard.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given_up).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_said_once_and_not_of_a_connection_that_answers() {
        let silence = Silence::new();
        while silence.now() < 2 {}
        let (first, second) = (silence.now() - 1, silence.now());
        assert!(silence.lasts_since(first));
        assert!(!silence.lasts_since(second), "sent on the connection that was given up");
        while silence.now() <= second + 1 {}
        let third = silence.now();
        while silence.now() == third {}
        silence.heard();
        assert!(!silence.lasts_since(third));
    }
}
