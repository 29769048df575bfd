//! Launching: image, configuration, create, start.
//!
//! Whatever fails before the start is tried again after a back-off, for the
//! cause may go away (a registry that is down). A start that fails is an exit:
//! the program is missing or cannot be run, and the restart policy decides.

use std::path::Path;

use berth_cri::v1;
use berth_runtime::causes::chain;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Ending, Keeper, Running};
use crate::pod::{
    plan::{
        ConfigError,
        container::{ContainerSurroundings, Launch, PullPolicy},
        environment,
    },
    volumes::mounts,
    worker::{
        exit::{self, Exit},
        image::{self, FoundImage, NoImage},
        order::{self, Order},
    },
};

/// Why a container was not made.
struct Refusal {
    reason: &'static str,
    message: String,
    of: Culprit,
}

/// Which back-off a refusal takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Culprit {
    Image,
    Container,
}

impl Keeper {
    /// Makes and starts the container; an exit instead if the start failed.
    pub(super) async fn launch(&mut self) -> Result<Result<Running, Exit>, Ending> {
        let mut failures = 0;
        let (id, image) = loop {
            if *self.orders.borrow() != Order::Run {
                return Err(self.ending());
            }
            match self.create().await {
                Ok(created) => break created,
                Err(None) => return Err(self.ending()),
                Err(Some(refusal)) => {
                    failures += 1;
                    self.wait_after(refusal, failures).await?;
                }
            }
        };
        Ok(self.start(id, &image).await)
    }

    /// Shows why there is no container, and waits.
    async fn wait_after(&mut self, refusal: Refusal, failures: u32) -> Result<(), Ending> {
        let name = self.plan.name().to_owned();
        self.show_waiting(refusal.reason, Some(refusal.message));
        let config = self.life.config.clone();
        let pause = match refusal.of {
            Culprit::Container => config.restart_backoff.wait(failures),
            Culprit::Image => {
                let pause = config.pull_backoff.wait(failures);
                // A policy of Never has nothing to back off from.
                if self.plan.pull_policy != PullPolicy::Never {
                    let text = format!("Back-off pulling image {:?}", self.plan.image);
                    self.life.board.normal(Some(&name), "BackOff", text.clone());
                    self.show_waiting("ImagePullBackOff", Some(text));
                }
                pause
            }
        };
        let life = self.life.clone();
        tokio::select! {
            paused = self.pause(pause) => paused,
            // What it lacked may have come.
            () = life.objects_changed() => Ok(()),
        }
    }

    /// Makes the container; nothing when an order came first.
    async fn create(&mut self) -> Result<(String, FoundImage), Option<Refusal>> {
        let image = self.image().await?;
        let life = &self.life;
        let attempt = self.attempt;
        let objects = life.objects();
        let facts = life.facts(&objects, &self.sandbox.addresses);
        let environment = environment::plan_environment(&facts, &self.plan.spec)
            .map_err(|error| self.misconfigured(&error))?;
        let mounts = mounts::plan_mounts(&life.volumes, &self.plan.spec, attempt, &environment)
            .map_err(|error| self.misconfigured(&error))?;
        let launch = Launch {
            attempt,
            image_id: image.id.clone(),
            image_user: image.user.clone(),
            mounts: mounts::owned_by(&mounts, &self.sandbox.users),
            environment,
        };
        let around = ContainerSurroundings {
            spec: &life.plan.spec,
            identity: &life.plan.identity,
            qos: life.plan.qos,
            grace: life.plan.grace,
            config: &life.config,
        };
        let config = self
            .plan
            .config(&around, launch)
            .map_err(|error| self.misconfigured(&error))?;
        let placed = tokio::task::spawn_blocking(move || {
            mounts::ensure_mounts(&mounts).map_err(|error| chain(&error))
        });
        match placed.await {
            Ok(Ok(())) => {}
            Ok(Err(message)) => return Err(self.refuse("CreateContainerConfigError", message)),
            Err(panic) => {
                return Err(self.refuse("CreateContainerConfigError", panic.to_string()));
            }
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.config.clone()),
        };
        let name = self.plan.name();
        match life.service.create_container(request).await {
            Ok(reply) => {
                let text = format!("Created container {name}");
                life.board.normal(Some(name), "Created", text);
                Ok((reply.container_id, image))
            }
            Err(status) => {
                let message = status.message().to_owned();
                Err(self.refuse("CreateContainerError", message))
            }
        }
    }

    fn refuse(&self, reason: &'static str, message: String) -> Option<Refusal> {
        let text = format!("Error: {message}");
        self.life
            .board
            .warning(Some(self.plan.name()), "Failed", text);
        Some(Refusal {
            reason,
            message,
            of: Culprit::Container,
        })
    }

    fn misconfigured(&self, error: &ConfigError) -> Option<Refusal> {
        self.refuse("CreateContainerConfigError", error.to_string())
    }

    /// The image: what was being fetched since the pod began, else anew.
    async fn image(&mut self) -> Result<FoundImage, Option<Refusal>> {
        let life = self.life.clone();
        let plan = self.plan.clone();
        let fetched = self.fetch.take();
        let found = async {
            match fetched {
                Some(fetch) => match fetch.result().await {
                    Some(found) => found,
                    None => image::ensure_image(&life, &plan).await,
                },
                None => image::ensure_image(&life, &plan).await,
            }
        };
        let mut orders = self.orders.clone();
        let found = tokio::select! {
            found = found => found,
            _ = order::ended(&mut orders) => return Err(None),
        };
        found.map_err(|NoImage { reason, message }| {
            Some(Refusal {
                reason,
                message,
                of: Culprit::Image,
            })
        })
    }

    /// Starts the container that was made.
    async fn start(&mut self, id: String, image: &FoundImage) -> Result<Running, Exit> {
        let name = self.plan.name().to_owned();
        self.forget_previous();
        let request = v1::StartContainerRequest {
            container_id: id.clone(),
        };
        let started = self.life.service.start_container(request).await;
        let now = Timestamp::now();
        if let Err(status) = started {
            let text = format!("Error: {}", status.message());
            self.life.board.warning(Some(&name), "Failed", text);
            self.show_running(&id, now, &image.digest);
            self.attempt += 1;
            // The runtime's own code tells a missing program from one that may
            // not be run, where it keeps such a code.
            let seen = exit::observe(&self.life, &id).await;
            let exit = seen.unwrap_or_else(|| Exit::not_started(&id, status.message(), now));
            self.previous = Some(id);
            return Err(exit);
        }
        self.life
            .board
            .normal(Some(&name), "Started", format!("Started container {name}"));
        self.show_running(&id, now, &image.digest);
        self.show_resources();
        self.attempt += 1;
        Ok(Running {
            id,
            since: Instant::now(),
            fresh: true,
        })
    }

    /// Removes the container before the last one: one is kept for its log.
    fn forget_previous(&mut self) {
        if let Some(container_id) = self.older.take() {
            let service = self.life.service.clone();
            // Nothing waits for it: it is long dead, and the pod's end removes
            // whatever is left.
            tokio::spawn(async move {
                let request = v1::RemoveContainerRequest { container_id };
                let _ = service.remove_container(request).await;
            });
        }
        self.older = self.previous.take();
        let logs = Path::new(&self.life.plan.sandbox.log_directory).join(self.plan.name());
        let kept = self.attempt.saturating_sub(1);
        tokio::task::spawn_blocking(move || remove_logs_before(&logs, kept));
    }
}

/// Removes the logs of a container's starts before this one, `N.log` and what was rotated
/// from it. A container that is started again for weeks must not fill the disk with them.
fn remove_logs_before(directory: &Path, kept: u32) {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let number = name
            .split_once(".log")
            .and_then(|(number, _)| number.parse().ok());
        if number.is_some_and(|number: u32| number < kept) {
            // What stays goes with the pod.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::remove_logs_before;

    #[test]
    fn the_last_starts_logs_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "8.log",
            "8.log.20260101-000000",
            "9.log",
            "9.log.20260101-000000",
            "10.log",
            "notes",
        ] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        remove_logs_before(directory.path(), 9);
        let left = std::fs::read_dir(directory.path()).unwrap().flatten();
        let mut left: Vec<String> = left
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["10.log", "9.log", "9.log.20260101-000000", "notes"]);
    }
}
