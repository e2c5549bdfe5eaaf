//! Whether a client reads what waits for it.

use std::time::Duration;

use tokio::time::Instant;

/// How many times as long a client may leave no room for more as it may read nothing.
const FULL: u32 = 6;

/// Until when a client must have read something, and until when enough. While nothing waits it says nothing.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    /// By when it must have read some, and how many bytes had been written when that was set.
    some: Option<(Instant, u64)>,
    /// By when there must be room again: who reads a byte now and then would otherwise stay for ever.
    room: Option<Instant>,
}

impl Stall {
    /// Nothing waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Something waits, after so many bytes were written in all; `full`: so much that there is no room for more.
    pub(crate) fn waits(&mut self, written: u64, full: bool, timeout: Duration) {
        if self.some.is_none_or(|(_, before)| before != written) {
            self.some = Some((Instant::now() + timeout, written));
        }
        match full {
            true => drop(self.room.get_or_insert_with(|| Instant::now() + timeout * FULL)),
            false => self.room = None,
        }
    }

    /// When the client has been waited for long enough.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.some.map(|(by, _)| by).into_iter().chain(self.room).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_has_one_timeout() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        assert_eq!(stall.due(), None);
        stall.waits(100, false, TIMEOUT);
        tokio::time::advance(Duration::from_secs(9)).await;
        stall.waits(100, false, TIMEOUT);
        assert_eq!(stall.due(), Some(start + TIMEOUT));
        stall.waits(101, false, TIMEOUT);
        assert_eq!(stall.due(), Some(start + Duration::from_secs(19)));
        stall.clear();
        assert_eq!(stall.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_too_little_has_six() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        for written in 0..100 {
            stall.waits(written, true, TIMEOUT);
            assert!(stall.due() <= Some(start + TIMEOUT * 6));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(stall.due(), Some(start + TIMEOUT * 6));
        stall.waits(100, false, TIMEOUT);
        assert_eq!(stall.due(), Some(Instant::now() + TIMEOUT), "there is room again");
    }
}
