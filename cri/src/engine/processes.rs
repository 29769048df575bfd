//! The processes of a container.
//!
//! The cgroup knows which they are, wherever they were forked; /proc tells the
//! rest (proc_pid_stat(5), proc_pid_status(5)).

use std::fs;
use std::time::Duration;

use super::error::{Error, ErrorKind};
use super::monitor_link::blocking;
use super::{Engine, cgroups};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its number on the host.
    pub pid: i32,
    /// Its number in the container.
    pub container_pid: i32,
    /// Its parent's number on the host.
    pub parent_pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// `R`, `S`, `D`, `Z`, …
    pub state: char,
    /// Time on any processor.
    pub cpu: Duration,
    /// When it began, counted from the machine's boot.
    pub started: Duration,
    /// Memory that is in RAM.
    pub rss_bytes: u64,
    /// How many threads it has.
    pub threads: u64,
    /// The program and its arguments; the name in brackets when it has none.
    pub command: String,
}

impl Engine {
    /// The processes of a container that runs, by number.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it does not run.
    pub async fn processes(&self, wanted: &str) -> Result<Vec<ProcessInfo>, Error> {
        let view = self.view(wanted).await?;
        if view.pid == 0 {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("container {}: does not run", view.record.id),
            ));
        }
        blocking(move || {
            let plan = cgroups::container_group(&view.record.id, &view.record.cgroup)?;
            let pids = plan.pids().map_err(|error| {
                Error::caused(
                    ErrorKind::Storage,
                    format!("list the processes of {}", view.record.cgroup),
                    error,
                )
            })?;
            // One that ends meanwhile is left out.
            let mut list: Vec<ProcessInfo> = pids.into_iter().filter_map(observe).collect();
            list.sort_by_key(|process| process.pid);
            Ok(list)
        })
        .await
    }
}

fn observe(pid: i32) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    parse(&stat, &status, &command)
}

/// One process from its three files. Pure.
fn parse(stat: &str, status: &str, command: &[u8]) -> Option<ProcessInfo> {
    // The name stands in parentheses and may hold any byte, ')' too.
    let (head, tail) = stat.rsplit_once(')')?;
    let (pid, name) = head.split_once(" (")?;
    // Counted from the third field, the state (proc_pid_stat(5)).
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let ticks = |count: u64| Duration::from_millis(count * 1000 / clock_ticks());
    Some(ProcessInfo {
        pid: pid.parse().ok()?,
        // The innermost namespace's number stands last.
        container_pid: line("NSpid:")?.split_whitespace().last()?.parse().ok()?,
        parent_pid: fields.get(1)?.parse().ok()?,
        uid: line("Uid:")?.split_whitespace().nth(1)?.parse().ok()?,
        state: fields.first()?.chars().next()?,
        cpu: ticks(number(14)? + number(15)?),
        started: ticks(number(22)?),
        rss_bytes: line("VmRSS:")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024,
        threads: number(20)?,
        command: command_line(command).unwrap_or_else(|| format!("[{name}]")),
    })
}

fn command_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split('\0').filter(|word| !word.is_empty()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// The unit of times in /proc (`sysconf(_SC_CLK_TCK)`).
fn clock_ticks() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 900 0 0 0";
        let status = "Name:\ta) b\nUid:\t0\t1000\t0\t0\nNSpid:\t42\t5\nVmRSS:\t  2048 kB\n";
        let process = parse(stat, status, b"/bin/a\0-x\0").unwrap();
        assert_eq!((process.pid, process.container_pid), (42, 5));
        assert_eq!((process.parent_pid, process.uid), (7, 1000));
        assert_eq!(process.state, 'S');
        assert_eq!(process.threads, 3);
        assert_eq!(process.rss_bytes, 2 << 20);
        assert_eq!(process.cpu, Duration::from_millis(200_000 / clock_ticks()));
        assert_eq!(process.command, "/bin/a -x");
        assert_eq!(parse(stat, status, b"").unwrap().command, "[a) b]");
    }

    #[test]
    fn this_process_can_be_observed() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = observe(own).unwrap();
        assert_eq!(process.pid, own);
        assert!(process.threads >= 1 && process.rss_bytes > 0);
        assert_eq!(observe(i32::MAX), None);
    }
}
