//! Calls of an OCI runtime that the engine makes itself.
//!
//! Everything about a container's life goes through its monitor. Three things
//! do not: a change of limits, of which the monitor need not know; one more
//! program (`exec.rs`), which belongs to who asked for it; and cleaning up after
//! a monitor that was killed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Engine;
use super::error::{Error, ErrorKind};
use super::records::PodRecord;

/// Longer than any of these calls takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is no part of our service: what systemd said to us is not for
/// it, nor for whom it starts.
pub(super) fn outside_service(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for word in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        command.env_remove(word);
    }
    command
}

impl Engine {
    /// The OCI runtime of a pod, with its state directory.
    pub(super) fn runtime_command(&self, pod: &PodRecord) -> Command {
        let mut command = outside_service(self.runtime_of(pod));
        command
            .args(&pod.oci_arguments)
            .arg("--root")
            .arg(self.paths().oci_root(pod.state_of()));
        command
    }

    /// The program that made the pod's containers, or what stands in its place
    /// since an upgrade put it elsewhere.
    fn runtime_of(&self, pod: &PodRecord) -> PathBuf {
        if pod.oci_runtime.exists() {
            return pod.oci_runtime.clone();
        }
        // A handler that is gone too is told of by the path that is missing.
        let now = self
            .runtimes()
            .choose(&pod.runtime_handler, &self.config().oci_runtime);
        now.map_or_else(|_| pod.oci_runtime.clone(), |chosen| chosen.runtime.program)
    }

    /// Kills and deletes a container. One that is not there is fine.
    pub(super) async fn delete_by_runtime(&self, pod: &PodRecord, id: &str) -> Result<(), Error> {
        if !self.has_runtime_state(pod, id) {
            return Ok(());
        }
        let mut command = self.runtime_command(pod);
        command.args(["delete", "--force", id]);
        run(command, "delete", &[]).await
    }

    /// Whether the OCI runtime has a directory for the container: each keeps
    /// one of the container's name below its root.
    fn has_runtime_state(&self, pod: &PodRecord, id: &str) -> bool {
        let root = self.paths().oci_root(pod.state_of());
        Path::new(&root).join(id).exists()
    }

    pub(super) async fn update_by_runtime(
        &self,
        pod: &PodRecord,
        id: &str,
        limits: &LinuxResources,
    ) -> Result<(), Error> {
        let mut command = self.runtime_command(pod);
        command.args(["update", "--resources", "-", id]);
        let bytes = serde_json::to_vec(limits)
            .map_err(|error| Error::caused(ErrorKind::Invalid, "encode the limits", error))?;
        run(command, "update", &bytes).await
    }
}

/// Runs to the end; the error is what the runtime wrote to standard error.
async fn run(mut command: Command, verb: &str, input: &[u8]) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        Error::caused(
            ErrorKind::Runtime,
            format!("run the OCI runtime's {verb}"),
            error,
        )
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A runtime that failed before it read says why on its standard error.
        let _ = stdin.write_all(input).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "the OCI runtime's {verb} did not end within {} seconds",
                    PATIENCE.as_secs()
                ),
            )
        })?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Runtime,
        format!(
            "the OCI runtime's {verb} failed ({}): {}",
            output.status,
            last_words(&output.stderr)
        ),
    ))
}

/// The end of what a runtime wrote: its reason stands last.
pub(super) fn last_words(stderr: &[u8]) -> String {
    const LIMIT_BYTES: usize = 4096;
    let begin = stderr.len().saturating_sub(LIMIT_BYTES);
    String::from_utf8_lossy(&stderr[begin..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_has_the_runtimes_words() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cat >&2; exit 3"]);
        let error = run(command, "update", b"no such limit\n")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime);
        assert!(error.to_string().ends_with("no such limit"), "{error}");
        run(Command::new("/bin/true"), "delete", &[]).await.unwrap();
        let missing = run(Command::new("/nowhere/oci"), "delete", &[]).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::Runtime);
    }

    #[test]
    fn only_the_end_of_many_words_is_kept() {
        let many = [b"x".repeat(10_000), b" reason\n".to_vec()].concat();
        let text = last_words(&many);
        assert!(text.len() <= 4096 && text.ends_with("reason"));
    }
}
