//! Who owns whom: the metadata of all objects, by uid.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::kind::Kind;

/// What is known of one object.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its kind.
    pub kind: &'static Kind,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The revision of this state.
    pub revision: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Item {
    /// What an object's metadata says; none if it has no uid.
    pub fn of(kind: &'static Kind, meta: &ObjectMeta) -> Option<Item> {
        Some(Item {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            revision: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        })
    }

    /// Whether it has a finalizer.
    pub fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }

    fn revision_number(&self) -> u64 {
        self.revision.parse().unwrap_or(0)
    }
}

/// All objects.
#[derive(Debug, Default)]
pub struct Graph {
    items: HashMap<String, Item>,
    by_owner: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// The object of a uid.
    pub fn read(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// The objects that name this one as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Item> {
        let uids = self.by_owner.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.items.get(uid))
    }

    /// Takes a state of an object, and returns whom to look at: itself if it has owners or is
    /// being deleted, and the owners that it has no longer.
    pub fn put(&mut self, item: Item) -> Vec<String> {
        let known = self.items.get(&item.uid);
        if known.is_some_and(|known| known.revision_number() >= item.revision_number()) {
            return Vec::new();
        }
        let mut due = self.unlink(&item.uid);
        due.retain(|owner| !item.owners.iter().any(|kept| kept.uid == *owner));
        for owner in &item.owners {
            self.by_owner
                .entry(owner.uid.clone())
                .or_default()
                .insert(item.uid.clone());
        }
        if !item.owners.is_empty() || item.deleting {
            due.push(item.uid.clone());
        }
        self.items.insert(item.uid.clone(), item);
        due
    }

    /// Forgets an object, and returns whom to look at: its dependents, and its owners, who may
    /// have waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut due = self.unlink(uid);
        self.items.remove(uid);
        due.extend(self.by_owner.get(uid).into_iter().flatten().cloned());
        due
    }

    /// The objects of a kind that are not in a list of uids.
    pub fn others(&self, kind: &'static Kind, listed: &[String]) -> Vec<String> {
        let listed: HashSet<&String> = listed.iter().collect();
        let others = self.items.values().filter(|item| item.kind == kind);
        others
            .map(|item| &item.uid)
            .filter(|uid| !listed.contains(uid))
            .cloned()
            .collect()
    }

    /// Takes an object out of its owners' lists; returns the owners.
    fn unlink(&mut self, uid: &str) -> Vec<String> {
        let owners = self
            .items
            .get(uid)
            .map(|item| item.owners.as_slice())
            .unwrap_or_default();
        let owners: Vec<String> = owners.iter().map(|owner| owner.uid.clone()).collect();
        for owner in &owners {
            if let Some(dependents) = self.by_owner.get_mut(owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.by_owner.remove(owner);
                }
            }
        }
        owners
    }
}
