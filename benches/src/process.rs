//! What the operating system knows and allows.

use std::sync::{Mutex, PoisonError};

use crate::Outcome;

/// The memory that this process holds now, in KiB (`VmRSS`).
pub(crate) fn rss_kb() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// What this process has had read from disks so far, in KiB: the system's cache had none of it.
pub(crate) fn disk_kb() -> Outcome<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes:")).ok_or("no read_bytes")?;
    Ok(bytes.trim().parse::<u64>()? / 1024)
}

/// Processor time since some moment, in microseconds; the system counts it in ticks of 10 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cpu {
    /// Of this process.
    pub(crate) own: u64,
    /// Of everything else on the machine: a database server, mostly.
    pub(crate) others: u64,
}

impl Cpu {
    /// Since the start of each.
    pub(crate) fn now() -> Outcome<Self> {
        /// `USER_HZ` is 100 on every Linux that Rust runs on: proc(5).
        const TICK: u64 = 10_000;
        let machine = Ticks::read(&std::fs::read_to_string("/proc/stat")?).ok_or("no processor time")?;
        let own = worked(&std::fs::read_to_string("/proc/self/stat")?).ok_or("no processor time")?;
        Ok(Self { own: own * TICK, others: (machine.busy * TICK).saturating_sub(own * TICK) })
    }

    /// Adds what passed since an earlier time.
    pub(crate) fn add_since(&mut self, earlier: Self) -> Outcome {
        let now = Self::now()?;
        self.own += now.own.saturating_sub(earlier.own);
        self.others += now.others.saturating_sub(earlier.others);
        Ok(())
    }
}

/// The ticks that a process has worked, of its `stat`: behind the name, which may hold anything, the state is field 3, the times of
/// user and system 14 and 15.
fn worked(stat: &str) -> Option<u64> {
    let mut times =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).map_while(|time| time.parse::<u64>().ok());
    times.next()?.checked_add(times.next()?)
}

/// The processor time of the whole machine, in ticks since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Ticks {
    all: u64,
    /// What was worked.
    busy: u64,
    /// What the processors would have worked, but their host gave to other machines.
    stolen: u64,
}

impl Ticks {
    /// Of `/proc/stat`, whose first line is: cpu, user, nice, system, idle, iowait, irq, softirq, steal …
    fn read(stat: &str) -> Option<Self> {
        let mut times = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let before: Vec<u64> = times.by_ref().take(7).map_while(|time| time.parse::<u64>().ok()).collect();
        let stolen = times.next()?.parse().ok()?;
        let all = before.iter().sum::<u64>();
        let idle = before.iter().skip(3).take(2).sum::<u64>();
        Some(Self { all: all + stolen, busy: all - idle, stolen })
    }

    /// The share that was stolen since an earlier time.
    fn share_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

static LAST: Mutex<Option<Ticks>> = Mutex::new(None);

/// The share of the machine's processor time that others were given since the last call; none at the first one, and where the
/// system does not tell.
pub(crate) fn steal() -> Option<f64> {
    let now = Ticks::read(&std::fs::read_to_string("/proc/stat").ok()?)?;
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).replace(now)?;
    Some(now.share_since(last))
}

/// Runs something to its end where that cannot be awaited. On a thread of its own: a runtime cannot be waited for within another.
pub(crate) fn to_the_end(what: impl Future<Output = Outcome> + Send) -> Outcome {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(what);
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err("it panicked".into()))
}

/// Raises the limit of open files as far as it goes; fails where `sockets` do not fit under it.
pub(crate) fn allow_sockets(sockets: usize) -> Outcome {
    /// What a process has open beside its sockets.
    const OTHERS: u64 = 64;
    let wanted = sockets as u64 + OTHERS;
    let limit = rlimit::increase_nofile_limit(wanted)?;
    if limit < wanted {
        return Err(format!("{wanted} open files are needed, {limit} allowed: see --connections").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stolen_is_a_share_of_all_ticks() {
        let before = Ticks::read("cpu  10 0 5 80 3 1 1 0 7 0\ncpu0 1 2 3").unwrap();
        assert_eq!(before, Ticks { all: 100, busy: 17, stolen: 0 });
        let after = Ticks::read("cpu  60 0 5 100 3 1 1 30 57 0\n").unwrap();
        assert!((after.share_since(before) - 0.3).abs() < 1e-9);
        assert_eq!(Ticks::read("cpu  60 0 5"), None);
    }

    #[test]
    fn a_process_works_in_user_and_system() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 31 12 13 14";
        assert_eq!(worked(stat), Some(31 + 12));
        assert_eq!(worked("7 (a) S 1 2 3 4 5 6 7 8 9 10 31"), None);
    }
}
