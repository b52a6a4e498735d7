//! What a process costs, from `/proc`, and which core a thread may use.

use std::fs;
use std::path::{Path, PathBuf};

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
        sum += used(&task?.path())?;
    }
    Ok(sum)
}

/// The same of one thread of it.
///
/// # Errors
/// The thread is gone.
pub fn thread_cpu(process: u32, thread: u32) -> Result<u64> {
    used(Path::new(&format!("/proc/{process}/task/{thread}")))
}

fn used(task: &Path) -> Result<u64> {
    let text = fs::read_to_string(task.join("schedstat")).context("the server has ended")?;
    text.split(' ').next().unwrap_or_default().parse().context("schedstat")
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
    pin_thread(0, cpu)
}

/// Keeps a thread on one core.
///
/// # Errors
/// There is no such core or thread, or it may not be used.
pub fn pin_thread(thread: u32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no core {cpu}"))?;
    sched_setaffinity(Pid::from_raw(thread.cast_signed()), &set)
        .with_context(|| format!("core {cpu} is not there: choose others with --server-cpu and --load-cpu"))
}
