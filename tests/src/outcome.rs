//! Runs a program to its end, with a limit, and keeps its words.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::patience::stretched;

/// Longer than any case may take, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code, or 128 and the signal as a shell has it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Its output without white space around it.
    ///
    /// # Errors
    ///
    /// It ended with another code than 0.
    pub fn text(&self) -> Result<String> {
        ensure!(self.code == 0, "it failed: {self:?}");
        Ok(self.stdout.trim().to_owned())
    }

    /// What it complained of.
    ///
    /// # Errors
    ///
    /// It did not complain.
    pub fn complaint(&self) -> Result<&str> {
        ensure!(self.code != 0, "it should have failed: {self:?}");
        Ok(&self.stderr)
    }
}

/// A program that runs, its output in files. Not in pipes: a container's
/// program inherits them, and a pipe ends only when its last holder does.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

/// Starts a program.
///
/// # Errors
///
/// It cannot be started.
pub fn start(command: &mut Command) -> Result<Running> {
    let stdout = tempfile::tempfile()?;
    let stderr = tempfile::tempfile()?;
    let child = command
        .stdout(Stdio::from(stdout.try_clone()?))
        .stderr(Stdio::from(stderr.try_clone()?))
        .spawn()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    Ok(Running {
        child,
        stdout,
        stderr,
    })
}

/// Starts a program without input and waits for its end.
///
/// # Errors
///
/// It cannot be started, or took too long.
pub fn finish(command: &mut Command) -> Result<Outcome> {
    start(command.stdin(Stdio::null()))?.wait()
}

impl Running {
    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its input, where that was a pipe.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Ends it at once and waits for that.
    ///
    /// # Errors
    ///
    /// Those of `kill(2)`.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// Those of `waitpid(2)`.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It took too long, and was ended.
    pub fn wait(mut self) -> Result<Outcome> {
        let deadline = Instant::now() + stretched(LIMIT);
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                self.kill()?;
                let (stdout, stderr) = (read(&mut self.stdout)?, read(&mut self.stderr)?);
                let limit = stretched(LIMIT);
                bail!("no end after {limit:?}; it wrote {stdout:?} and {stderr:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let signal = status.signal().map_or(0, |signal| 128 + signal);
        Ok(Outcome {
            code: status.code().unwrap_or(signal),
            stdout: read(&mut self.stdout)?,
            stderr: read(&mut self.stderr)?,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended in every case that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
