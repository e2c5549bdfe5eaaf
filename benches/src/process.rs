//! What the operating system knows and allows.

use crate::Outcome;

/// The memory that this process holds now, in KiB (`VmRSS`).
pub(crate) fn rss_kb() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
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
