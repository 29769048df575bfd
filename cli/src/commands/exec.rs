//! `berth exec`: one more program in a container.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context as Waiting, Poll};

use berth_cri::engine::Engine;
use berth_cri::engine::error::ErrorKind;
use berth_cri::engine::exec::{ExecIo, ExecRequest, TerminalSize};
use berth_cri::v1;
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::run::outcome::start_failure_code;
use crate::error::{Context, ENGINE_FAILED, Error, Result};
use crate::objects::{container_name, find_container, observe_pods};
use crate::streams::read_input;
use crate::terminal::{self, RawMode};

/// `berth exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  berth exec -it web -c nginx sh
  berth exec web/nginx nginx -t
  berth exec -u 1000:1000 -e LANG=C -w /tmp web id")]
pub struct ExecArguments {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run as this user: NAME or UID, with :GROUP
    #[arg(short, long)]
    pub user: Option<String>,
    /// Set a variable: NAME=VALUE, or NAME to pass it on
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// All capabilities
    #[arg(long)]
    pub privileged: bool,
    /// One container of several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pods of the cluster
    #[command(flatten)]
    pub remote: super::remote::RemoteArguments,
    /// A pod, POD/CONTAINER, or the beginning of a container's id
    pub target: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Runs the program; its exit code.
///
/// # Errors
///
/// No such container, or the program cannot be started: 126 and 127 as a shell
/// has it, 125 otherwise.
pub async fn run(engine: &Engine, arguments: &ExecArguments) -> Result<u8> {
    if arguments.tty
        && arguments.interactive
        && let Some(reason) = terminal::why_not_interactive()
    {
        return Err(Error::new(reason).with_exit_code(ENGINE_FAILED));
    }
    let pods = observe_pods(engine).await?;
    let found = find_container(&pods, &arguments.target, arguments.container.as_deref())?;
    let title = format!("{}/{}", found.pod.title(), container_name(found.container));
    if found.container.state() != v1::ContainerState::ContainerRunning {
        let error = Error::new(format!("container {title} does not run"));
        return Err(error.with_exit_code(ENGINE_FAILED));
    }
    let request = ExecRequest {
        arguments: arguments.command.clone(),
        terminal: arguments.tty,
        environment: environment(arguments),
        user: arguments.user.clone(),
        working_directory: arguments.workdir.clone(),
        privileged: arguments.privileged,
    };
    let raw = match arguments.tty && arguments.interactive {
        true => Some(RawMode::enter().context("make the terminal raw")?),
        false => None,
    };
    let io = ExecIo {
        stdin: arguments.interactive.then(input),
        stdout: Box::new(Printed::Stdout),
        stderr: Box::new(Printed::Stderr),
        resize: arguments.tty.then(sizes),
    };
    let ended = engine.exec(&found.container.id, &request, io).await;
    drop(raw);
    match ended {
        Ok(code) => Ok(u8::try_from(code).unwrap_or(ENGINE_FAILED)),
        Err(error) => {
            let code = match error.kind() {
                ErrorKind::Runtime => start_failure_code(&error.chain()),
                _ => ENGINE_FAILED,
            };
            let failed = Err(error).context(format!("exec in {title}"));
            failed.map_err(|error| error.with_exit_code(code))
        }
    }
}

/// A name without a value is this process's; unset here is unset there.
fn environment(arguments: &ExecArguments) -> Vec<String> {
    let set = |text: &String| match text.contains('=') {
        true => Some(text.clone()),
        false => std::env::var(text)
            .ok()
            .map(|value| format!("{text}={value}")),
    };
    let mut variables: Vec<String> = arguments.env.iter().filter_map(set).collect();
    // A program on a terminal asks of which kind it is.
    if arguments.tty
        && !variables
            .iter()
            .any(|variable| variable.starts_with("TERM="))
        && let Ok(kind) = std::env::var("TERM")
    {
        variables.push(format!("TERM={kind}"));
    }
    variables
}

/// Standard input as something to read from without a thread that cannot end.
fn input() -> Box<dyn AsyncRead + Send + Unpin> {
    let (mut near, far) = tokio::io::duplex(16 * 1024);
    tokio::spawn(async move {
        let mut keys = read_input();
        while let Some(bytes) = keys.recv().await {
            if near.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    Box::new(far)
}

/// The terminal's size, now and whenever it changes.
fn sizes() -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Some((width, height)) = terminal::size()
                && sender.send(TerminalSize { width, height }).await.is_err()
            {
                return;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
    receiver
}

/// This process's own output, each piece written at once.
#[derive(Debug, Clone, Copy)]
enum Printed {
    Stdout,
    Stderr,
}

impl AsyncWrite for Printed {
    fn poll_write(
        self: Pin<&mut Self>,
        _waiting: &mut Waiting<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let print = |output: &mut dyn Write| output.write_all(bytes).and_then(|()| output.flush());
        let printed = match *self {
            Printed::Stdout => print(&mut io::stdout().lock()),
            Printed::Stderr => print(&mut io::stderr().lock()),
        };
        Poll::Ready(printed.map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _waiting: &mut Waiting<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _waiting: &mut Waiting<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
