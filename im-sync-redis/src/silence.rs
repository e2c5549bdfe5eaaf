//! Connections that are open, and on which nothing is answered any more.
//!
//! fred 10.1 gives a connection up whose last command is older than a limit, so never one that is asked without a pause. Here something
//! is done when a command has waited for its answer as long as it may, and nothing came meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// When the servers were heard of last, and when something was done about their silence.
#[derive(Debug)]
pub(crate) struct Silence {
    begun: Instant,
    /// In µs since then.
    heard: AtomicU64,
    /// The same; while something is done it is not over.
    done: AtomicU64,
}

impl Default for Silence {
    fn default() -> Self {
        Self { begun: Instant::now(), heard: AtomicU64::default(), done: AtomicU64::default() }
    }
}

impl Silence {
    const NOT_YET: u64 = u64::MAX;

    /// The time of a command that is sent now.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(Self::NOT_YET - 1)
    }

    /// An answer came.
    pub(crate) fn heard(&self) {
        self.heard.fetch_max(self.now(), Ordering::Relaxed);
    }

    /// Whether nothing was heard since a command was sent, for which nobody waits any more.
    pub(crate) fn lasts_since(&self, sent: u64) -> bool {
        self.heard.load(Ordering::Relaxed) < sent
    }

    /// For who does something about it, for the sake of a command; none while another does, and where something was done since the command was
    /// sent: what is done in vain must not be done for each that fails.
    pub(crate) fn turn(self: &Arc<Self>, sent: u64) -> Option<Turn> {
        let begins = |done: u64| (done < sent).then_some(Self::NOT_YET);
        self.done
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, begins)
            .is_ok()
            .then(|| Turn(self.clone()))
    }
}

/// It is done when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Silence>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.done.store(self.0.now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(silence: &Silence) -> u64 {
        let before = silence.now();
        while silence.now() <= before + 1 {}
        silence.now()
    }

    #[test]
    fn silence_ends_with_an_answer_and_is_cared_for_once() {
        let silence = Arc::<Silence>::default();
        let first = pass(&silence);
        assert!(silence.lasts_since(first));
        pass(&silence);
        silence.heard();
        assert!(!silence.lasts_since(first), "something was answered later");
        let second = pass(&silence);
        assert!(silence.lasts_since(second));
        let turn = silence.turn(second).unwrap();
        let third = pass(&silence);
        assert!(silence.turn(third).is_none(), "one at a time");
        drop(turn);
        assert!(silence.turn(third).is_none(), "sent before it was done");
        assert!(silence.turn(pass(&silence)).is_some());
    }
}
