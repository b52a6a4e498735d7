//! What a process costs, from `/proc`, and which core a thread may use.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Nanoseconds of CPU that the process has used so far, user and system, all its threads.
///
/// # Errors
/// The process is gone.
pub fn cpu(process: u32) -> Result<u64> {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let mut sum = 0;
    for task in fs::read_dir(tasks).context("the server has ended")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>().context("schedstat")?;
    }
    Ok(sum)
}

/// Bytes that are resident.
///
/// # Errors
/// The process is gone.
pub fn resident(process: u32) -> Result<u64> {
    status(process, "VmRSS:")
}

/// The most bytes that were resident since the start, or since [`forget_peak`].
///
/// # Errors
/// The process is gone.
pub fn peak(process: u32) -> Result<u64> {
    status(process, "VmHWM:")
}

/// Lets [`peak`] begin anew with what is resident now.
///
/// # Errors
/// The process is gone, or another user's.
pub fn forget_peak(process: u32) -> Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5").context("the server has ended")
}

fn status(process: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).context("the server has ended")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("the server has ended")?;
    Ok(1024 * line.trim().trim_end_matches("kB").trim().parse::<u64>()?)
}

/// Keeps this thread, and what it starts, on one core.
///
/// # Errors
/// There is no such core, or it may not be used.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no core {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("core {cpu} is not there: choose others with --server-cpu and --load-cpu"))
}
