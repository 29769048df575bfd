//! Deletion: at once, after a grace, or when those who hold a finalizer let go.
//!
//! ```text
//!   delete --> no grace, no finalizers ------------------------------> gone
//!         \--> deletionTimestamp is set; the object stays readable
//!                 pod on a node: its agent stops it and deletes again with grace 0
//!                 finalizers:    whoever holds one does its work and removes it
//!                 namespace:     its content goes first, then `finalize`
//! ```
//!
//! What happens to objects that name this one as their owner is said by `propagationPolicy` and
//! carried by two finalizers that the garbage controller understands: `foregroundDeletion`
//! (dependents first) and `orphan` (dependents stay). Without either it removes them afterwards.
//!
//! Read more: Kubernetes' pages "Finalizers", "Garbage Collection" and "Pod Lifecycle".

use serde_json::{Value, json};

use crate::{
    api::{
        Api,
        error::ApiError,
        kind::Kind,
        object,
        write::{Current, Mode, Outcome, Place, is_finished},
    },
    store::Expected,
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How often a deletion is tried again on a newer state.
const ATTEMPTS: usize = 16;

/// How an object shall be deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// How long the object may take to end.
    pub grace_seconds: Option<i64>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The resource version that the object must have.
    pub resource_version: Option<String>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// Whether it is meant.
    pub mode: Mode,
}

/// What happens to the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay, without an owner.
    Orphan,
}

impl Propagation {
    /// Reads the word of a request.
    ///
    /// # Errors
    ///
    /// 400 for any other word.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(ApiError::bad_request(format!(
                "propagationPolicy is {other:?}; expected Background, Foreground or Orphan"
            ))),
        }
    }
}

/// What a deletion came to.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// The object as it is now, or was at last.
    pub object: Value,
    /// Whether it is gone, not only on its way.
    pub gone: bool,
}

/// What is to be done to the object as it is now.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nothing: its deletion is under way and this request adds nothing.
    Nothing,
    /// Write this state.
    Mark(Value),
    /// Remove it.
    Remove,
}

impl Api {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    ///
    /// 404 if there is none, 409 if it is not the one that was meant.
    pub async fn delete(
        &self,
        place: &Place,
        options: &DeleteOptions,
    ) -> Result<Deletion, ApiError> {
        for _ in 0..ATTEMPTS {
            let current = self.read(place).await?;
            check_preconditions(place, &current.value, options)?;
            let step = plan_deletion(place.kind, &current.value, options);
            if options.mode == Mode::DryRun {
                let gone = step == Step::Remove;
                let object = if let Step::Mark(next) = step {
                    next
                } else {
                    current.value
                };
                return Ok(Deletion { object, gone });
            }
            match self.take_step(place, current, step).await {
                Ok(deletion) => return Ok(deletion),
                Err(Outcome::Changed) => {}
                Err(Outcome::Failed(error)) => return Err(error),
            }
        }
        Err(ApiError::modified(place.kind, &place.name))
    }

    async fn take_step(
        &self,
        place: &Place,
        current: Current,
        step: Step,
    ) -> Result<Deletion, Outcome> {
        let expected = Expected::Revision(current.entry.modified);
        match step {
            Step::Nothing => Ok(Deletion {
                object: current.value,
                gone: false,
            }),
            Step::Mark(mut next) => {
                let entry = self
                    .store
                    .put(&place.key(), object::encode(&next), expected)
                    .await?;
                object::set_resource_version(&mut next, entry.modified);
                Ok(Deletion {
                    object: next,
                    gone: false,
                })
            }
            Step::Remove => {
                let gone = self.store.delete(&place.key(), expected).await?;
                self.services
                    .free(self, place.kind, &current.value, None)
                    .await;
                let mut object = current.value;
                object::set_resource_version(&mut object, gone.modified);
                Ok(Deletion { object, gone: true })
            }
        }
    }
}

fn check_preconditions(
    place: &Place,
    current: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let uid = object::uid(current);
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        );
        return Err(ApiError::conflict(place.kind, &place.name, &why));
    }
    let version = object::resource_version(current);
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != version)
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
        );
        return Err(ApiError::conflict(place.kind, &place.name, &why));
    }
    Ok(())
}

fn plan_deletion(kind: &Kind, current: &Value, options: &DeleteOptions) -> Step {
    let grace = grace_seconds(kind, current, options);
    let mut next = current.clone();
    set_finalizers(&mut next, options.propagation);
    if object::is_deleting(current) {
        // A deletion that is under way can be made shorter, never longer.
        let left = current["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        if grace < left {
            mark(&mut next, grace);
        }
    } else {
        mark(&mut next, grace);
        if next["metadata"]["generation"].as_i64().unwrap_or(0) > 0 && !is_finished(kind, &next) {
            let generation = next["metadata"]["generation"].as_i64().unwrap_or(0);
            object::set_meta(&mut next, "generation", generation + 1);
        }
    }
    if kind.kind == "Namespace" {
        next["status"]["phase"] = json!("Terminating");
    }
    if is_finished(kind, &next) {
        Step::Remove
    } else if next == *current {
        Step::Nothing
    } else {
        Step::Mark(next)
    }
}

/// A pod that runs somewhere, or may, needs time to end; everything else goes at once.
fn grace_seconds(kind: &Kind, current: &Value, options: &DeleteOptions) -> i64 {
    if kind.kind != "Pod" {
        return 0;
    }
    let is_bound = current["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty());
    let has_ended = matches!(
        current["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if !is_bound || has_ended {
        return 0;
    }
    let own = current["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    // A negative grace means one second, as in Kubernetes.
    match options.grace_seconds.unwrap_or(own) {
        grace if grace < 0 => 1,
        grace => grace,
    }
}

fn mark(next: &mut Value, grace: i64) {
    object::set_meta(next, "deletionTimestamp", object::later_text(grace));
    object::set_meta(next, "deletionGracePeriodSeconds", grace);
}

/// The two finalizers that say what happens to dependents; a request without a policy leaves them.
fn set_finalizers(next: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let mut finalizers: Vec<String> = object::finalizers(next)
        .into_iter()
        .filter(|one| Some(*one) == wanted || ![FOREGROUND, ORPHAN].contains(one))
        .map(str::to_owned)
        .collect();
    if let Some(wanted) = wanted.filter(|wanted| !finalizers.iter().any(|one| one == wanted)) {
        finalizers.push(wanted.to_owned());
    }
    if finalizers.is_empty() {
        object::remove_meta(next, "finalizers");
    } else {
        object::set_meta(next, "finalizers", finalizers);
    }
}
