//! Running one more program in a container.
//!
//! `berth-oci exec` runs as a child of who asked, not of the monitor: the
//! program ends with its client, and its output needs no detour.
//!
//! ```text
//! without a terminal   client ◀─ three pipes ─▶ berth-oci exec ─▶ program
//! with one             client ◀─────── pty master ───────────────▶ program
//! ```
//!
//! The OCI runtime makes the program's own terminal inside the container (its
//! device has to be in the container's devpts) and sends the master end back
//! over a socket.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use berth_runtime::monitor::protocol::ContainerState as LiveState;
use oci_spec::runtime::{Process, UserBuilder};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::console::Console;
use self::files::ExecFiles;
use self::output::{DRAIN, copy_output};
use super::container::making::read_config;
use super::error::{Error, ErrorKind};
use super::oci_call::last_words;
use super::records::{ContainerRecord, PodRecord, no_such_container};
use super::spec::{clean_absolute, process::set_variable, user};
use super::{Engine, monitor_link};
use crate::v1;

/// The program's terminal: its master end arrives over a socket.
mod console;
/// The files of one exec, and what becomes of them when its client is killed.
mod files;
/// What a program wrote, to its last byte, but no longer.
mod output;

/// What `exec_sync` collects of each stream; more is an error that says so.
const OUTPUT_LIMIT_BYTES: usize = 16 << 20;
/// How long the runtime may take to make a program that nobody wants any more.
const MAKING: Duration = Duration::from_secs(5);
/// How long the terminal of a program that has ended already is looked for.
const LATE_TERMINAL: Duration = Duration::from_millis(250);

/// A program to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// `NAME=value`, over those of the container.
    pub environment: Vec<String>,
    /// `user`, `uid`, `user:group`; the container's own when absent.
    pub user: Option<String>,
    /// The directory to begin in; the container's own when absent.
    pub working_directory: Option<String>,
    /// All capabilities, as of a privileged container.
    pub privileged: bool,
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Where a program's input comes from and its output goes.
pub struct ExecIo {
    /// Standard input; `/dev/null` when absent.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard output; with a terminal, both.
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    /// Standard error; unused with a terminal.
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
    /// The sizes of the client's terminal, the first one at once.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// What a program has written, with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The program's status, or 128 plus the signal that ended it.
    pub exit_code: i32,
}

/// A call of the OCI runtime, ready to run.
struct PreparedExec {
    command: Command,
    /// Where the program's terminal arrives, when it gets one.
    console: Option<Console>,
    /// Removed when this is dropped.
    files: ExecFiles,
}

impl Engine {
    /// Runs a program in a container and collects what it writes.
    ///
    /// A zero `timeout` is none.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when the container does not run, `Timeout` after
    /// which the program was killed, `Runtime` when it could not be started or
    /// wrote more than 16 MiB.
    pub async fn exec_collect(
        &self,
        wanted: &str,
        request: &ExecRequest,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        let mut prepared = self.prepare_exec(wanted, request).await?;
        let mut child = prepared
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(runtime_failed)?;
        let mut guard = EndOnDrop::of(&prepared.files, &child);
        let collected = collect(&mut child);
        let outcome = if timeout.is_zero() {
            collected.await
        } else {
            match tokio::time::timeout(timeout, collected).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "command {:?} did not end within {} seconds and was killed",
                        request.arguments.join(" "),
                        timeout.as_secs()
                    ),
                )),
            }
        };
        if outcome.is_err() {
            end_program(&prepared.files.pid(), &mut child).await;
        }
        guard.armed = false;
        outcome
    }

    /// Runs a program in a container, joined to the client's input and output.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when the container does not run, `Runtime` when
    /// the program could not be started.
    pub async fn exec(
        &self,
        wanted: &str,
        request: &ExecRequest,
        io: ExecIo,
    ) -> Result<i32, Error> {
        match request.terminal {
            true => self.exec_with_terminal(wanted, request, io).await,
            false => self.exec_with_pipes(wanted, request, io).await,
        }
    }

    async fn exec_with_pipes(
        &self,
        wanted: &str,
        request: &ExecRequest,
        io: ExecIo,
    ) -> Result<i32, Error> {
        let mut prepared = self.prepare_exec(wanted, request).await?;
        let input = match io.stdin {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        };
        let mut child = prepared
            .command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(runtime_failed)?;
        let mut guard = EndOnDrop::of(&prepared.files, &child);
        let feed = child
            .stdin
            .take()
            .zip(io.stdin)
            .map(|(mut pipe, mut input)| {
                // Its own task: the program may end while the client's input stays open.
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut input, &mut pipe).await;
                    let _ = pipe.shutdown().await;
                })
            });
        let ended = CancellationToken::new();
        let mut output = JoinSet::new();
        output.spawn(copy_output(child.stdout.take(), io.stdout, ended.clone()));
        output.spawn(copy_output(child.stderr.take(), io.stderr, ended.clone()));
        let status = child.wait().await.map_err(runtime_failed)?;
        guard.armed = false;
        ended.cancel();
        output.join_all().await;
        if let Some(feed) = feed {
            feed.abort();
        }
        Ok(code_of(status))
    }

    async fn exec_with_terminal(
        &self,
        wanted: &str,
        request: &ExecRequest,
        io: ExecIo,
    ) -> Result<i32, Error> {
        let mut prepared = self.prepare_exec(wanted, request).await?;
        let console = prepared
            .console
            .take()
            .ok_or_else(|| Error::invalid("tty: the program has no terminal"))?;
        let mut child = prepared
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(runtime_failed)?;
        let mut guard = EndOnDrop::of(&prepared.files, &child);
        let stderr = child.stderr.take();
        let received = console.receive();
        tokio::pin!(received);
        let first = tokio::select! {
            biased;
            master = &mut received => Ok(master?),
            status = child.wait() => Err(status),
        };
        // A short program may have ended before we looked; its terminal was sent
        // before that and waits in the socket.
        let first = match first {
            Ok(master) => Ok(master),
            Err(status) => match tokio::time::timeout(LATE_TERMINAL, received).await {
                Ok(Ok(master)) => Ok(master),
                _ => Err(status),
            },
        };
        let master = match first {
            Ok(master) => master,
            Err(status) => {
                guard.armed = false;
                let mut reason = Vec::new();
                if let Some(mut stderr) = stderr {
                    let _ = stderr.read_to_end(&mut reason).await;
                }
                let status = status.map_err(runtime_failed)?;
                return Err(Error::new(
                    ErrorKind::Runtime,
                    format!(
                        "the program was not started ({status}): {}",
                        last_words(&reason)
                    ),
                ));
            }
        };
        let ended = CancellationToken::new();
        // In a set, so that the bridge goes with us.
        let mut bridge = JoinSet::new();
        bridge.spawn(console::bridge(master, io, ended.clone()));
        let status = child.wait().await.map_err(runtime_failed)?;
        guard.armed = false;
        ended.cancel();
        bridge.join_all().await;
        Ok(code_of(status))
    }

    /// Writes the program's description and puts the command line together.
    async fn prepare_exec(
        &self,
        wanted: &str,
        request: &ExecRequest,
    ) -> Result<PreparedExec, Error> {
        let record = self.container(wanted)?;
        let pod = self
            .records()
            .read_pod(&record.pod_id)?
            .ok_or_else(|| no_such_container(wanted))?;
        self.refuse_unless_running(&record).await?;
        let process = self.plan_exec(&record, request)?;
        let bytes = serde_json::to_vec(&process).map_err(|error| {
            Error::caused(ErrorKind::Invalid, "encode the program to run", error)
        })?;
        let files = ExecFiles::create(&self.paths().pod(&pod.id), &bytes)?;
        let mut command = self.exec_command(&pod);
        command.arg("--process").arg(files.process());
        command.arg("--pid-file").arg(files.pid());
        let console = match request.terminal {
            true => Some(console::listen(&files.console())?),
            false => None,
        };
        if console.is_some() {
            command.arg("--console-socket").arg(files.console());
        }
        command.arg(&record.id).kill_on_drop(true);
        Ok(PreparedExec {
            command,
            console,
            files,
        })
    }

    fn exec_command(&self, pod: &PodRecord) -> Command {
        let mut command = self.runtime_command(pod);
        command.arg("exec");
        command
    }

    async fn refuse_unless_running(&self, record: &ContainerRecord) -> Result<(), Error> {
        let pod_dir = self.paths().pod(&record.pod_id);
        let live = monitor_link::status(&pod_dir).await?.unwrap_or_default();
        let runs = live
            .iter()
            .any(|live| live.id == record.id && live.state == LiveState::Running);
        if runs {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::WrongState,
            format!(
                "container {}: does not run; nothing was started in it",
                record.id
            ),
        ))
    }

    /// The container's own process with what the request changes.
    fn plan_exec(&self, record: &ContainerRecord, request: &ExecRequest) -> Result<Process, Error> {
        if request.arguments.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("cmd: must not be empty"));
        }
        if request.arguments.iter().any(|text| text.contains('\0')) {
            return Err(Error::invalid("cmd: an argument holds a NUL"));
        }
        let bundle = self.paths().bundle(&record.pod_id, &record.id);
        let mut process = read_config(&bundle)?
            .process()
            .clone()
            .ok_or_else(|| Error::new(ErrorKind::Storage, "the container has no process"))?;
        process.set_args(Some(request.arguments.clone()));
        process.set_terminal(Some(request.terminal));
        let mut variables = process.env().clone().unwrap_or_default();
        if request.terminal {
            set_variable(&mut variables, "TERM=xterm".to_owned());
        }
        for variable in &request.environment {
            if !variable.contains('=') || variable.starts_with('=') || variable.contains('\0') {
                return Err(Error::invalid(format!(
                    "environment: {variable:?} is not NAME=value"
                )));
            }
            set_variable(&mut variables, variable.clone());
        }
        process.set_env(Some(variables));
        if let Some(directory) = &request.working_directory {
            process.set_cwd(clean_absolute("working_directory", directory)?);
        }
        if let Some(name) = &request.user {
            self.set_user(&mut process, record, name)?;
        }
        if request.privileged {
            let all = super::spec::capabilities::plan_capabilities(
                &v1::Capability::default(),
                &self.config().defaults.capabilities,
                &self.host().capabilities,
                super::spec::Privilege::Privileged,
            )?;
            process.set_capabilities(Some(all));
        }
        Ok(process)
    }

    fn set_user(
        &self,
        process: &mut Process,
        record: &ContainerRecord,
        name: &str,
    ) -> Result<(), Error> {
        let rootfs = self.paths().rootfs(&record.pod_id, &record.id);
        let accounts = user::read_accounts(&rootfs)?;
        let context = v1::LinuxContainerSecurityContext::default();
        let resolved = user::resolve_user(&context, name, &accounts)?;
        let user = UserBuilder::default()
            .uid(resolved.run_as.uid)
            .gid(resolved.run_as.gid)
            .additional_gids(resolved.run_as.additional_gids)
            .build()?;
        process.set_user(user);
        let mut variables = process.env().clone().unwrap_or_default();
        set_variable(&mut variables, format!("HOME={}", resolved.home));
        process.set_env(Some(variables));
        Ok(())
    }
}

/// Kills the program of a client that went away: its future was dropped.
struct EndOnDrop {
    pid_file: PathBuf,
    /// The runtime, which makes the program and waits for it.
    runtime: Option<OwnedFd>,
    armed: bool,
}

impl EndOnDrop {
    fn of(files: &ExecFiles, runtime: &Child) -> EndOnDrop {
        let pid = runtime.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        EndOnDrop {
            pid_file: files.pid(),
            // It was not waited for, so the number is its own.
            runtime: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            armed: true,
        }
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if !self.armed || kill_by_pid_file(&self.pid_file) {
            return;
        }
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // The runtime still makes the program, or has ended. Whoever drops a future
        // cannot wait, so somebody else does.
        let pid_file = std::mem::take(&mut self.pid_file);
        std::thread::spawn(move || end_when_made(&pid_file, &runtime));
    }
}

/// Kills a program as soon as its runtime says which it is. Without it being said
/// there is no program, or there is none any more.
fn end_when_made(pid_file: &std::path::Path, runtime: &OwnedFd) {
    let has_ended = || {
        let mut ends = [PollFd::new(runtime, PollFlags::IN)];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        !matches!(poll(&mut ends, Some(&now)), Ok(0))
    };
    let deadline = Instant::now() + MAKING;
    while !has_ended() && Instant::now() < deadline {
        if kill_by_pid_file(pid_file) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Written after the other files went.
    let _ = std::fs::remove_file(pid_file);
}

/// Ends the program and then the runtime that waits for it.
///
/// The runtime is the program's parent and gets the time to take its status: a
/// program whose parent is killed first stays in the container as a zombie
/// until whoever inherits it looks.
async fn end_program(pid_file: &std::path::Path, child: &mut Child) {
    kill_by_pid_file(pid_file);
    if tokio::time::timeout(DRAIN, child.wait()).await.is_err() {
        let _ = child.start_kill();
        let _ = child.wait().await;
    }
}

/// The runtime wrote the program's number as the host sees it. The number
/// cannot have passed to another process: the runtime has not waited for its
/// child yet, and until then the kernel keeps the number.
///
/// Whether there was a number.
fn kill_by_pid_file(pid_file: &std::path::Path) -> bool {
    let pid = std::fs::read_to_string(pid_file)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    pid.is_some()
}

/// Reads both streams to their ends, and the status.
async fn collect(child: &mut Child) -> Result<ExecOutput, Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let status = {
        let reading = async {
            tokio::try_join!(
                read_bounded(out, &mut stdout, "standard output"),
                read_bounded(err, &mut stderr, "standard error")
            )
            .map(|_| ())
        };
        tokio::pin!(reading);
        tokio::select! {
            read = &mut reading => {
                read?;
                child.wait().await.map_err(runtime_failed)?
            }
            status = child.wait() => {
                // What runs on in the background may keep the pipes open.
                if let Ok(read) = tokio::time::timeout(DRAIN, reading).await {
                    read?;
                }
                status.map_err(runtime_failed)?
            }
        }
    };
    Ok(ExecOutput {
        stdout,
        stderr,
        exit_code: code_of(status),
    })
}

async fn read_bounded<R: AsyncRead + Unpin>(
    stream: Option<R>,
    into: &mut Vec<u8>,
    name: &str,
) -> Result<(), Error> {
    let Some(stream) = stream else {
        return Ok(());
    };
    stream
        .take(OUTPUT_LIMIT_BYTES as u64 + 1)
        .read_to_end(into)
        .await
        .map_err(runtime_failed)?;
    if into.len() > OUTPUT_LIMIT_BYTES {
        return Err(Error::new(
            ErrorKind::Runtime,
            format!(
                "the command wrote more than {} MiB to {name} and was killed",
                OUTPUT_LIMIT_BYTES >> 20
            ),
        ));
    }
    Ok(())
}

/// A shell's way: 128 and the signal's number.
fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

fn runtime_failed(error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Runtime, "run the OCI runtime's exec", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// The client went away while the runtime still made the program.
    #[tokio::test]
    async fn a_program_that_is_made_after_its_client_went_away_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let files = ExecFiles::create(folder.path(), b"{}").unwrap();
        // A runtime waits for its program; this one's program is made when `go` is there.
        let script =
            "while [ ! -e go ]; do sleep 0.01; done; sleep 1000 & echo $! >pid; mv pid $0; wait";
        let mut runtime = Command::new("sh")
            .args(["-c", script])
            .arg(files.pid())
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        drop(EndOnDrop::of(&files, &runtime));
        drop(files);
        std::fs::write(folder.path().join("go"), "").unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), runtime.wait());
        ended.await.expect("its program is ended").unwrap();
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        let deadline = Instant::now() + Duration::from_secs(60);
        while left() > 1 {
            assert!(Instant::now() < deadline, "the number is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn both_streams_and_the_status_are_collected() {
        let output = collect(&mut shell("echo out; echo err >&2; exit 7"))
            .await
            .unwrap();
        assert_eq!(output.stdout, b"out\n");
        assert_eq!(output.stderr, b"err\n");
        assert_eq!(output.exit_code, 7);
        let killed = collect(&mut shell("kill -9 $$")).await.unwrap();
        assert_eq!(killed.exit_code, 137);
    }

    #[tokio::test]
    async fn too_much_output_is_refused() {
        let mut child = shell("head -c 17000000 /dev/zero");
        let error = collect(&mut child).await.unwrap_err();
        assert!(error.to_string().contains("16 MiB"), "{error}");
        child.start_kill().unwrap();
        child.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_background_program_does_not_hold_the_answer() {
        let begin = std::time::Instant::now();
        let output = collect(&mut shell("sleep 30 & echo $!")).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10));
        let pid = String::from_utf8(output.stdout).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
