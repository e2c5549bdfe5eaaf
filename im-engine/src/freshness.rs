//! Whether a log with a limited memory of send keys surely remembers an id.

use std::time::Duration;

use im_core::{ClientMsgId, Timestamp};
use uuid::Uuid;

/// What a client message id's own time says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Had it been sent before, the log would remember it.
    Fresh,
    /// It has no time, or one that the log may have forgotten: ask the store.
    Unknown,
    /// Its time is too far ahead of the server's clock.
    Future,
}

impl Freshness {
    /// Of a UUIDv7 with time *t*: above now + W/4 it is from the future; it is fresh if now − t ≤ W/2 and t − W/4 lies after
    /// the epoch's beginning. Every other id is unknown.
    pub(crate) fn of(id: &ClientMsgId, now: Timestamp, window: Duration, epoch_began: Timestamp) -> Self {
        let Some(made) = time_of(id) else { return Self::Unknown };
        if made > now.plus(window / 4) {
            Self::Future
        } else if now.since(made) <= window / 2 && made.minus(window / 4) > epoch_began {
            Self::Fresh
        } else {
            Self::Unknown
        }
    }
}

fn time_of(id: &ClientMsgId) -> Option<Timestamp> {
    let uuid = Uuid::try_parse(id.as_str()).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    Some(Timestamp(seconds as i64 * 1000 + i64::from(nanos / 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Duration = Duration::from_secs(120);

    fn id_at(ms: i64) -> ClientMsgId {
        let time =
            uuid::Timestamp::from_unix(uuid::NoContext, (ms / 1000) as u64, ((ms % 1000) * 1_000_000) as u32);
        ClientMsgId::new(Uuid::new_v7(time).to_string()).unwrap()
    }

    #[test]
    fn the_borders_of_the_window() {
        let now = Timestamp(1_000_000_000);
        let began = Timestamp(now.0 - 10_000_000);
        let of = |ms| Freshness::of(&id_at(ms), now, W, began);
        assert_eq!(of(now.0), Freshness::Fresh);
        assert_eq!(of(now.0 - 60_000), Freshness::Fresh);
        assert_eq!(of(now.0 - 60_001), Freshness::Unknown);
        assert_eq!(of(now.0 + 30_000), Freshness::Fresh);
        assert_eq!(of(now.0 + 30_001), Freshness::Future);
    }

    #[test]
    fn in_a_young_epoch_nothing_is_fresh() {
        let now = Timestamp(1_000_000_000);
        assert_eq!(Freshness::of(&id_at(now.0), now, W, now), Freshness::Unknown);
        assert_eq!(Freshness::of(&id_at(now.0), now, W, now.minus(W / 4)), Freshness::Unknown);
    }

    #[test]
    fn an_id_without_a_time_is_unknown() {
        let id = ClientMsgId::new("m1").unwrap();
        assert_eq!(Freshness::of(&id, Timestamp(0), W, Timestamp(0)), Freshness::Unknown);
    }
}
