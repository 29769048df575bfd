//! This process, as the kernel sees it, under the names that Prometheus' own
//! libraries give these numbers.

use super::exposition::Page;

/// Writes what can be read; what cannot is left out.
pub(super) fn write(page: &mut Page) {
    if let Some(bytes) = resident_bytes() {
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the server.",
            &[(&[], bytes)],
        );
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        page.gauge(
            "process_open_fds",
            "Open file descriptors of the server.",
            // The one that reads them is among them.
            &[(&[], descriptors.count().saturating_sub(1) as f64)],
        );
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(limit) = limit.current {
        page.gauge(
            "process_max_fds",
            "How many file descriptors the server may have.",
            &[(&[], limit as f64)],
        );
    }
    if let Some((cpu, start)) = times() {
        page.counter(
            "process_cpu_seconds_total",
            "Time of processors that the server used.",
            &[(&[], cpu)],
        );
        page.gauge(
            "process_start_time_seconds",
            "When the server started, in seconds since the epoch.",
            &[(&[], start)],
        );
    }
}

fn resident_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as f64)
}

/// Seconds on processors, and the start (proc_pid_stat(5), fields 14, 15, 22).
fn times() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name that may hold blanks and brackets.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
    let a_second = rustix::param::clock_ticks_per_second() as f64;
    let kernel = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let boot: f64 = boot.trim().parse().ok()?;
    Some((
        (ticks(11)? + ticks(12)?) / a_second,
        boot + ticks(19)? / a_second,
    ))
}
