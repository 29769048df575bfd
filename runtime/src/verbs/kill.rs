//! `kill`: a signal for a container's init, or for all its processes.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::find;
use crate::arguments::{Global, KillArguments};
use crate::error::{Error, ErrorKind};
use crate::state::Status;
use crate::sys::process::{self, HostPid};

/// Sends it.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] with runc's words, which containerd and CRI-O look for.
pub fn kill(global: &Global, arguments: &KillArguments) -> Result<i32, Error> {
    let signal = parse_signal(&arguments.signal)?;
    let found = find(global, &arguments.id)?;
    if arguments.all
        && let Some(cgroup) = &found.record.cgroup
    {
        // Also when init has ended: without a pid namespace others may live on.
        if signal == libc::SIGKILL {
            cgroup.kill_all()?;
        } else {
            for pid in cgroup.pids()? {
                ignore_gone(process::kill(HostPid(pid), signal))?;
            }
        }
        return Ok(0);
    }
    let not_running = || Error::new(ErrorKind::WrongState, "container not running");
    let init = match (found.status, found.record.init) {
        (Status::Stopped, _) | (_, None) => return Err(not_running()),
        (_, Some(init)) => init,
    };
    let process = init.open().map_err(|_| not_running())?;
    match process::pidfd_send_signal(process.as_fd(), signal) {
        Err(error) if error.errno() == Errno::ESRCH => return Err(not_running()),
        other => other?,
    }
    // A frozen process does not even die.
    if signal == libc::SIGKILL
        && found.status == Status::Paused
        && let Some(cgroup) = &found.record.cgroup
    {
        cgroup.thaw()?;
    }
    Ok(0)
}

fn ignore_gone(sent: Result<(), crate::sys::call::SyscallError>) -> Result<(), Error> {
    match sent {
        Err(error) if error.errno() != Errno::ESRCH => Err(error.into()),
        _ => Ok(()),
    }
}

/// `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
///
/// # Errors
///
/// Anything else.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let unknown = || {
        let expected = "expected a signal's name, such as SIGTERM, or its number";
        Error::new(ErrorKind::BadInput, format!("{expected}, found {text:?}"))
    };
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=libc::SIGRTMAX()).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |from: &str, base: i32, sign: i32| {
        let rest = name.strip_prefix(from)?;
        let rest = if rest.is_empty() { "0" } else { rest.get(1..)? };
        Some(base + sign * rest.parse::<i32>().ok()?)
    };
    let real_time = offset("RTMIN", libc::SIGRTMIN(), 1).or(offset("RTMAX", libc::SIGRTMAX(), -1));
    if let Some(number) = real_time {
        let range = libc::SIGRTMIN()..=libc::SIGRTMAX();
        return if range.contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("0", 0),
        ] {
            assert_eq!(parse_signal(text).expect(text), number);
        }
        assert_eq!(
            parse_signal("SIGRTMIN+3").expect("it is one"),
            libc::SIGRTMIN() + 3
        );
        assert_eq!(
            parse_signal("RTMAX-1").expect("it is one"),
            libc::SIGRTMAX() - 1
        );
        for text in ["", "SIGWHAT", "99", "-1", "RTMIN+99"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
