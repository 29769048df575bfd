//! `berth exec --cluster`: one more program in a container of the cluster.

use futures::SinkExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::parse_target;
use crate::cluster::api::{connect, words};
use crate::commands::exec::ExecArguments;
use crate::error::{Context, ENGINE_FAILED, Error, Result};
use crate::settings::Settings;
use crate::streams::read_input;
use crate::terminal::{self, RawMode};

/// Runs the program; its exit code.
///
/// # Errors
///
/// No such container, its node does not answer, or the program cannot be started.
pub async fn run(settings: &Settings, arguments: &ExecArguments) -> Result<u8> {
    refuse_local_flags(arguments)?;
    let client = connect(settings, &arguments.remote.which).await?;
    let namespace = match &arguments.remote.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let (name, container) = parse_target(&arguments.target);
    let parameters = AttachParams {
        container: arguments.container.clone().or(container.map(str::to_owned)),
        stdin: arguments.interactive,
        stdout: true,
        // A terminal has one output.
        stderr: !arguments.tty,
        tty: arguments.tty,
        ..AttachParams::default()
    };
    let attempt = format!("exec in pod {name}");
    let mut process = pods
        .exec(name, arguments.command.clone(), &parameters)
        .await
        .map_err(|error| {
            let failed = Error::new(format!("{attempt}: {}", words(&error)));
            failed.with_exit_code(ENGINE_FAILED)
        })?;
    let raw = match arguments.tty && arguments.interactive {
        true => Some(RawMode::enter().context("make the terminal raw")?),
        false => None,
    };
    let status = process.take_status();
    if let Some(sizes) = process.terminal_size() {
        tokio::spawn(tell_sizes(sizes));
    }
    if let Some(input) = process.stdin() {
        tokio::spawn(pass_input(input));
    }
    let output = process.stdout().map(|from| pass(from, tokio::io::stdout()));
    let errors = process.stderr().map(|from| pass(from, tokio::io::stderr()));
    let passing = async {
        futures::future::join(settle(output), settle(errors)).await;
    };
    passing.await;
    let ended = match status {
        Some(status) => status.await,
        None => None,
    };
    drop(raw);
    exit_code(ended, &attempt)
}

/// The API has no words for these.
fn refuse_local_flags(arguments: &ExecArguments) -> Result<()> {
    let given = [
        ("--user", arguments.user.is_some()),
        ("--env", !arguments.env.is_empty()),
        ("--workdir", arguments.workdir.is_some()),
        ("--privileged", arguments.privileged),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::new(format!(
            "{flag} is for pods of this machine: the cluster's API has no such thing; nothing was run"
        ))
        .with_exit_code(ENGINE_FAILED)),
    }
}

async fn settle(passing: Option<impl Future<Output = ()>>) {
    if let Some(passing) = passing {
        passing.await;
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // Each piece at once: a prompt has no end of line.
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

async fn pass_input(mut to: impl AsyncWrite + Unpin) {
    let mut keys = read_input();
    while let Some(bytes) = keys.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn tell_sizes(mut sizes: futures::channel::mpsc::Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((width, height)) = terminal::size()
            && sizes.send(TerminalSize { width, height }).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The exit code that a Status tells: none in a success, a cause in a failure.
fn exit_code(
    status: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>,
    attempt: &str,
) -> Result<u8> {
    let fail =
        |words: &str| Err(Error::new(format!("{attempt}: {words}")).with_exit_code(ENGINE_FAILED));
    let Some(status) = status else {
        return fail("the connection ended before the program did");
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes);
    let code = causes.into_iter().flatten().find_map(|cause| {
        let is_code = cause.reason.as_deref() == Some("ExitCode");
        cause.message.filter(|_| is_code)?.parse::<i32>().ok()
    });
    match code {
        Some(code) => Ok(u8::try_from(code).unwrap_or(ENGINE_FAILED)),
        None => fail(&status.message.unwrap_or_default()),
    }
}
