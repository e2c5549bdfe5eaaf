//! Closed and open loops.
//!
//! A closed loop sends the next request when the last one is answered, so it finds the maximum and never queues: a stall of the
//! server is seen by the few requests in flight only. An open loop sends by a timetable whatever the server does, and latency
//! counts from the timetable: a stall is seen by everything that was due during it (coordinated omission).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{Failure, Outcome, stats::Latencies};

/// What a loop did.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) done: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
}

impl Round {
    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }
}

/// Arrivals at even distances.
#[derive(Debug)]
pub(crate) struct Timetable {
    start: Instant,
    rate: f64,
    fired: u64,
    total: u64,
}

impl Timetable {
    /// `rate` arrivals per second for this long, at least one.
    pub(crate) fn new(start: Instant, rate: f64, length: Duration) -> Self {
        Self { start, rate, fired: 0, total: ((rate * length.as_secs_f64()) as u64).max(1) }
    }

    /// When the next arrival is due; none after the last.
    pub(crate) fn next(&self) -> Option<Instant> {
        (self.fired < self.total).then(|| self.start + Duration::from_secs_f64(self.fired as f64 / self.rate))
    }

    /// The next arrival if it is due: when it was.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next().filter(|due| *due <= now)?;
        self.fired += 1;
        Some(due)
    }
}

/// Makes `rate` requests per second, each in a task of its own; all must succeed.
pub(crate) async fn open_loop<F>(
    rate: f64,
    length: Duration,
    mut request: impl FnMut(u64, Instant) -> F,
) -> Outcome<Round>
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let start = Instant::now();
    let mut timetable = Timetable::new(start, rate, length);
    let mut latencies = Latencies::new()?;
    let mut tasks = JoinSet::new();
    let mut begun = 0;
    while let Some(next) = timetable.next() {
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            Some(done) = tasks.join_next() => latencies.record(done??),
        }
        while let Some(due) = timetable.take(Instant::now()) {
            // A task that holds it itself would be moved several times, kilobytes each.
            let request = Box::pin(request(begun, due));
            begun += 1;
            tasks.spawn(async move {
                request.await?;
                Ok::<_, Failure>(due.elapsed())
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        latencies.record(done??);
    }
    Ok(Round { done: begun, elapsed: start.elapsed(), latencies })
}

/// `callers` tasks make one request after the other for this long; all must succeed. The request is told its caller.
pub(crate) async fn closed_loop<F>(
    callers: usize,
    length: Duration,
    request: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Outcome<Round>
where
    F: Future<Output = Outcome> + Send,
{
    let latencies = Arc::new(Mutex::new(Latencies::new()?));
    let start = Instant::now();
    let mut tasks: JoinSet<Outcome<u64>> = JoinSet::new();
    for caller in 0..callers {
        let (request, latencies) = (request.clone(), latencies.clone());
        tasks.spawn(async move {
            let mut done = 0;
            while start.elapsed() < length {
                let begun = Instant::now();
                request(caller).await?;
                latencies.lock().unwrap_or_else(PoisonError::into_inner).record(begun.elapsed());
                done += 1;
            }
            Ok(done)
        });
    }
    let mut done = 0;
    while let Some(task) = tasks.join_next().await {
        done += task??;
    }
    let elapsed = start.elapsed();
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Round { done, elapsed, latencies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_during_a_stall_is_due_at_its_own_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timetable = Timetable::new(start, 100.0, Duration::from_millis(60));
        assert_eq!(timetable.take(start), Some(start));
        assert_eq!(timetable.take(start), None, "the next one is due in 10 ms");
        assert_eq!(timetable.next(), Some(at(10)));
        // Nobody looked for 35 ms: the three that were due are not moved to the moment of looking.
        let late: Vec<Instant> = std::iter::from_fn(|| timetable.take(at(35))).collect();
        assert_eq!(late, [at(10), at(20), at(30)]);
        let rest: Vec<Instant> = std::iter::from_fn(|| timetable.take(at(1000))).collect();
        assert_eq!(rest, [at(40), at(50)]);
        assert_eq!(timetable.next(), None, "six in 60 ms");
    }

    /// A server that does one request at a time and stalls once. Only with latencies from the timetable does the stall show in
    /// more than one request.
    #[tokio::test(start_paused = true)]
    async fn a_stall_is_seen_by_everything_that_was_due_meanwhile() {
        let server = Arc::new(tokio::sync::Mutex::new(()));
        let start = Instant::now();
        let round = open_loop(100.0, Duration::from_millis(300), |number, _| {
            let server = server.clone();
            async move {
                let _turn = server.lock().await;
                if number == 0 {
                    std::thread::sleep(Duration::from_millis(200));
                }
                Ok(())
            }
        })
        .await
        .unwrap();
        assert_eq!(round.done, 30);
        assert!(start.elapsed() >= Duration::from_millis(200));
        // Those due after 10, 20 … 190 ms waited for what was left of the stall: about a third of all for more than 100 ms.
        let (two_thirds, most) = (round.latencies.quantile_ms(0.7), round.latencies.quantile_ms(1.0));
        assert!(two_thirds >= Some(90.0), "{two_thirds:?}");
        assert!(most >= Some(199.0), "{most:?}");
    }

    #[tokio::test]
    async fn a_failed_request_fails_the_loop() {
        let open = open_loop(1000.0, Duration::from_millis(5), |_, _| async { Err("no".into()) }).await;
        assert_eq!(open.unwrap_err().to_string(), "no");
        let closed = closed_loop(2, Duration::from_millis(5), |_| async { Err("no".into()) }).await;
        assert_eq!(closed.unwrap_err().to_string(), "no");
    }
}
