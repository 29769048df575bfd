//! Programs of the caller that run at six moments of a container's life
//! (runtime-spec, config.md#posix-platform-hooks).
//!
//! ```text
//! prestart, createRuntime   runtime's namespaces   after the mounts, before pivot_root
//! createContainer           container's            after those, before pivot_root
//! startContainer            container's, its root  after `start`, before the program
//! poststart                 runtime's              after the program began
//! poststop                  runtime's              after `delete` took the container away
//! ```
//!
//! Each gets the container's state as JSON on its standard input. One that
//! fails or takes longer than its timeout ends the operation, except after
//! `delete`, when there is nothing left to give up.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use serde::Serialize;

use crate::ids::ContainerId;
use crate::state::Status;
use crate::sys::call::remark;
use crate::sys::process::HostPid;
use crate::sys::process_copy::close_descriptors_at_exec;

/// What a hook is told.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState<'a> {
    /// The runtime spec of the container's configuration.
    pub oci_version: &'a str,
    /// The container.
    pub id: &'a ContainerId,
    /// Where it is in its life.
    pub status: Status,
    /// Init, as the hook can see it; left away once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<HostPid>,
    /// Where its configuration is.
    pub bundle: &'a Path,
    /// Words for others.
    pub annotations: &'a std::collections::HashMap<String, String>,
}

/// A hook that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("hooks.{moment}[{index}]: starting {path}")]
    NotStarted {
        /// When it was to run.
        moment: &'static str,
        /// Which of them.
        index: usize,
        /// The program.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// What it writes cannot be kept.
    #[error("annotations[{name:?}]: opening {path}")]
    Output {
        /// The annotation.
        name: &'static str,
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended with another status than 0.
    #[error("hooks.{moment}[{index}]: {path}: {ended}{words}")]
    Failed {
        /// When it ran.
        moment: &'static str,
        /// Which of them.
        index: usize,
        /// The program.
        path: String,
        /// How it ended.
        ended: String,
        /// What it wrote to its standard error.
        words: String,
    },
}

/// Runs hooks of one moment, one after another.
///
/// # Errors
///
/// The first that fails; those after it are not run.
pub fn run_hooks(
    moment: &'static str,
    hooks: &[Hook],
    state: &HookState<'_>,
) -> Result<(), HookError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let told = serde_json::to_vec(state).expect("a state is plain data with text keys");
    for (index, hook) in hooks.iter().enumerate() {
        run_hook(moment, index, hook, &told)?;
    }
    Ok(())
}

fn run_hook(moment: &'static str, index: usize, hook: &Hook, told: &[u8]) -> Result<(), HookError> {
    let path = hook.path().display().to_string();
    remark(|| {
        let arguments = hook.args().as_deref().unwrap_or_default();
        format!(
            "hooks.{moment}[{index}]: execve({path:?}, {arguments:?}), {} bytes of state on its standard input",
            told.len()
        )
    });
    let mut said = memory_file();
    let mut child = start(hook, &said).map_err(|source| HookError::NotStarted {
        moment,
        index,
        path: path.clone(),
        source,
    })?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read its input.
        let _ = input.write_all(told);
    }
    let timeout = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let ended = wait(&mut child, timeout.map(Duration::from_secs));
    remark(|| format!("hooks.{moment}[{index}]: {path} = {ended}"));
    if ended == "exit status: 0" {
        return Ok(());
    }
    let words = read_words(&mut said);
    Err(HookError::Failed {
        moment,
        index,
        path,
        ended,
        words: if words.is_empty() {
            String::new()
        } else {
            format!(": {words}")
        },
    })
}

/// A file for what a hook writes: unlike a pipe, it never fills up while
/// nobody reads.
fn memory_file() -> std::io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create("hook", flags)?.into())
}

fn read_words(said: &mut std::io::Result<File>) -> String {
    let mut words = Vec::new();
    if let Ok(file) = said {
        let _ = file.seek(SeekFrom::Start(0));
        let _ = file.take(4096).read_to_end(&mut words);
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

/// Where hooks write to, where annotations of crun's name files.
#[derive(Debug, Default)]
struct Outputs {
    stdout: Option<File>,
    stderr: Option<File>,
}

/// Opened once, by the runtime: init inherits them, and hooks that run inside
/// write to the host's files too.
static OUTPUTS: OnceLock<Outputs> = OnceLock::new();

/// Opens the files that `run.oci.hooks.stdout` and `run.oci.hooks.stderr` name,
/// to be added to. Asked for before the first hook runs.
///
/// # Errors
///
/// A file that cannot be made.
pub fn open_outputs(annotations: &HashMap<String, String>) -> Result<(), HookError> {
    let open = |name: &'static str| match annotations.get(name) {
        None => Ok(None),
        Some(path) => match File::options().append(true).create(true).open(path) {
            Ok(file) => Ok(Some(file)),
            Err(source) => Err(HookError::Output {
                name,
                path: path.clone(),
                source,
            }),
        },
    };
    let outputs = Outputs {
        stdout: open("run.oci.hooks.stdout")?,
        stderr: open("run.oci.hooks.stderr")?,
    };
    // A process makes, starts or removes one container, so this is said once.
    let _ = OUTPUTS.set(outputs);
    Ok(())
}

fn output(of: fn(&Outputs) -> &Option<File>) -> std::io::Result<Option<Stdio>> {
    let file = OUTPUTS.get().and_then(|outputs| of(outputs).as_ref());
    file.map(|file| file.try_clone().map(Stdio::from))
        .transpose()
}

fn start(hook: &Hook, said: &std::io::Result<File>) -> std::io::Result<Child> {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    if let Some(variables) = hook.env() {
        command.env_clear();
        command.envs(
            variables
                .iter()
                .filter_map(|variable| variable.split_once('=')),
        );
    }
    let stderr = match (output(|outputs| &outputs.stderr)?, said) {
        (Some(file), _) => file,
        (None, Ok(file)) => Stdio::from(file.try_clone()?),
        (None, Err(_)) => Stdio::null(),
    };
    let stdout = output(|outputs| &outputs.stdout)?.unwrap_or_else(Stdio::null);
    command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
    // What the caller left open, and what it wants the program to keep, is not
    // for hooks: those of `startContainer` come from the image.
    close_descriptors_at_exec(&mut command);
    command.spawn()
}

/// Waits for the end, or brings it about when the time is over.
fn wait(child: &mut Child, timeout: Option<Duration>) -> String {
    let Some(timeout) = timeout else {
        return child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
    };
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return format!("killed after its timeout of {} s", timeout.as_secs());
            }
            Err(error) => return error.to_string(),
        }
    }
}
