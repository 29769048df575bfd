//! What a Deployment has to do, as values.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::PodTemplateSpec,
};

use super::{
    revision::{self, COMPLETED, DESIRED, REVISION, ROLLBACK},
    rolling::{self, Bounds, is_recreate, wants},
    status,
};

/// What a plan is made of.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// The sets that it owns.
    pub sets: &'a [Arc<ReplicaSet>],
    /// The uids of those sets of which a pod is still there.
    pub occupied: BTreeSet<String>,
}

/// One thing to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The set of the template.
    CreateSet(Box<ReplicaSet>),
    /// A set's numbers or annotations.
    UpdateSet {
        /// As it is.
        before: Arc<ReplicaSet>,
        /// As it shall be.
        after: Box<ReplicaSet>,
    },
    /// A set of a revision that history has no room for.
    DeleteSet(Arc<ReplicaSet>),
    /// The Deployment's own revision.
    SetRevision(i64),
    /// An older revision's template becomes the Deployment's.
    RollBack {
        /// The revision.
        to: i64,
        /// Its template.
        template: Box<PodTemplateSpec>,
        /// What failed.
        why: String,
    },
}

impl Action {
    /// Whether the Deployment itself is another afterwards.
    pub fn changes_deployment(&self) -> bool {
        matches!(self, Action::SetRevision(_) | Action::RollBack { .. })
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// The status, by what was observed.
    pub status: DeploymentStatus,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

/// The sets of a Deployment, each as it is and as it shall be.
struct Draft<'a> {
    deployment: &'a Deployment,
    bounds: Bounds,
    sets: Vec<(Arc<ReplicaSet>, ReplicaSet)>,
    /// Which of them is of the template.
    new: Option<usize>,
    /// The set of the template, where it is to be made.
    made: Option<ReplicaSet>,
}

/// What a Deployment has to do.
pub fn plan_deployment(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let deployment = observed.deployment;
    let living: Vec<Arc<ReplicaSet>> = observed
        .sets
        .iter()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .cloned()
        .collect();
    let new = revision::new_set(deployment, &living).cloned();
    let (status, again) = status::plan_status(deployment, observed.sets, new.as_deref(), now);
    let mut actions = Vec::new();
    if deployment.metadata.deletion_timestamp.is_none() {
        if let Some(rollback) = plan_rollback(deployment, &living, new.as_deref(), &status) {
            actions.push(rollback);
        } else {
            let complete = status::is_complete(deployment, &status);
            actions = plan_sets(observed, &living, new.as_ref(), complete);
        }
    }
    Plan {
        actions,
        status,
        again,
    }
}

fn plan_sets(
    observed: &Observed<'_>,
    living: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    complete: bool,
) -> Vec<Action> {
    let deployment = observed.deployment;
    let mut draft = Draft {
        deployment,
        bounds: Bounds::of(deployment),
        sets: living
            .iter()
            .map(|set| (Arc::clone(set), (**set).clone()))
            .collect(),
        new: new.and_then(|new| living.iter().position(|set| Arc::ptr_eq(set, new))),
        made: None,
    };
    let revision = draft.renew();
    match deployment.spec.paused == Some(true) || draft.is_scaled() {
        true => draft.scale(),
        false if is_recreate(deployment) => draft.recreate(&observed.occupied),
        false => draft.roll(),
    }
    if complete {
        draft.mark_completed();
    }
    let mut actions = draft.into_actions();
    // After the set: a revision without its set is none.
    let known = revision::number(&deployment.metadata, REVISION);
    if let Some(revision) = revision
        && known != Some(revision)
        && (new.is_some()
            || actions
                .iter()
                .any(|action| matches!(action, Action::CreateSet(_))))
    {
        actions.push(Action::SetRevision(revision));
    }
    if complete {
        let history = plan_history(deployment, living, new);
        actions.extend(history.into_iter().map(Action::DeleteSet));
    }
    actions
}

impl Draft<'_> {
    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |at| Some(*at) != new)
    }

    /// Gives the new set its revision and the Deployment's annotations; returns
    /// the revision.
    fn renew(&mut self) -> Option<i64> {
        let latest = self
            .old()
            .map(|at| revision::revision(&self.sets[at].0))
            .max();
        let next = latest.unwrap_or(0) + 1;
        let Some(at) = self.new else {
            return Some(next);
        };
        let set = &mut self.sets[at].1;
        let revision = revision::revision(set).max(next);
        revision::annotate(set, self.deployment, revision);
        set.spec.min_ready_seconds = self.deployment.spec.min_ready_seconds;
        Some(revision)
    }

    fn set_wants(&mut self, at: usize, replicas: i32) {
        let set = &mut self.sets[at].1;
        if wants(set) != replicas {
            set.spec.replicas = Some(replicas);
        }
        // Also where the number stays: else the scaling would be seen again.
        if replicas > 0 || wants(&self.sets[at].0) > 0 {
            let set = &mut self.sets[at].1;
            revision::note_scale(set, self.bounds.replicas, self.bounds.maximum());
        }
    }

    /// Whether `replicas` is another than when the sets were last scaled.
    fn is_scaled(&self) -> bool {
        let desired = i64::from(self.bounds.replicas);
        self.sets
            .iter()
            .filter(|(set, _)| wants(set) > 0)
            .filter_map(|(set, _)| revision::number(&set.metadata, DESIRED))
            .any(|noted| noted != desired)
    }

    /// Spreads a new `replicas` over the sets, without rolling on.
    fn scale(&mut self) {
        let active: Vec<usize> = (0..self.sets.len())
            .filter(|at| wants(&self.sets[*at].0) > 0)
            .collect();
        match active[..] {
            // The newest, or the latest there is, takes it all.
            [] => {
                let latest = self.new.or_else(|| {
                    self.old()
                        .max_by_key(|at| revision::revision(&self.sets[*at].0))
                });
                if let Some(at) = latest {
                    self.set_wants(at, self.bounds.replicas);
                }
            }
            [only] => self.set_wants(only, self.bounds.replicas),
            _ if self.new.is_some_and(|new| self.is_saturated(new)) => {
                for at in self.old() {
                    self.set_wants(at, 0);
                }
                if let Some(new) = self.new {
                    self.set_wants(new, self.bounds.replicas);
                }
            }
            _ if is_recreate(self.deployment) => {
                for at in active {
                    let wanted = wants(&self.sets[at].0);
                    self.set_wants(at, wanted);
                }
            }
            _ => {
                let sets: Vec<Arc<ReplicaSet>> = active
                    .iter()
                    .map(|at| Arc::clone(&self.sets[*at].0))
                    .collect();
                let numbers = rolling::plan_proportional(self.bounds, &sets);
                for (at, number) in active.into_iter().zip(numbers) {
                    self.set_wants(at, number);
                }
            }
        }
    }

    /// Whether a set has all that the Deployment wanted when it was scaled last.
    fn is_saturated(&self, at: usize) -> bool {
        let set = &self.sets[at].0;
        let noted = revision::number(&set.metadata, DESIRED);
        let available = set
            .status
            .as_ref()
            .and_then(|status| status.available_replicas);
        noted == Some(i64::from(wants(set))) && available == Some(wants(set))
    }

    fn roll(&mut self) {
        let old: Vec<usize> = self.old().collect();
        let old_sets: Vec<Arc<ReplicaSet>> =
            old.iter().map(|at| Arc::clone(&self.sets[*at].0)).collect();
        let Some(new) = self.new else {
            let old = old_sets.iter().map(|set| rolling::occupies(set)).sum();
            let first = rolling::plan_new(self.bounds, 0, old);
            self.make(first);
            return;
        };
        let numbers = rolling::plan_rolling(self.bounds, &self.sets[new].0, &old_sets);
        self.set_wants(new, numbers.new);
        for (at, number) in old.into_iter().zip(numbers.old) {
            self.set_wants(at, number);
        }
    }

    fn recreate(&mut self, occupied: &BTreeSet<String>) {
        let mut old_is_there = false;
        for at in self.old() {
            let uid = self.sets[at].0.metadata.uid.as_ref();
            old_is_there |=
                wants(&self.sets[at].0) > 0 || uid.is_some_and(|uid| occupied.contains(uid));
            self.set_wants(at, 0);
        }
        match self.new {
            _ if old_is_there => {}
            Some(new) => self.set_wants(new, self.bounds.replicas),
            None => self.make(self.bounds.replicas),
        }
    }

    fn make(&mut self, replicas: i32) {
        let latest = self
            .old()
            .map(|at| revision::revision(&self.sets[at].0))
            .max();
        let revision = latest.unwrap_or(0) + 1;
        let maximum = self.bounds.maximum();
        self.made = Some(revision::plan_new_set(
            self.deployment,
            replicas,
            revision,
            maximum,
        ));
    }

    fn mark_completed(&mut self) {
        if let Some(at) = self.new {
            let annotations = self.sets[at].1.metadata.annotations.get_or_insert_default();
            annotations.insert(COMPLETED.to_owned(), "true".to_owned());
        }
    }

    fn into_actions(self) -> Vec<Action> {
        let made = self.made.map(|set| Action::CreateSet(Box::new(set)));
        let changed = self.sets.into_iter().filter_map(|(before, after)| {
            (*before != after).then(|| Action::UpdateSet {
                before,
                after: Box::new(after),
            })
        });
        made.into_iter().chain(changed).collect()
    }
}

/// The sets that history has no room for, oldest first.
fn plan_history(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
) -> Vec<Arc<ReplicaSet>> {
    let keep = usize::try_from(deployment.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let is_old = |set: &&Arc<ReplicaSet>| !new.is_some_and(|new| Arc::ptr_eq(new, set));
    let mut old: Vec<&Arc<ReplicaSet>> = sets.iter().filter(is_old).collect();
    old.sort_by_key(|set| (revision::revision(set), revision::age_key(set)));
    let surplus = old.len().saturating_sub(keep);
    old.into_iter()
        .take(surplus)
        .filter(|set| is_empty(set))
        .cloned()
        .collect()
}

/// Whether a set has and wants nothing, by a status that is not old.
fn is_empty(set: &ReplicaSet) -> bool {
    rolling::occupies(set) == 0 && rolling::is_observed(set)
}

/// Takes back a rollout that failed, if the Deployment wants that.
///
/// Only to a revision that was complete once, and only from one that never was:
/// else two revisions that both fail today would take turns for ever.
fn plan_rollback(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    status: &DeploymentStatus,
) -> Option<Action> {
    if deployment.spec.paused == Some(true) || !revision::says_true(&deployment.metadata, ROLLBACK)
    {
        return None;
    }
    let new = new.filter(|new| !revision::says_true(&new.metadata, COMPLETED))?;
    let progress = status::condition(status, status::PROGRESSING)?;
    if progress.reason.as_deref() != Some(status::DEADLINE_EXCEEDED) {
        return None;
    }
    let last = sets
        .iter()
        .filter(|set| set.metadata.uid != new.metadata.uid)
        .filter(|set| revision::says_true(&set.metadata, COMPLETED))
        .max_by_key(|set| revision::revision(set))?;
    Some(Action::RollBack {
        to: revision::revision(last),
        template: Box::new(revision::plain_template(last)),
        why: format!(
            "revision {} did not progress within {} seconds",
            revision::revision(new),
            deployment
                .spec
                .progress_deadline_seconds
                .unwrap_or(status::DEADLINE),
        ),
    })
}

#[cfg(test)]
mod tests;
