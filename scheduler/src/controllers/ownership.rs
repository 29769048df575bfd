//! Which objects belong to which controller.
//!
//! ```text
//!                      selector matches        it does not
//!   nobody's           adopt                   leave alone
//!   mine               keep                    release
//!   somebody else's    leave alone             leave alone
//! ```
//!
//! Labels are what people edit, the controller reference is what is true: a pod
//! whose labels are changed by hand is released (to be looked at in peace, while
//! a new one takes its place), and one that nobody owns is adopted. Before it
//! adopts, a controller asks the API itself whether it still exists with its uid
//! and is not being deleted: an owner that died would otherwise adopt what the
//! garbage collector is about to leave as an orphan.

use std::sync::Arc;

use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use kube::{
    Resource,
    core::{Selector, SelectorExt},
};
use serde_json::json;

use super::{
    cluster::{Cluster, InMirrors, WriteError, json_of},
    mirror::Key,
};

/// What is to be done about one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is the owner's.
    Keep,
    /// It is nobody's, and shall be the owner's.
    Adopt,
    /// It is the owner's, and shall be nobody's.
    Release,
    /// It is none of the owner's business.
    Leave,
}

/// A selector that can be asked; none if it is not one, which the API refuses,
/// or if it is empty, which must not match everything here.
pub fn selector(selector: &LabelSelector) -> Option<Selector> {
    let empty = selector
        .match_labels
        .as_ref()
        .is_none_or(|labels| labels.is_empty())
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(|all| all.is_empty());
    if empty {
        return None;
    }
    Selector::try_from(selector.clone()).ok()
}

/// Whether a selector matches an object's labels.
pub fn selects<K: Resource>(selector: &Selector, object: &K) -> bool {
    static NONE: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    selector.matches(object.meta().labels.as_ref().unwrap_or(&NONE))
}

/// The reference of an object to its controller.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// Whether the object of this uid controls another.
pub fn is_controlled_by<K: Resource>(object: &K, uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| owner.uid == uid)
}

/// What an owner does about an object.
pub fn plan_claim<O: Resource, K: Resource>(owner: &O, selector: &Selector, object: &K) -> Claim {
    let ends = object.meta().deletion_timestamp.is_some();
    let owner_ends = owner.meta().deletion_timestamp.is_some();
    let matches = selects(selector, object);
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    match controller_of(object) {
        Some(controller) if controller.uid == uid => match matches || owner_ends {
            true => Claim::Keep,
            false => Claim::Release,
        },
        Some(_) => Claim::Leave,
        None if matches && !ends && !owner_ends => Claim::Adopt,
        None => Claim::Leave,
    }
}

/// The objects of one kind that belong to `owner`, after adopting and releasing.
///
/// # Errors
///
/// The first write that failed for another reason than that the object changed
/// or is gone, which the next look sees.
pub async fn claim<O, K>(
    cluster: &Cluster,
    owner: &O,
    selector: &Selector,
) -> Result<Vec<Arc<K>>, WriteError>
where
    O: InMirrors + Resource<Scope = NamespaceResourceScope>,
    K: InMirrors + Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or("default");
    let mut mine = Vec::new();
    let mut may_adopt = None;
    for object in K::mirror(&cluster.mirrors).of_namespace(namespace) {
        match plan_claim(owner, selector, &*object) {
            Claim::Keep => mine.push(object),
            Claim::Leave => {}
            Claim::Release => {
                let patch = without_owner(owner, &*object);
                ignore_changed(cluster.patch(&*object, patch).await)?;
            }
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(lives(cluster, owner).await?);
                }
                if may_adopt == Some(true)
                    && let Some(adopted) = adopt(cluster, owner, &*object).await?
                {
                    mine.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(mine)
}

/// Whether the owner exists still, in the API itself.
async fn lives<O>(cluster: &Cluster, owner: &O) -> Result<bool, WriteError>
where
    O: InMirrors + Resource<Scope = NamespaceResourceScope>,
{
    let live = cluster.read_live::<O>(&Key::of(owner)).await?;
    Ok(live.is_some_and(|live| {
        live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()
    }))
}

async fn adopt<O, K>(cluster: &Cluster, owner: &O, object: &K) -> Result<Option<K>, WriteError>
where
    O: InMirrors,
    K: InMirrors + Resource<Scope = NamespaceResourceScope>,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.extend(owner.controller_owner_ref(&()));
    let patch = json!({"metadata": {"ownerReferences": json_of(&owners)}});
    ignore_changed(cluster.patch(object, patch).await)
}

fn without_owner<O: Resource, K: Resource>(owner: &O, object: &K) -> serde_json::Value {
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|reference| Some(&reference.uid) != owner.meta().uid.as_ref());
    json!({"metadata": {"ownerReferences": json_of(&owners)}})
}

fn ignore_changed<K>(written: Result<K, WriteError>) -> Result<Option<K>, WriteError> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(WriteError::Conflict(_) | WriteError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
    use serde_json::json;

    use super::{Claim, plan_claim, selector};

    #[test]
    fn who_owns_what() {
        let owner: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"name": "web", "uid": "me"}})).unwrap();
        let mut dying = owner.clone();
        dying.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
        );
        let web = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        let web = selector(&web).unwrap();
        let pod = |app: &str, owner: Option<&str>, ends: bool| -> Pod {
            let mut pod = json!({"metadata": {"name": "a", "labels": {"app": app}}});
            if let Some(uid) = owner {
                pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1",
                    "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
            }
            if ends {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(pod).unwrap()
        };
        for (pod, live, of_dying) in [
            (pod("web", None, false), Claim::Adopt, Claim::Leave),
            (pod("web", None, true), Claim::Leave, Claim::Leave),
            (pod("db", None, false), Claim::Leave, Claim::Leave),
            (pod("web", Some("me"), false), Claim::Keep, Claim::Keep),
            (pod("web", Some("me"), true), Claim::Keep, Claim::Keep),
            (pod("db", Some("me"), false), Claim::Release, Claim::Keep),
            (pod("web", Some("you"), false), Claim::Leave, Claim::Leave),
            (pod("db", Some("you"), false), Claim::Leave, Claim::Leave),
        ] {
            assert_eq!(plan_claim(&owner, &web, &pod), live, "{pod:?}");
            assert_eq!(plan_claim(&dying, &web, &pod), of_dying, "{pod:?}");
        }
    }

    #[test]
    fn an_empty_selector_owns_nothing() {
        assert!(selector(&serde_json::from_value(json!({})).unwrap()).is_none());
    }
}
