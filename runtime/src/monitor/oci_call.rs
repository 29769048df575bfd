//! Running the OCI runtime as a child.
//!
//! Nothing here waits: a call is started, its end arrives as SIGCHLD, and then
//! its words are read. So a hook that takes seconds delays one container and
//! not the output of another.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use super::protocol::MonitorConfig;
use crate::sys::process_copy::unblock_signals_before_exec;

/// The most of the runtime's words that an answer repeats.
const WORDS_LIMIT_BYTES: usize = 4096;

/// A run of the OCI runtime that has not been collected yet.
#[derive(Debug)]
pub struct OciCall {
    /// The child.
    pub pid: i32,
    /// The verb, for messages.
    pub verb: &'static str,
    /// Both outputs of the child, kept in memory; `create` has none, since its
    /// streams are the container's.
    words: Option<File>,
}

/// What `create` is given as standard streams.
#[derive(Debug)]
pub struct ContainerStdio {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

/// What `create` is told.
#[derive(Debug, Clone, Copy)]
pub struct CreateArguments<'a> {
    /// The container.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Where the runtime writes the init's number.
    pub pid_file: &'a Path,
    /// Where the runtime sends the terminal.
    pub console_socket: Option<&'a Path>,
}

impl OciCall {
    /// Starts `create`, whose streams become the container's.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be executed.
    pub fn create(
        config: &MonitorConfig,
        arguments: CreateArguments<'_>,
        stdio: ContainerStdio,
    ) -> io::Result<OciCall> {
        let mut command = runtime(config);
        command.arg("create").arg("--bundle").arg(arguments.bundle);
        command.arg("--pid-file").arg(arguments.pid_file);
        if let Some(socket) = arguments.console_socket {
            command.arg("--console-socket").arg(socket);
        }
        command.arg(arguments.id);
        command.stdin(stdio.stdin);
        command.stdout(stdio.stdout);
        command.stderr(stdio.stderr);
        start(command, "create", None)
    }

    /// Starts another verb with its arguments.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be executed.
    pub fn verb(
        config: &MonitorConfig,
        verb: &'static str,
        arguments: &[&str],
    ) -> io::Result<OciCall> {
        let words = File::from(memfd_create("words", MemfdFlags::CLOEXEC)?);
        let mut command = runtime(config);
        command.arg(verb).args(arguments);
        command.stdin(Stdio::null());
        command.stdout(OwnedFd::from(words.try_clone()?));
        command.stderr(OwnedFd::from(words.try_clone()?));
        start(command, verb, Some(words))
    }

    /// What the runtime said, in one line. To be read once it has ended.
    pub fn words(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(words) = &mut self.words {
            // The child moved the shared position to the end of its words. A
            // read of memory does not fail; without words there is the status.
            let _ = words
                .seek(SeekFrom::Start(0))
                .and_then(|_| words.take(WORDS_LIMIT_BYTES as u64).read_to_end(&mut text));
        }
        one_line(&text)
    }
}

/// Text of several lines as one, at most as long as an answer repeats.
pub fn one_line(text: &[u8]) -> String {
    let shown = &text[..text.len().min(WORDS_LIMIT_BYTES)];
    let text = String::from_utf8_lossy(shown);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

/// The program that a process runs, also after its file was removed (proc_pid_exe(5)).
const OWN_PROGRAM: &str = "/proc/self/exe";

fn runtime(config: &MonitorConfig) -> Command {
    let mut command = Command::new(program(&config.oci_runtime));
    command.args(&config.oci_arguments);
    command.arg("--root").arg(&config.oci_root);
    // Where berth itself is a service, its containers are not what its manager waits for.
    command.env_remove("NOTIFY_SOCKET");
    command
}

/// What is to be run: an upgrade may have put `berth-oci` elsewhere, and the
/// monitor lives as long as its pod. Then it is its own OCI runtime.
fn program(named: &Path) -> &Path {
    let ours = named.is_absolute() && named.file_name().is_some_and(|name| name == "berth-oci");
    match ours && !named.exists() {
        true => Path::new(OWN_PROGRAM),
        false => named,
    }
}

fn start(mut command: Command, verb: &'static str, words: Option<File>) -> io::Result<OciCall> {
    unblock_signals_before_exec(&mut command);
    // The loop collects every child by its number, so the handle is let go of;
    // dropping it neither kills nor waits.
    let child = command.spawn()?;
    Ok(OciCall {
        pid: i32::try_from(child.id()).expect("the kernel's process numbers have 22 bits"),
        verb,
        words,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{OWN_PROGRAM, one_line, program};

    #[test]
    fn a_program_of_ours_that_is_gone_is_stood_in_for() {
        let own = Path::new(OWN_PROGRAM);
        assert_eq!(program(Path::new("/nowhere/berth-oci")), own);
        for named in ["/nowhere/runc", "berth-oci", "/bin/sh"] {
            assert_eq!(program(Path::new(named)), Path::new(named));
        }
    }

    #[test]
    fn words_become_one_bounded_line() {
        assert_eq!(one_line(b"a\n\n  b \n"), "a; b");
        assert_eq!(one_line(&[b'x'; 10_000]).len(), super::WORDS_LIMIT_BYTES);
    }
}
