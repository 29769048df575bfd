//! What to do about one object, given who owns it and whom it owns.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use super::graph::{Graph, Item};

/// The finalizer of an owner that goes after what it owns.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner that lets go what it owns.
pub const ORPHAN: &str = "orphan";

/// What an owner is to the object that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It exists.
    Solid,
    /// It is being deleted, and waits for this object to go first.
    Waiting,
    /// It does not exist.
    Absent,
}

/// The next step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// All is as it should be.
    Nothing,
    /// Delete the object.
    Delete(PropagationPolicy),
    /// Take these owners out of it: others still own it.
    Forget(Vec<String>),
    /// These dependents have to go first; look at them.
    Wait(Vec<String>),
    /// Take the object out of the owners of these, then the finalizer out of the object.
    Release {
        /// Those that it owns.
        dependents: Vec<String>,
        /// The finalizer.
        finalizer: &'static str,
    },
}

/// Plans for one object. `asked` has the standing of owners that the graph does not know.
pub fn plan(graph: &Graph, item: &Item, asked: &HashMap<String, Standing>) -> Step {
    if item.deleting {
        return plan_end(graph, item);
    }
    let standing = |owner: &&OwnerReference| standing(graph, owner, asked);
    let (solid, lost): (Vec<_>, Vec<_>) = item
        .owners
        .iter()
        .partition(|owner| standing(owner) == Standing::Solid);
    if lost.is_empty() {
        return Step::Nothing;
    }
    if !solid.is_empty() {
        return Step::Forget(lost.into_iter().map(|owner| owner.uid.clone()).collect());
    }
    let waited_for = lost
        .iter()
        .any(|owner| standing(owner) == Standing::Waiting);
    let policy = if item.has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if item.has(FOREGROUND) || (waited_for && blockers(graph, item).next().is_some()) {
        // Who waits for this object waits for all that it owns.
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    Step::Delete(policy)
}

/// Plans for an object that is being deleted.
fn plan_end(graph: &Graph, item: &Item) -> Step {
    if item.has(ORPHAN) {
        let dependents = graph
            .dependents(&item.uid)
            .map(|dependent| dependent.uid.clone())
            .collect();
        return Step::Release {
            dependents,
            finalizer: ORPHAN,
        };
    }
    if item.has(FOREGROUND) {
        let blockers: Vec<String> = blockers(graph, item).map(|item| item.uid.clone()).collect();
        if blockers.is_empty() {
            return Step::Release {
                dependents: Vec::new(),
                finalizer: FOREGROUND,
            };
        }
        return Step::Wait(blockers);
    }
    Step::Nothing
}

/// The dependents that an owner waits for.
fn blockers<'a>(graph: &'a Graph, item: &'a Item) -> impl Iterator<Item = &'a Item> {
    graph.dependents(&item.uid).filter(|dependent| {
        dependent
            .owners
            .iter()
            .any(|owner| owner.uid == item.uid && blocks(owner))
    })
}

fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

fn standing(graph: &Graph, owner: &OwnerReference, asked: &HashMap<String, Standing>) -> Standing {
    match graph.read(&owner.uid) {
        Some(found) if found.deleting && found.has(FOREGROUND) && blocks(owner) => {
            Standing::Waiting
        }
        Some(_) => Standing::Solid,
        // Not seen and not asked for: it vanished just now, and the next look asks.
        None => asked.get(&owner.uid).copied().unwrap_or(Standing::Solid),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kube::api::PropagationPolicy;
    use serde_json::{Value, json};

    use super::{FOREGROUND, Graph, Item, ORPHAN, Standing, Step, plan};
    use crate::api::kind;

    fn item(uid: &str, owners: &[&str], change: Value) -> Item {
        let owner = |uid: &&str| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid,
                "blockOwnerDeletion": !uid.ends_with('?')})
        };
        let owners: Vec<Value> = owners.iter().map(owner).collect();
        let mut meta = json!({"name": uid, "uid": uid, "namespace": "n", "ownerReferences": owners,
            "resourceVersion": "1"});
        json_patch::merge(&mut meta, &change);
        let pod = kind::by_kind("v1", "Pod").unwrap();
        Item::of(pod, &serde_json::from_value(meta).unwrap()).unwrap()
    }

    fn ends(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
    }

    fn step(items: &[Item], absent: &[&str]) -> Step {
        let mut graph = Graph::default();
        for item in items {
            graph.put(item.clone());
        }
        let asked: HashMap<String, Standing> = absent
            .iter()
            .map(|uid| ((*uid).to_owned(), Standing::Absent))
            .collect();
        plan(&graph, &items[0], &asked)
    }

    #[test]
    fn who_has_lost_all_owners_goes() {
        let owner = item("o", &[], json!({}));
        let owned = item("p", &["o"], json!({}));
        assert_eq!(step(&[owned.clone(), owner], &[]), Step::Nothing);
        assert_eq!(
            step(std::slice::from_ref(&owned), &["o"]),
            Step::Delete(PropagationPolicy::Background)
        );
        assert_eq!(
            step(&[owned], &[]),
            Step::Nothing,
            "an owner that was not asked for exists"
        );
        let free = item("p", &[], json!({}));
        assert_eq!(step(&[free], &[]), Step::Nothing);
    }

    #[test]
    fn who_has_another_owner_forgets_the_lost_one() {
        let owner = item("o", &[], json!({}));
        let owned = item("p", &["gone", "o"], json!({}));
        assert_eq!(
            step(&[owned, owner], &["gone"]),
            Step::Forget(vec!["gone".to_owned()])
        );
    }

    #[test]
    fn finalizers_of_the_object_itself_choose_how_it_goes() {
        let owned = item("p", &["o"], json!({"finalizers": [ORPHAN]}));
        assert_eq!(
            step(&[owned], &["o"]),
            Step::Delete(PropagationPolicy::Orphan)
        );
    }

    #[test]
    fn in_the_foreground_the_owner_goes_last() {
        let owner = item("o", &[], ends(FOREGROUND));
        let owned = item("p", &["o"], json!({}));
        let below = item("q", &["p"], json!({}));
        assert_eq!(
            step(&[owner.clone(), owned.clone()], &[]),
            Step::Wait(vec!["p".to_owned()])
        );
        let release = |finalizer| Step::Release {
            dependents: vec![],
            finalizer,
        };
        assert_eq!(step(std::slice::from_ref(&owner), &[]), release(FOREGROUND));
        assert_eq!(
            step(&[owned.clone(), owner.clone()], &[]),
            Step::Delete(PropagationPolicy::Background)
        );
        let both = [owned, owner.clone(), below];
        assert_eq!(
            step(&both, &[]),
            Step::Delete(PropagationPolicy::Foreground)
        );
        // Who does not block neither holds the owner nor goes before it.
        let mut loose = item("p", &["o"], json!({}));
        loose.owners[0].block_owner_deletion = Some(false);
        assert_eq!(
            step(&[owner.clone(), loose.clone()], &[]),
            release(FOREGROUND)
        );
        assert_eq!(step(&[loose, owner], &[]), Step::Nothing);
    }

    #[test]
    fn an_orphaning_owner_lets_go_what_it_owns() {
        let owner = item("o", &[], ends(ORPHAN));
        let owned = item("p", &["o"], json!({}));
        let release = Step::Release {
            dependents: vec!["p".to_owned()],
            finalizer: ORPHAN,
        };
        assert_eq!(step(&[owner.clone(), owned.clone()], &[]), release);
        assert_eq!(
            step(&[owned, owner], &[]),
            Step::Nothing,
            "the owner exists"
        );
    }

    #[test]
    fn changes_name_whom_to_look_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.put(item("o", &[], json!({}))), [""; 0]);
        assert_eq!(graph.put(item("p", &["o"], json!({}))), ["p"]);
        assert_eq!(
            graph.put(item("p", &[], json!({}))),
            [""; 0],
            "the same revision is no news"
        );
        assert_eq!(
            graph.put(item("p", &[], json!({"resourceVersion": "2"}))),
            ["o"]
        );
        graph.put(item("p", &["o"], json!({"resourceVersion": "3"})));
        assert_eq!(graph.remove("o"), ["p"]);
        assert_eq!(graph.remove("p"), ["o"]);
        assert_eq!(graph.dependents("o").count(), 0);
    }
}
