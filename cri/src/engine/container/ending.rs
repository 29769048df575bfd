//! Ending a container: stopping what runs in it, and taking away all it has.

use std::path::Path;
use std::time::Duration;

use berth_runtime::monitor::protocol::{ContainerState as LiveState, Request};

use super::{image_error, image_volumes};
use crate::engine::error::{Error, ErrorKind, Failures};
use crate::engine::monitor_link::{self, blocking};
use crate::engine::records::lock::LockedPod;
use crate::engine::records::{ContainerRecord, PodRecord, files as record_files};
use crate::engine::sandbox::gone_is_none;
use crate::engine::{Engine, mount_table};

/// `SIGKILL`.
const SIGKILL: i32 = 9;
/// How long the kernel may take to end a program that got `SIGKILL`. A program
/// that waits for a dead network file system ends only when that answers.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long whoever stops a container waits for what is left of it to be taken away.
/// A `poststop` hook may take any time, and the container has ended without it.
const TIDY_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// The stop signal, then `SIGKILL` to all its processes after the grace.
    /// Idempotent.
    ///
    /// # Errors
    ///
    /// `Timeout` when the kernel does not end it, `Unavailable` when its monitor
    /// is gone while it may run.
    pub async fn stop(&self, wanted: &str, grace: Duration) -> Result<(), Error> {
        // The CRI asks for success here: what is gone is stopped.
        let Some(record) = gone_is_none(self.container(wanted))? else {
            return Ok(());
        };
        let pod = self.records().read_pod(&record.pod_id)?;
        self.to_the_end(move |engine| async move {
            let pod_dir = engine.paths().pod(&record.pod_id);
            match monitor_link::status(&pod_dir).await? {
                Some(live) => {
                    let ended = live
                        .iter()
                        .find(|live| live.id == record.id)
                        .is_none_or(|live| live.state == LiveState::Exited);
                    match ended {
                        true => Ok(()),
                        false => end_by_signals(&pod_dir, &record, grace).await,
                    }
                }
                // Without a monitor there is nobody to wait with: the OCI
                // runtime kills and deletes what may be left of it.
                None => match pod {
                    Some(pod) => engine.delete_by_runtime(&pod, &record.id).await,
                    None => Ok(()),
                },
            }
        })
        .await
    }

    /// Removes a container, running or not. Idempotent.
    ///
    /// # Errors
    ///
    /// What could not be removed; the record stays then, for another try.
    pub async fn remove(&self, wanted: &str) -> Result<(), Error> {
        let Some((pod_id, id)) = self.records().find_container_id(wanted)? else {
            return Ok(());
        };
        self.to_the_end(move |engine| async move {
            let Some(locked) = gone_is_none(engine.records().lock_pod(&pod_id).await)? else {
                return Ok(());
            };
            let Some(known) = gone_is_none(engine.read_or_salvage(&locked))? else {
                return Ok(());
            };
            engine.take_away(&locked, known.record(), &id).await
        })
        .await
    }

    /// Undoes all that a container has, however far it got.
    pub(in crate::engine) async fn take_away(
        &self,
        locked: &LockedPod,
        pod: &PodRecord,
        id: &str,
    ) -> Result<(), Error> {
        let pod_dir = self.paths().pod(&pod.id);
        let mut failures = Failures::default();
        let request = Request::Delete { id: id.to_owned() };
        failures.note(match monitor_link::call(&pod_dir, request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.delete_by_runtime(pod, id).await
            }
            Err(error) => Err(error),
        });
        failures.note(self.remove_root(&pod.id, id).await);
        failures.into_result(&format!("container {id} was not removed whole"))?;
        locked.remove_container(id)?;
        // After the record: as long as the container is told of, so is its end.
        record_files::remove_file(&monitor_link::exit_path(&pod_dir, id))
    }

    /// Unmounts a container's root, and removes its bundle and what it wrote.
    pub(in crate::engine) async fn remove_root(&self, pod_id: &str, id: &str) -> Result<(), Error> {
        let images = self.images().clone();
        let bundle = self.paths().bundle(pod_id, id);
        let rootfs = self.paths().rootfs(pod_id, id);
        let id = id.to_owned();
        blocking(move || {
            image_volumes::remove(&images, &bundle, &id)?;
            images.unmount_snapshot(&id, &rootfs).map_err(image_error)?;
            mount_table::remove_unmounted(&bundle)
        })
        .await
    }
}

/// The stop signal, the grace, then `SIGKILL` to everything in the container.
async fn end_by_signals(
    pod_dir: &Path,
    record: &ContainerRecord,
    grace: Duration,
) -> Result<(), Error> {
    if !grace.is_zero() {
        signal(pod_dir, &record.id, record.stop_signal, Whom::Init).await?;
        if ends_within(pod_dir, &record.id, grace).await? {
            return settle(pod_dir, &record.id).await;
        }
    }
    signal(pod_dir, &record.id, SIGKILL, Whom::All).await?;
    if ends_within(pod_dir, &record.id, KILL_PATIENCE).await? {
        return settle(pod_dir, &record.id).await;
    }
    Err(Error::new(
        ErrorKind::Timeout,
        format!(
            "container {}: SIGKILL did not end it within {} seconds; a system call may hang",
            record.id,
            KILL_PATIENCE.as_secs()
        ),
    ))
}

/// Waits until nothing of a container that has ended is left but the word of it, or until
/// the patience is at its end: whoever removes the container waits for the rest.
async fn settle(pod_dir: &Path, id: &str) -> Result<(), Error> {
    let request = Request::Settle { id: id.to_owned() };
    let settled = monitor_link::call(pod_dir, request);
    match tokio::time::timeout(TIDY_PATIENCE, settled).await {
        Err(_) => {
            tracing::warn!(
                container = %id,
                "it has ended, but its OCI runtime has not deleted it after {} seconds: a poststop hook may hang",
                TIDY_PATIENCE.as_secs()
            );
            Ok(())
        }
        // The pod is gone meanwhile; or its monitor is of an older berth, and whoever
        // removes the container takes away what is left of it.
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Invalid) => {
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) => Ok(()),
    }
}

/// Which processes of a container a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Init,
    All,
}

async fn signal(pod_dir: &Path, id: &str, signal: i32, whom: Whom) -> Result<(), Error> {
    let request = Request::Kill {
        id: id.to_owned(),
        signal,
        all: whom == Whom::All,
    };
    match monitor_link::call(pod_dir, request).await {
        Ok(_) => Ok(()),
        // It ended, or was removed, between the look and the call.
        Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn ends_within(pod_dir: &Path, id: &str, patience: Duration) -> Result<bool, Error> {
    match tokio::time::timeout(patience, monitor_link::wait(pod_dir, id)).await {
        Ok(Ok(_)) => Ok(true),
        // Removed by somebody else, or its whole pod was shut down.
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {
            Ok(true)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}
