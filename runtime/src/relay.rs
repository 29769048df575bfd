//! What a runtime does that stays in the foreground: signals go to the program,
//! its terminal is joined to ours, and its end becomes ours.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, SetArg, Termios};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::Error;
use crate::notify;
use crate::sys::call::finish;
use crate::sys::process::{self, HostPid};
use crate::sys::terminal;

/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 8192;

/// How long a terminal that nobody has open is left alone.
const HUNG_UP_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Waits for the end of a child; the number is its exit status as a shell tells it.
/// What the child says to a service manager is passed on meanwhile.
///
/// # Errors
///
/// When signals or the terminal cannot be watched.
pub fn wait_for_end(
    child: &(HostPid, BorrowedFd<'_>),
    master: Option<OwnedFd>,
    signals: &SignalFd,
    manager: Option<&notify::Relay>,
) -> Result<i32, Error> {
    let raw = master
        .as_ref()
        .and_then(|master| RawTerminal::begin(master.as_fd()));
    let code = relay(child, master.as_ref(), signals, manager);
    drop(raw);
    code
}

/// All signals that a program may want to hear of come as reads of a descriptor.
/// Called once init exists, which must not inherit the mask, and before the
/// program begins: a signal in between would end this process, not the program.
///
/// # Errors
///
/// `EMFILE`.
pub fn watch_signals() -> Result<SignalFd, Error> {
    let mut set = SigSet::all();
    for own in [
        Signal::SIGKILL,
        Signal::SIGSTOP,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ] {
        set.remove(own);
    }
    finish(set.thread_block(), || "sigprocmask(SIG_BLOCK)".to_owned())?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(finish(SignalFd::with_flags(&set, flags), || {
        "signalfd()".to_owned()
    })?)
}

fn relay(
    child: &(HostPid, BorrowedFd<'_>),
    master: Option<&OwnedFd>,
    signals: &SignalFd,
    manager: Option<&notify::Relay>,
) -> Result<i32, Error> {
    let input = std::io::stdin();
    let mut input_open = master.is_some();
    let mut hung_up = false;
    loop {
        let mut watched = vec![
            PollFd::from_borrowed_fd(child.1, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        // A terminal that nobody has open is always ready, with nothing to read;
        // one who opens it again is noticed at the next look.
        let patience = hung_up.then_some(HUNG_UP_PAUSE);
        if let Some(master) = master.filter(|_| !hung_up) {
            watched.push(PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN));
            if input_open {
                watched.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
            }
        }
        let program = watched.len();
        if let Some(manager) = manager {
            watched.push(PollFd::from_borrowed_fd(manager.as_fd(), PollFlags::IN));
        }
        match rustix::event::poll(&mut watched, patience.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => finish(other.map(drop), || "poll()".to_owned())?,
        };
        let ready: Vec<bool> = watched
            .iter()
            .map(|one| !one.revents().is_empty())
            .collect();
        if ready[1] {
            forward_signals(child.1, master, signals);
        }
        if let Some(manager) = manager.filter(|_| ready[program]) {
            manager.pass_on();
        }
        if let Some(master) = master {
            if hung_up || ready[2] {
                hung_up = !copy(master.as_fd(), std::io::stdout().as_fd());
            }
            if program > 3 && ready[3] {
                input_open = copy(input.as_fd(), master.as_fd());
            }
        }
        if ready[0] {
            let ended = process::wait_for(child.0)?;
            // What the program wrote last is still in the terminal; another
            // program in the background may hold it open for long.
            while master.is_some_and(|master| {
                is_readable(master.as_fd()) && copy(master.as_fd(), std::io::stdout().as_fd())
            }) {}
            return Ok(ended.shell_code());
        }
    }
}

fn forward_signals(child: BorrowedFd<'_>, master: Option<&OwnedFd>, signals: &SignalFd) {
    while let Ok(Some(signal)) = signals.read_signal() {
        match (signal.ssi_signo as i32, master) {
            // SIGPIPE is ours: whoever read our words has gone. Narrating that it is
            // passed on would bring the next one, for ever.
            (libc::SIGCHLD | libc::SIGPIPE, _) => {}
            (libc::SIGWINCH, Some(master)) => copy_size(master.as_fd()),
            // One that has just ended has no use for it.
            (number, _) => drop(process::pidfd_send_signal(child, number)),
        }
    }
}

/// Whether a read would return at once.
fn is_readable(file: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(file, PollFlags::IN)];
    matches!(
        rustix::event::poll(&mut watched, Some(&Timespec::default())),
        Ok(1)
    )
}

/// Copies what is there; `false` when the source has ended.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut chunk = [0u8; CHUNK_BYTES];
    let Ok(length @ 1..) = rustix::io::read(from, &mut chunk) else {
        return false;
    };
    let mut rest = &chunk[..length];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return false,
        }
    }
    true
}

fn copy_size(master: BorrowedFd<'_>) {
    if let Ok(size) = terminal::observe_size(std::io::stdin().as_fd()) {
        // A terminal of an odd size is no reason to stop.
        let _ = terminal::set_size(master, size);
    }
}

/// Our own terminal passes every key on while this value lives.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` when standard input is no terminal.
    fn begin(master: BorrowedFd<'_>) -> Option<RawTerminal> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw).ok()?;
        copy_size(master);
        Some(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}
