//! The caller's terminal: raw while a container has it, and back afterwards.
//!
//! A terminal of the kernel edits lines, echoes what is typed and turns Ctrl-C
//! into a signal (`termios(3)`). A container with `-t` has a terminal of its
//! own that does all this; ours must then pass every byte as it is, or
//! everything would happen twice. Whatever ends the program, the terminal must
//! be as it was: a shell on a raw terminal shows nothing of what is typed.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How the terminal was before it was made raw; there is one terminal a process.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// While this lives, standard input is a raw terminal.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes standard input raw, if it is a terminal. Undone when the value is
    /// dropped, on a panic, and by [`restore`].
    ///
    /// # Errors
    ///
    /// `EIO` when the process is in the background.
    pub fn enter() -> io::Result<RawMode> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(RawMode(()));
        }
        let before = tcgetattr(input.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        *lock() = Some(before);
        tcsetattr(input.as_fd(), OptionalActions::Now, &raw)?;
        restore_on_panic();
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal as it was, if it was made raw. For exits that run no destructors.
pub fn restore() {
    if let Some(before) = lock().take() {
        // A terminal that has gone away has no mode.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &before);
    }
}

/// Whether the terminal is raw now.
pub fn is_raw() -> bool {
    lock().is_some()
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The message of a panic on a raw terminal is a staircase, and the process is
/// then gone: restore first.
fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

/// Columns and rows of the terminal, when there is one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin().as_fd())
        .or_else(|_| tcgetwinsize(io::stdout().as_fd()))
        .ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Why `-t` cannot be done here, if it cannot.
pub fn why_not_interactive() -> Option<&'static str> {
    (!io::stdin().is_terminal())
        .then_some("-t needs a terminal, and standard input is none; expected -i alone")
}
