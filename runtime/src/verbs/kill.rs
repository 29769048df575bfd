//! `kill`: a signal for a container's init, or for all its processes.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{find, for_each_match};
use crate::arguments::{Global, KillArguments};
use crate::error::{Error, ErrorKind};
use crate::signals;
use crate::state::Status;
use crate::sys::process::{self, HostPid};

/// Sends it, with `--regex` to each container of a matching name.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] with runc's words, which containerd and CRI-O look for.
pub fn kill(global: &Global, arguments: &KillArguments) -> Result<i32, Error> {
    let signal = parse_signal(&arguments.signal)?;
    if arguments.regex {
        return for_each_match(global, &arguments.id, |id| {
            kill_one(global, arguments, (id, signal))
        });
    }
    kill_one(global, arguments, (&arguments.id, signal))
}

fn kill_one(
    global: &Global,
    arguments: &KillArguments,
    (id, signal): (&str, i32),
) -> Result<i32, Error> {
    let found = find(global, id)?;
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
    // The kernel ends all processes of a pid namespace with its first one. In one
    // that is shared nobody would: their end is asked for here, as runc does.
    if signal == libc::SIGKILL
        && found.record.shares_pids
        && let Some(cgroup) = &found.record.cgroup
    {
        cgroup.kill_all()?;
        return Ok(0);
    }
    match process::pidfd_send_signal(process.as_fd(), signal) {
        Err(error) if error.errno() == Errno::ESRCH => return Err(not_running()),
        other => other?,
    }
    // A frozen process does not even die.
    if signal == libc::SIGKILL
        && matches!(found.status, Status::Paused | Status::Created)
        && let Some(cgroup) = &found.record.cgroup
    {
        // A group that is gone holds nobody.
        let _ = cgroup.thaw();
    }
    Ok(0)
}

fn ignore_gone(sent: Result<(), crate::sys::call::SyscallError>) -> Result<(), Error> {
    match sent {
        Err(error) if error.errno() != Errno::ESRCH => Err(error.into()),
        _ => Ok(()),
    }
}

fn parse_signal(text: &str) -> Result<i32, Error> {
    signals::parse(text).ok_or_else(|| {
        let expected = "expected a signal's name, such as SIGTERM, or its number";
        Error::new(ErrorKind::BadInput, format!("{expected}, found {text:?}"))
    })
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
