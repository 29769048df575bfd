//! Limits of a whole pod, changed while it runs.
//!
//! A kubelet makes the pod's group itself, writes its limits itself, and tells
//! the runtime so that it knows. Where the group is ours nobody else writes
//! them, so we do.

use std::path::Path;

use super::Engine;
use super::cgroups;
use super::error::{Error, ErrorKind};
use super::monitor_link::blocking;
use super::records::{PodPhase, PodRecord};
use super::spec::resources;
use crate::v1;

impl Engine {
    /// Changes what a sandbox and its overhead may use. What an update does not
    /// state stays.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Invalid` for a field, `WrongState` when it is stopped,
    /// `Storage` when the kernel refuses a limit.
    pub async fn update_sandbox(
        &self,
        wanted: &str,
        overhead: Option<v1::LinuxContainerResources>,
        update: Option<v1::LinuxContainerResources>,
    ) -> Result<(), Error> {
        let id = self.sandbox(wanted)?.id;
        // A wrong field is refused before anything is changed.
        for limits in [&overhead, &update].into_iter().flatten() {
            resources::plan_limits(limits, self.host())?;
        }
        self.to_the_end(move |engine| async move {
            let locked = engine.records().lock_pod(&id).await?;
            let mut record = locked.read()?;
            if record.phase != PodPhase::Ready {
                let text = format!("sandbox {id}: is not ready; nothing was changed");
                return Err(Error::new(ErrorKind::WrongState, text));
            }
            let mut config = record.config.0.clone();
            let linux = config.linux.get_or_insert_default();
            merge(&mut linux.overhead, overhead);
            merge(&mut linux.resources, update);
            engine.limit_own_group(&record, linux).await?;
            record.config.0 = config;
            locked.write(&record)
        })
        .await
    }

    async fn limit_own_group(
        &self,
        record: &PodRecord,
        linux: &v1::LinuxPodSandboxConfig,
    ) -> Result<(), Error> {
        let parent = Path::new(&self.config().cgroup_parent);
        let ours = Path::new(&record.cgroup).parent() == Some(parent);
        let Some(wanted) = linux.resources.clone().filter(|_| ours) else {
            return Ok(());
        };
        let limits = resources::plan_limits(&wanted, self.host())?;
        let (id, group) = (record.id.clone(), record.cgroup.clone());
        blocking(move || {
            let mut plan = cgroups::container_group(&id, &group)?;
            let failed = |error| {
                let text = format!("set the limits of the pod's group {group}");
                Error::caused(ErrorKind::Storage, text, error)
            };
            // The first container makes the pod's group, and a group that holds
            // processes is refused by who wants to make one.
            let mut groups = plan.hierarchies().iter();
            if !groups.all(|hierarchy| hierarchy.directory().is_dir()) {
                plan.create().map_err(failed)?;
            }
            plan.set(&limits, None).map_err(failed)
        })
        .await
    }
}

fn merge(
    known: &mut Option<v1::LinuxContainerResources>,
    update: Option<v1::LinuxContainerResources>,
) {
    if let Some(update) = update {
        let old = known.take().unwrap_or_default();
        *known = Some(resources::merge_limits(&old, &update));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_stated_stays() {
        let limits = |shares, memory| v1::LinuxContainerResources {
            cpu_shares: shares,
            memory_limit_in_bytes: memory,
            ..Default::default()
        };
        let mut known = Some(limits(512, 1 << 20));
        merge(&mut known, Some(limits(0, 2 << 20)));
        assert_eq!(known, Some(limits(512, 2 << 20)));
        merge(&mut known, None);
        assert_eq!(known, Some(limits(512, 2 << 20)));
        let mut none = None;
        merge(&mut none, Some(limits(1, 0)));
        assert_eq!(none, Some(limits(1, 0)));
    }
}
