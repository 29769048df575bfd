//! Containers: what is asked of one between its making and its end.
//!
//! The pod's lock is held while something is made or removed, never while a
//! program is waited for: a stop's grace must not keep others out.

use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::{ExitRecord, Request};

use super::error::{Error, ErrorKind};
use super::records::{ContainerRecord, Encoded, StartFailure};
use super::spec::resources;
use super::{Engine, monitor_link};
use crate::v1;

/// From running to gone.
mod ending;
/// The content of images, mounted into a container.
mod image_volumes;
/// From a request to a container that can be started.
pub(super) mod making;
/// What the OCI runtime still makes.
pub(super) mod under_way;

impl Engine {
    /// Starts a container that was made.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it was started before, `Runtime` with the
    /// OCI runtime's words, which the container's status tells from then on.
    pub async fn start(&self, wanted: &str) -> Result<(), Error> {
        let record = self.container(wanted)?;
        self.under_way().outcome(&record.id).await?;
        self.to_the_end(move |engine| async move {
            let pod_dir = engine.paths().pod(&record.pod_id);
            let mut started = monitor_link::begin(&pod_dir, &record.id).await;
            if matches!(&started, Err(error) if error.kind() == ErrorKind::NotFound) {
                started = match engine.make_again(&record).await {
                    Ok(()) => monitor_link::begin(&pod_dir, &record.id).await,
                    Err(error) => Err(error),
                };
            }
            match started {
                Ok((told, sent)) => {
                    engine.keep_word(&record.pod_id, &told, sent);
                    Ok(())
                }
                Err(error) if error.kind() == ErrorKind::Runtime => {
                    engine.keep_start_failure(&record, &error).await?;
                    Err(error)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Waits until the OCI runtime has made a container, or has failed to; whoever calls it
    /// by itself finds the container there then.
    pub(super) async fn settle(&self, record: &ContainerRecord) -> Result<(), Error> {
        self.under_way().outcome(&record.id).await?;
        let id = record.id.clone();
        let pod_dir = self.paths().pod(&record.pod_id);
        // This process may have been started while another's making was under way.
        monitor_link::call(&pod_dir, Request::Settle { id }).await?;
        Ok(())
    }

    async fn keep_start_failure(
        &self,
        record: &ContainerRecord,
        error: &Error,
    ) -> Result<(), Error> {
        let locked = self.records().lock_pod(&record.pod_id).await?;
        let Some(mut record) = self.records().read_container(&record.pod_id, &record.id)? else {
            return Ok(());
        };
        let message = error.chain();
        record.start_failure = Some(StartFailure {
            at: now_nanoseconds(),
            exit_code: exit_code_of_failure(&message),
            message,
        });
        locked.write_container(&record)
    }

    /// Waits until a container has ended.
    ///
    /// # Errors
    ///
    /// `NotFound` for an unknown one, `WrongState` when its end is not known.
    pub async fn wait(&self, wanted: &str) -> Result<ExitRecord, Error> {
        let view = self.view(wanted).await?;
        let record = view.record.clone();
        let pod_dir = self.paths().pod(&record.pod_id);
        match monitor_link::wait(&pod_dir, &record.id).await {
            Ok(exit) => return Ok(exit),
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
        // The monitor was shut down meanwhile; the exit is on disk by then.
        let view = self.view(&record.id).await?;
        if view.state == v1::ContainerState::ContainerExited && view.finished_at != 0 {
            return Ok(ExitRecord {
                id: record.id.clone(),
                exit_code: view.exit_code,
                signal: None,
                oom_killed: view.reason == "OOMKilled",
                started_at: view.started_at,
                finished_at: view.finished_at,
            });
        }
        Err(Error::new(
            ErrorKind::WrongState,
            format!(
                "container {}: nobody saw how it ended: {}",
                view.record.id, view.message
            ),
        ))
    }

    /// Changes the limits of a container.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Invalid` for a field, `WrongState` when it does not run,
    /// `Runtime` with the OCI runtime's words.
    pub async fn update(
        &self,
        wanted: &str,
        update: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        let limits = resources::plan_limits(&update, self.host())?;
        let view = self.view(wanted).await?;
        if !matches!(
            view.state,
            v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerCreated
        ) {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!(
                    "container {}: does not run; nothing was changed",
                    view.record.id
                ),
            ));
        }
        if view.state == v1::ContainerState::ContainerCreated {
            self.settle(&view.record).await?;
        }
        let record = view.record;
        self.to_the_end(move |engine| async move {
            let locked = engine.records().lock_pod(&record.pod_id).await?;
            let pod = locked.read()?;
            engine.update_by_runtime(&pod, &record.id, &limits).await?;
            let Some(mut record) = engine.records().read_container(&pod.id, &record.id)? else {
                return Ok(());
            };
            record.resources = Encoded(resources::merge_limits(&record.resources.0, &update));
            locked.write_container(&record)
        })
        .await
    }

    /// Opens the log file anew after a rotation.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it does not run.
    pub async fn reopen_log(&self, wanted: &str) -> Result<(), Error> {
        let record = self.container(wanted)?;
        let pod_dir = self.paths().pod(&record.pod_id);
        monitor_link::call(&pod_dir, Request::ReopenLog { id: record.id }).await?;
        Ok(())
    }
}

/// What a shell would say of a program that it cannot run.
fn exit_code_of_failure(message: &str) -> i32 {
    let message = message.to_ascii_lowercase();
    if message.contains("no such file") || message.contains("not found") {
        127
    } else if message.contains("permission denied") {
        126
    } else {
        128
    }
}

/// The image store's kinds in the engine's words.
pub(super) fn image_error(error: crate::images::error::Error) -> Error {
    use crate::images::error::ErrorKind as Images;
    let kind = match error.kind() {
        Images::InvalidInput => ErrorKind::Invalid,
        Images::NotFound => ErrorKind::NotFound,
        Images::Unsupported => ErrorKind::Unsupported,
        Images::Unauthorized => ErrorKind::Permission,
        _ => ErrorKind::Image,
    };
    Error::caused(kind, "the image store", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_has_a_shells_status() {
        assert_eq!(exit_code_of_failure("exec: No such file or directory"), 127);
        assert_eq!(exit_code_of_failure("exec: Permission denied"), 126);
        assert_eq!(exit_code_of_failure("mount failed"), 128);
    }
}
