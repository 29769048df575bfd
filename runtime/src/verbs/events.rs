//! `events`: what a container uses, now or every few seconds, and its memory's ends.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::{Found, find};
use crate::arguments::{EventsArguments, Global};
use crate::cgroup::plan::CgroupPlan;
use crate::error::{Error, ErrorKind};
use crate::monitor::oom::OomWatch;
use crate::state::Status;

/// How soon to look again for a kill that version 1 announced.
const SOON: Duration = Duration::from_millis(20);

/// Prints events, one line of JSON each, until the container ends; with
/// `--stats` what is used now, once.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] when it does not run.
pub fn events(global: &Global, arguments: &EventsArguments) -> Result<i32, Error> {
    let found = find(global, &arguments.id)?;
    let interval = parse_interval(&arguments.interval)?;
    if found.status == Status::Stopped {
        let text = format!("container with id {} is not running", found.record.id);
        return Err(Error::new(ErrorKind::WrongState, text));
    }
    let cgroup = found.record.cgroup.as_ref().ok_or_else(|| {
        let text = "events: the container has no cgroup that could count";
        Error::new(ErrorKind::WrongState, text)
    })?;
    let id = found.record.id.as_str();
    if arguments.stats {
        print_line(&stats_event(id, cgroup)?)?;
        return Ok(0);
    }
    watch(&found, cgroup, interval)?;
    Ok(0)
}

fn stats_event(id: &str, cgroup: &CgroupPlan) -> Result<Value, Error> {
    Ok(json!({"type": "stats", "id": id, "data": cgroup.event_stats()?}))
}

/// Waits for three things at once: the next time to count, a kill, the end.
fn watch(found: &Found, cgroup: &CgroupPlan, interval: Duration) -> Result<(), Error> {
    let id = found.record.id.as_str();
    let Some(init) = found.record.init else {
        return Ok(());
    };
    let Ok(pidfd) = init.open() else {
        return Ok(());
    };
    // A group that cannot be watched has no events, but still numbers.
    let mut kills = OomWatch::of_process(init.pid.0).ok().flatten();
    // Kills of before are no news.
    kills.as_mut().map(OomWatch::look);
    let mut next = Instant::now() + interval;
    loop {
        let soon = kills.as_ref().is_some_and(OomWatch::looks_again);
        let until = next.saturating_duration_since(Instant::now());
        let woken = wait(
            &pidfd,
            kills.as_ref(),
            if soon { until.min(SOON) } else { until },
        )?;
        if let Some(kills) = &mut kills {
            if woken.by_memory {
                kills.take_wake();
            }
            if (woken.by_memory || woken.by_end || soon) && kills.look() {
                print_line(&json!({"type": "oom", "id": id}))?;
            }
        }
        if woken.by_end {
            return Ok(());
        }
        if Instant::now() >= next {
            print_line(&stats_event(id, cgroup)?)?;
            next += interval;
        }
    }
}

struct Woken {
    by_end: bool,
    by_memory: bool,
}

fn wait(init: &OwnedFd, kills: Option<&OomWatch>, patience: Duration) -> Result<Woken, Error> {
    let mut waited = vec![PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
    if let Some((descriptor, flags)) = kills.and_then(OomWatch::wake_source) {
        waited.push(PollFd::from_borrowed_fd(descriptor, flags));
    }
    let patience = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    match poll(&mut waited, Some(&patience)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(Error::new(ErrorKind::Failed, format!("poll: {error}"))),
    }
    let woke = |index: usize| {
        let entry = waited.get(index);
        entry.is_some_and(|entry| !entry.revents().is_empty())
    };
    Ok(Woken {
        by_end: woke(0),
        by_memory: woke(1),
    })
}

/// One line, at once: the reader is another program.
fn print_line(value: &Value) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{value}")
        .and_then(|()| output.flush())
        .map_err(|error| Error::new(ErrorKind::Failed, format!("standard output: {error}")))
}

/// Go's durations: `5s`, `100ms`, `1m30s`, `1.5h`.
///
/// # Errors
///
/// Anything else, and nothing at all.
pub fn parse_interval(text: &str) -> Result<Duration, Error> {
    let wrong = || {
        let expected = "--interval: expected a duration such as 5s, 100ms or 1m30s";
        Error::new(ErrorKind::BadInput, format!("{expected}, found {text:?}"))
    };
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
        let (number, tail) = rest.split_at(end.ok_or_else(wrong)?);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.');
        let (unit, tail) = tail.split_at(unit.unwrap_or(tail.len()));
        seconds += number
            * match unit {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
        rest = tail;
    }
    let interval = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if interval.is_zero() {
        let text = "duration interval must be greater than 0";
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::parse_interval;
    use std::time::Duration;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("5s", 5_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
        ] {
            let read = parse_interval(text).expect(text);
            assert_eq!(read, Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "0s", "5", "s", "-1s", "1x", "1..2s"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }
}
