//! What engines that died have left half-made, undone.
//!
//! A record says `half-made` from before the first step to after the last. Its
//! maker holds the pod's lock meanwhile, so a half-made record *whose lock can
//! be had* is a dead maker's. The same happens to pods without a record (killed
//! between two steps of a removal) and to leftovers of a reboot.

use std::collections::BTreeSet;

use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::EXITS_FOLDER;

use super::error::{Error, Failures};
use super::records::lock::LockedPod;
use super::records::{ContainerPhase, PodPhase, PodRecord, files as record_files};
use super::sandbox::{gone_is_none, network_error};
use super::{Engine, monitor_link, mount_table};

/// Every command opens an engine. One pod whose end fails, because a plugin hangs or a
/// file system is read-only, must not make each of them wait for it.
const END_AGAIN_NANOSECONDS: i64 = 60_000_000_000;

/// Whether it is time to try an end again. A clock that was set back counts as time.
fn end_is_due(record: &PodRecord, now: i64) -> bool {
    record.end_failed_at.is_none_or(|failed_at| {
        let since = now.saturating_sub(failed_at);
        !(0..END_AGAIN_NANOSECONDS).contains(&since)
    })
}

impl Engine {
    /// Undoes what can be undone; what cannot be is told of in the log, and the
    /// next engine tries again.
    pub(super) async fn recover(&self) {
        let mut failures = Failures::default();
        failures.note(self.records().remove_leftovers());
        failures.note(self.recover_pods().await);
        failures.note(self.end_abandoned_programs().await);
        failures.note(self.remove_nameless_directories());
        failures.note(self.reconcile_network().await);
        if let Err(error) = failures.into_result("recovery") {
            tracing::warn!("{}", error.chain());
        }
    }

    async fn recover_pods(&self) -> Result<(), Error> {
        let mut failures = Failures::default();
        for id in self.records().pod_ids()? {
            let locked = match self.records().try_lock_pod(&id) {
                // A monitor is being started for a maker that died.
                Ok(None) if self.maker_is_dead(&id) => self.records().lock_pod(&id).await.map(Some),
                tried => tried,
            };
            match gone_is_none(locked) {
                Ok(Some(Some(locked))) => failures.note(self.recover_pod(locked).await),
                // Its holder lives, or somebody else was faster.
                Ok(Some(None) | None) => {}
                Err(error) => failures.note(Err(error)),
            }
        }
        failures.into_result("half-made sandboxes")
    }

    /// Whether a sandbox is half-made and the process that began it has gone.
    ///
    /// A number that passed to another process is taken for life: then the next
    /// recovery finds the lock free.
    fn maker_is_dead(&self, id: &str) -> bool {
        self.records().read_pod(id).is_ok_and(|record| {
            record.is_some_and(|record| {
                record.phase == PodPhase::HalfMade
                    && !std::path::Path::new(&format!("/proc/{}", record.maker_pid)).exists()
            })
        })
    }

    async fn recover_pod(&self, locked: LockedPod) -> Result<(), Error> {
        let Some(record) = self.records().read_pod(locked.id())? else {
            // Its maker died before it wrote the first record: nothing was made.
            return locked.remove();
        };
        if record.phase == PodPhase::HalfMade {
            return self.undo_half_made(locked, &record).await;
        }
        if record.phase == PodPhase::Stopping && !end_is_due(&record, now_nanoseconds()) {
            return Ok(());
        }
        if record.phase == PodPhase::Stopping {
            tracing::info!(pod = %record.id, "going on with the end of a sandbox");
            return self.stop_again(&locked, record).await;
        }
        let mut failures = Failures::default();
        let mut listing = self.records().list_containers(&record.id)?;
        if !listing.damaged.is_empty() {
            failures.note(self.undo_lost(&locked, &record).await);
            listing = self.records().list_containers(&record.id)?;
        }
        for damaged in &listing.damaged {
            tracing::error!("{}", damaged.chain());
        }
        for container in listing.records {
            if container.phase == ContainerPhase::HalfMade {
                tracing::info!(container = %container.id, "undoing a half-made container");
                failures.note(self.take_away(&locked, &record, &container.id).await);
            }
        }
        failures.note(self.remove_nameless_containers(&record.id).await);
        failures.into_result("half-made containers")
    }

    /// Undoes containers whose first record a loss of power has emptied.
    async fn undo_lost(&self, locked: &LockedPod, record: &PodRecord) -> Result<(), Error> {
        let live = monitor_link::status(&self.paths().pod(&record.id)).await?;
        let mut lost = self.records().lost_containers(&record.id)?;
        // Of one that its monitor knows something else has emptied the file: the power has
        // not failed since it was made, and it may do its work.
        lost.retain(|id| !live.iter().flatten().any(|live| live.id == *id));
        let mut failures = Failures::default();
        for id in lost {
            tracing::info!(container = %id, "undoing a container that was being made when the power failed");
            failures.note(self.take_away(locked, record, &id).await);
        }
        failures.into_result("containers without a word in their record")
    }

    /// Goes on with an end that another engine began; when that fails, engines that are
    /// opened soon leave it alone.
    async fn stop_again(&self, locked: &LockedPod, record: PodRecord) -> Result<(), Error> {
        let outcome = self.stop_locked(locked, record).await;
        if outcome.is_err()
            && let Some(mut record) = self.records().read_pod(locked.id())?
        {
            record.end_failed_at = Some(now_nanoseconds());
            if let Err(error) = locked.write(&record) {
                tracing::warn!(pod = %record.id, "not noted that its end failed: {}", error.chain());
            }
        }
        outcome
    }

    /// Bundles and exits of containers without a record. The pod's lock is held.
    async fn remove_nameless_containers(&self, pod_id: &str) -> Result<(), Error> {
        let known: BTreeSet<String> = self.records().container_ids(pod_id)?.into_iter().collect();
        let pod_dir = self.paths().pod(pod_id);
        let mut failures = Failures::default();
        for id in record_files::names_in(&pod_dir.join("containers"), "")? {
            if !known.contains(&id) {
                failures.note(self.remove_root(pod_id, &id).await);
            }
        }
        for id in record_files::names_in(&pod_dir.join(EXITS_FOLDER), ".json")? {
            if !known.contains(&id) {
                let path = monitor_link::exit_path(&pod_dir, &id);
                failures.note(record_files::remove_file(&path));
            }
        }
        failures.into_result("containers without a record")
    }

    /// Undoes a sandbox whose maker has died.
    pub(super) async fn undo_half_made(
        &self,
        locked: LockedPod,
        record: &PodRecord,
    ) -> Result<(), Error> {
        tracing::info!(pod = %record.id, "undoing a half-made sandbox");
        self.take_down(&locked, record).await?;
        self.clear_away(record).await?;
        locked.remove()
    }

    /// Run-time directories of pods that have no record at all.
    fn remove_nameless_directories(&self) -> Result<(), Error> {
        let mut failures = Failures::default();
        for id in record_files::names_in(&self.paths().pods(), "")? {
            // The record is written first and removed last, so a directory
            // without one belongs to nobody. A removal in another process is in
            // its last steps then and takes no harm.
            if !self.records().directory().join(&id).exists() {
                failures.note(mount_table::remove_unmounted(&self.paths().pod(&id)));
            }
        }
        failures.into_result("directories without a record")
    }

    /// Gives back the addresses and ports of pods that are no more.
    async fn reconcile_network(&self) -> Result<(), Error> {
        // Half-made ones too: their maker may live and be about to write.
        let live: BTreeSet<String> = self.records().pod_ids()?.into_iter().collect();
        // Each keeps things of its own, so one failure does not stop the other.
        let by_netd = self.netd().reconcile(&live).await;
        let by_plugins = Box::pin(self.cni().reconcile(&live)).await;
        let mut failures = Failures::default();
        for outcome in [by_netd, by_plugins] {
            match outcome {
                Ok(pods) => {
                    for pod in pods {
                        tracing::info!(%pod, "gave back the network of a pod that is no more");
                    }
                }
                Err(error) => failures.note(Err(network_error(error))),
            }
        }
        failures.into_result("networks of pods that are no more")
    }
}

#[cfg(test)]
mod tests {
    use super::{END_AGAIN_NANOSECONDS, end_is_due};
    use crate::engine::records::tests::pod;

    #[test]
    fn an_end_that_failed_is_left_alone_for_a_while() {
        let mut record = pod("a1");
        assert!(end_is_due(&record, 5));
        record.end_failed_at = Some(5);
        assert!(!end_is_due(&record, 5));
        assert!(!end_is_due(&record, 4 + END_AGAIN_NANOSECONDS));
        assert!(end_is_due(&record, 5 + END_AGAIN_NANOSECONDS));
        // The clock was set back.
        assert!(end_is_due(&record, 4));
    }
}
