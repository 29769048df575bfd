//! Running a plugin: a program that reads its standard input and answers once.
//!
//! A plugin is not ours. It may hang, talk without end, or leave a child that
//! keeps its output open; so it has a time, its output a limit, and it is a
//! process group of its own, which is killed as a whole.
//!
//! Its standard input is a *file*, and for ADD, DEL, CHECK and GC the very file whose
//! lock (flock(2)) the caller holds. The lock belongs to the open file and so
//! to the plugin as well: when berth is killed in the middle, the lock is free
//! only once the plugin has ended too. Whoever takes it knows that nobody works
//! on that pod any more. Try it: `lslocks` while a plugin runs.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command as Process};

use super::call::PluginCall;
use super::config::check_program;
use super::outcome::PluginError;
use crate::error::{Error, ErrorKind};

/// No result is longer than a fraction of this.
const OUTPUT_LIMIT_BYTES: usize = 1 << 20;
/// What is kept of the plugin's words for people.
const WORDS_LIMIT_BYTES: usize = 8 << 10;
/// How long the output may stay open when the plugin itself has ended.
const REST: Duration = Duration::from_millis(500);

/// How a plugin failed.
#[derive(Debug)]
pub enum Failure {
    /// It answered with an error of the specification.
    Refused(PluginError),
    /// It did not answer as a plugin does.
    Broken(Error),
}

/// The program of a plugin: in the first of the directories that has it.
///
/// # Errors
///
/// `Plugin` when none has it.
pub fn find_plugin(program: &str, bin_dirs: &[PathBuf]) -> Result<PathBuf, Error> {
    check_program(program)?;
    let mut candidates = bin_dirs.iter().map(|directory| directory.join(program));
    let executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    candidates.find(executable).ok_or_else(|| {
        let looked: Vec<String> = bin_dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        Error::new(
            ErrorKind::Plugin,
            format!(
                "plugin {program} is not an executable file in {}",
                looked.join(", ")
            ),
        )
    })
}

/// A file without a name, for calls that need no lock.
///
/// # Errors
///
/// `Kernel`.
pub fn unlocked_input() -> Result<File, Error> {
    rustix::fs::memfd_create("cni", MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|errno| {
            let cause = std::io::Error::from(errno);
            Error::caused(
                ErrorKind::Kernel,
                "memfd_create(\"cni\", MFD_CLOEXEC)",
                cause,
            )
        })
}

/// Runs a plugin to its end, and gives what it printed.
///
/// # Errors
///
/// What it answered, or that it did not within `limit`.
pub async fn run_plugin(
    path: &Path,
    call: &PluginCall,
    input: &File,
    limit: Duration,
) -> Result<Vec<u8>, Failure> {
    let broken = |error| Failure::Broken(error);
    let mut child = start(path, call, input).map_err(broken)?;
    let mut group = Group::of(&child);
    let outcome = match tokio::time::timeout(limit, converse(&mut child)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            ErrorKind::Plugin,
            format!(
                "did not end within {} seconds and was killed",
                limit.as_secs_f32()
            ),
        )),
    };
    if outcome.is_err() {
        group.end();
        // It cannot refuse SIGKILL; this takes it from the table of processes.
        let _ = child.wait().await;
    }
    group.release();
    let ended = outcome.map_err(broken)?;
    match ended.status.success() {
        true => Ok(ended.output),
        false => Err(failure(&ended)),
    }
}

/// A plugin and what it started. Killed when this is dropped: whoever asked has
/// gone, and tokio would kill the plugin alone.
#[derive(Debug)]
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { leader }
    }

    fn end(&mut self) {
        end_group(self.leader.take());
    }

    /// The plugin has ended; what it left behind may go on.
    fn release(&mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    words: Vec<u8>,
}

fn start(path: &Path, call: &PluginCall, input: &File) -> Result<Child, Error> {
    let failed = |what: &str, error| {
        Error::caused(
            ErrorKind::Plugin,
            format!("{what} {}", path.display()),
            error,
        )
    };
    let stdin =
        write_input(input, &call.input).map_err(|error| failed("write input for", error))?;
    let mut process = Process::new(path);
    // Variables of our own starter must not pass for ours.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CNI_") {
            process.env_remove(name);
        }
    }
    process
        // What systemd said to us is not for plugins, nor for what they leave behind.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("LISTEN_FDS")
        .envs(call.environment.iter().map(|(name, value)| (*name, value)))
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    process.spawn().map_err(|error| failed("start", error))
}

/// A duplicate shares lock and offset with the file.
fn write_input(mut input: &File, bytes: &[u8]) -> std::io::Result<File> {
    input.set_len(0)?;
    input.seek(SeekFrom::Start(0))?;
    input.write_all(bytes)?;
    input.seek(SeekFrom::Start(0))?;
    input.try_clone()
}

async fn converse(child: &mut Child) -> Result<Ended, Error> {
    let gone = || Error::new(ErrorKind::Plugin, "its output is not open");
    let stdout = child.stdout.take().ok_or_else(gone)?;
    let stderr = child.stderr.take().ok_or_else(gone)?;
    let mut output = Vec::new();
    let mut words = Vec::new();
    let status = {
        let reading = async {
            tokio::try_join!(
                read_all_of(stdout, &mut output),
                read_beginning_of(stderr, &mut words)
            )
        };
        tokio::pin!(reading);
        tokio::select! {
            status = child.wait() => {
                // A child that it left behind may keep the output open for ever.
                if let Ok(read) = tokio::time::timeout(REST, &mut reading).await {
                    read?;
                }
                status
            }
            read = &mut reading => {
                read?;
                child.wait().await
            }
        }
    };
    Ok(Ended {
        status: status.map_err(|error| Error::caused(ErrorKind::Plugin, "wait for it", error))?,
        output,
        words,
    })
}

async fn read_all_of(stream: impl AsyncRead + Unpin, output: &mut Vec<u8>) -> Result<(), Error> {
    let limit = OUTPUT_LIMIT_BYTES as u64 + 1;
    stream
        .take(limit)
        .read_to_end(output)
        .await
        .map_err(|error| Error::caused(ErrorKind::Plugin, "read its output", error))?;
    match output.len() > OUTPUT_LIMIT_BYTES {
        false => Ok(()),
        true => Err(Error::new(
            ErrorKind::Plugin,
            "printed more than 1 MiB and was killed",
        )),
    }
}

/// Keeps the beginning and reads on, so that the plugin is not held up.
async fn read_beginning_of(
    mut stream: impl AsyncRead + Unpin,
    words: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = WORDS_LIMIT_BYTES.saturating_sub(words.len());
        words.extend_from_slice(&buffer[..count.min(room)]);
    }
    Ok(())
}

fn end_group(group: Option<Pid>) {
    if let Some(group) = group {
        // It is gone if it ended meanwhile.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

fn failure(ended: &Ended) -> Failure {
    if let Some(error) = PluginError::read(&ended.output) {
        return Failure::Refused(error);
    }
    let mut text = format!("ended with {}", ended.status);
    for (name, bytes) in [("output", &ended.output), ("standard error", &ended.words)] {
        let bytes = &bytes[..bytes.len().min(WORDS_LIMIT_BYTES)];
        let said = String::from_utf8_lossy(bytes);
        if !said.trim().is_empty() {
            text.push_str(&format!("; {name}: {}", said.trim()));
        }
    }
    Failure::Broken(Error::new(ErrorKind::Plugin, text))
}

/// Kills the plugins that a killed process left at work on a file: those that
/// have it as their standard input.
pub fn end_orphans(file: &File) {
    let Ok(wanted) = file.metadata() else { return };
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for entry in processes.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(input) = fs::metadata(entry.path().join("fd/0")) else {
            continue;
        };
        if (input.dev(), input.ino()) == (wanted.dev(), wanted.ino()) {
            end_orphan(pid);
        }
    }
}

fn end_orphan(pid: Pid) {
    let number = pid.as_raw_pid();
    tracing::warn!(
        pid = number,
        "killing a plugin that a killed process left behind"
    );
    end_group(Some(pid));
    // What a plugin started leads no group, and holds the lock as much as the
    // plugin did. It is gone if it was of the group.
    let _ = rustix::process::kill_process(pid, Signal::KILL);
}

#[cfg(test)]
mod tests;
