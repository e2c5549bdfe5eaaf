//! How fast a connection may ask: a token bucket that can go into debt.

use std::time::Duration;

use tokio::time::Instant;

/// How many frames a connection may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// In the long run, per second.
    pub per_second: f32,
    /// At once, after a pause.
    pub burst: f32,
}

/// A token bucket. What is refused costs as well: a client that goes on regardless sinks into debt, and one whose debt
/// exceeds a burst is a flood.
#[derive(Debug)]
pub(crate) struct Bucket {
    level: f32,
    filled: Instant,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Taken {
    /// It may be served.
    Served,
    /// It may not; not before this time.
    TooFast(Duration),
    /// It did not end.
    Flood,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { level: rate.burst, filled: now }
    }

    /// Takes the cost of a frame.
    pub(crate) fn take(&mut self, cost: f32, rate: Rate, now: Instant) -> Taken {
        let filled = self.level + now.saturating_duration_since(self.filled).as_secs_f32() * rate.per_second;
        self.level = filled.min(rate.burst) - cost;
        self.filled = now;
        if self.level >= 0.0 {
            Taken::Served
        } else if self.level >= -rate.burst {
            Taken::TooFast(Duration::from_secs_f32(-self.level / rate.per_second))
        } else {
            Taken::Flood
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 20.0 };

    fn after(start: Instant, seconds: f32) -> Instant {
        start + Duration::from_secs_f32(seconds)
    }

    #[test]
    fn a_burst_is_served_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        for _ in 0..20 {
            assert_eq!(bucket.take(1.0, RATE, start), Taken::Served);
        }
        let Taken::TooFast(wait) = bucket.take(1.0, RATE, start) else { panic!("not too fast") };
        assert!((wait.as_secs_f32() - 0.1).abs() < 0.01, "{wait:?}");
        for turn in 1..100 {
            let now = after(start, 0.1 + 0.1001 * turn as f32);
            assert_eq!(bucket.take(1.0, RATE, now), Taken::Served, "turn {turn}");
        }
    }

    #[test]
    fn who_goes_on_regardless_is_a_flood_and_who_waits_is_forgiven() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        let taken: Vec<_> = (0..41).map(|_| bucket.take(1.0, RATE, start)).collect();
        assert_eq!(taken.iter().filter(|taken| **taken == Taken::Served).count(), 20);
        assert_eq!(taken.iter().position(|taken| *taken == Taken::Flood), Some(40));
        let mut bucket = Bucket::new(RATE, start);
        for _ in 0..40 {
            bucket.take(1.0, RATE, start);
        }
        assert_eq!(bucket.take(1.0, RATE, after(start, 10.0)), Taken::Served);
    }

    #[test]
    fn a_clock_that_stands_still_fills_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, after(start, 5.0));
        assert_eq!(bucket.take(20.0, RATE, start), Taken::Served);
        assert!(matches!(bucket.take(1.0, RATE, start), Taken::TooFast(_)));
    }
}
