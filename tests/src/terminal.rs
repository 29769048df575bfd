//! A program on a pseudo-terminal: type keys, read the screen.
//!
//! The kernel makes two ends (`pty(7)`): what is written to the master is what
//! the program reads as typed, what the program prints is read from the master.
//! `setsid --ctty` gives the program a session of its own whose controlling
//! terminal is the slave, so that Ctrl-C typed here becomes a SIGINT there.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Ctrl-C.
pub const INTERRUPT: &str = "\x03";
/// Ctrl-D on an empty line.
pub const END_OF_FILE: &str = "\x04";

/// How long the end of what a program printed is waited for where another
/// process still has its terminal open.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A program that runs on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: OwnedFd,
    screen: Arc<(Mutex<Screen>, Condvar)>,
}

#[derive(Debug, Default)]
struct Screen {
    printed: Vec<u8>,
    closed: bool,
}

impl Terminal {
    /// Runs a command line on a new terminal of 80 columns and 24 rows. The
    /// variables and directory of `like` are used, its program and arguments
    /// are not looked at.
    ///
    /// # Errors
    ///
    /// There is no pseudo-terminal, or the program cannot be run.
    pub fn run(command_line: &[String], like: &Command) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
        set_size(&master, 80, 24)?;
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .args(command_line)
            .env("TERM", "xterm");
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::from(slave.try_clone()?));
        command
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave));
        let child = command.spawn().context("run setsid")?;
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let reader = File::from(master.try_clone()?);
        let shared = Arc::clone(&screen);
        std::thread::spawn(move || read_screen(reader, &shared));
        Ok(Terminal {
            child,
            master,
            screen,
        })
    }

    /// The process that leads the terminal's session.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types keys.
    ///
    /// # Errors
    ///
    /// The terminal has been closed.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        let mut master = File::from(self.master.try_clone()?);
        master
            .write_all(keys.as_bytes())
            .context("type into the terminal")
    }

    /// Makes the terminal another size, which sends SIGWINCH.
    ///
    /// # Errors
    ///
    /// The terminal has been closed.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        set_size(&self.master, columns, rows)
    }

    /// All that was printed so far, without the escape sequences.
    pub fn text(&self) -> String {
        let screen = self
            .screen
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        plain(&screen.printed)
    }

    /// Forgets what was printed, so that the next wait looks only at what follows.
    pub fn clear(&self) {
        let mut screen = self
            .screen
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        screen.printed.clear();
    }

    /// Waits until a text has been printed.
    ///
    /// # Errors
    ///
    /// The time was over or the program ended first; the message shows the screen.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + crate::patience::stretched(limit);
        let (screen, changed) = &*self.screen;
        let mut screen = screen
            .lock()
            .map_err(|_| anyhow!("the screen's reader panicked"))?;
        loop {
            let shown = plain(&screen.printed);
            if shown.contains(text) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || screen.closed {
                bail!("{text:?} did not appear on the terminal, which shows:\n{shown}");
            }
            screen = changed
                .wait_timeout(screen, left)
                .map_err(|_| anyhow!("the screen's reader panicked"))?
                .0;
        }
    }

    /// Waits until the program has ended and all that it printed is on the
    /// screen. What it left running may keep the terminal: its words are not
    /// waited for longer than [`LAST_WORDS`].
    ///
    /// # Errors
    ///
    /// The time was over; the message shows the screen.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + crate::patience::stretched(limit);
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.wait_until_closed();
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the program did not end; its terminal shows:\n{}",
                    self.text()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The kernel hands over what was printed some time after the program
    /// wrote it, so the program's end alone says nothing about the screen.
    fn wait_until_closed(&self) {
        let (screen, changed) = &*self.screen;
        let screen = screen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let limit = crate::patience::stretched(LAST_WORDS);
        // Either way the caller looks at what the screen shows then.
        drop(changed.wait_timeout_while(screen, limit, |screen| !screen.closed));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended in every test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(master: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}

fn read_screen(mut master: File, shared: &(Mutex<Screen>, Condvar)) {
    let mut buffer = [0; 4096];
    loop {
        // EIO is the master's way to say that the last slave was closed.
        let count = master.read(&mut buffer).unwrap_or(0);
        let mut screen = shared
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        screen.printed.extend_from_slice(&buffer[..count]);
        screen.closed = count == 0;
        shared.1.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// The text without control sequences (ECMA-48: ESC `[` parameters, one letter;
/// and ESC `]` … BEL) and without carriage returns.
fn plain(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => match letters.next() {
                Some('[') => while letters.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(']') => while letters.next().is_some_and(|c| c != '\x07') {},
                _ => {}
            },
            '\r' => {}
            _ => plain.push(letter),
        }
    }
    plain
}
