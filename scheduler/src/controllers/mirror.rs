//! What the API last said of one kind.
//!
//! A mirror follows a watch, and takes the answers to this process's own writes
//! before the watch delivers them. Two facts of the API make that safe: all
//! objects are numbered by one counter (`resourceVersion`), so that of two
//! states of an object the later is known; and a uid never comes back, so that
//! what was deleted stays so.
//!
//! ```text
//!   own write, answer of revision r      watch event of revision r
//!      r newer than known: take            r newer than known: take
//!      watch is past r and uid unknown:    r older: drop
//!        it is gone already: drop          uid was deleted by us: drop
//! ```
//!
//! What only an own write told of and no watch confirmed within some seconds is
//! looked up in the API, so that no ghost stays.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Debug,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource, ResourceExt,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::Instant};

/// How many uids of deleted objects are remembered; more than a mirror can have
/// pending between an answer and its watch event.
const REMEMBERED: usize = 16_384;

/// What a mirror can hold: any typed object of the API.
pub trait Mirrored:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Mirrored for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Where an object is: its namespace (empty for cluster kinds) and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Key {
        Key::of_meta(object.meta())
    }

    /// The key in an object's metadata.
    pub fn of_meta(meta: &ObjectMeta) -> Key {
        Key {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// A key from its parts.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => out.write_str(&self.name),
            namespace => write!(out, "{namespace}/{}", self.name),
        }
    }
}

/// One object before and after; one of them may be missing, never both.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// What was known.
    pub before: Option<&'a Arc<K>>,
    /// What is.
    pub after: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The states that there are: the one before, then the one after.
    pub fn states(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.before.into_iter().chain(self.after)
    }
}

type Listener<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;
type Place<K> = fn(&K) -> Option<&str>;

/// All objects of one kind, as the API last said.
pub struct Mirror<K> {
    state: RwLock<State<K>>,
    listeners: Mutex<Vec<Listener<K>>>,
    ready: watch::Sender<bool>,
    /// Which node an object is on, if its kind is on nodes.
    node: Place<K>,
}

struct State<K> {
    objects: HashMap<Key, Arc<K>>,
    by_namespace: HashMap<String, HashSet<Key>>,
    by_owner: HashMap<String, HashSet<Key>>,
    by_node: HashMap<String, HashSet<Key>>,
    /// The latest revision that the watch delivered.
    seen: u64,
    deleted: Deleted,
    /// What only an own write told of, and since when.
    unconfirmed: HashMap<Key, Instant>,
    /// What a list under way has brought so far, and its latest revision: a
    /// list is ordered by name, so it is not past that revision before its end.
    listed: Option<(HashSet<Key>, u64)>,
}

/// Uids that are gone for good; the oldest are forgotten.
#[derive(Default)]
struct Deleted {
    uids: HashSet<String>,
    order: VecDeque<String>,
}

impl Deleted {
    fn insert(&mut self, uid: String) {
        if self.uids.insert(uid.clone()) {
            self.order.push_back(uid);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

impl<K: Mirrored> Mirror<K> {
    /// An empty mirror; `node` says which node an object is on.
    pub fn new(node: Place<K>) -> Mirror<K> {
        Mirror {
            state: RwLock::new(State {
                objects: HashMap::new(),
                by_namespace: HashMap::new(),
                by_owner: HashMap::new(),
                by_node: HashMap::new(),
                seen: 0,
                deleted: Deleted::default(),
                unconfirmed: HashMap::new(),
                listed: None,
            }),
            listeners: Mutex::new(Vec::new()),
            ready: watch::Sender::new(false),
            node,
        }
    }

    /// Calls `listener` for every change from now on. It runs in the mirror's
    /// task, after the mirror has the change: it must be quick and must not wait.
    pub fn listen(&self, listener: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        lock(&self.listeners).push(Box::new(listener));
    }

    /// Waits until the first list is complete.
    pub async fn until_ready(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether the first list is complete.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// The object of a key.
    pub fn read(&self, key: &Key) -> Option<Arc<K>> {
        self.read_state().objects.get(key).cloned()
    }

    /// All objects, by key.
    pub fn all(&self) -> Vec<Arc<K>> {
        let state = self.read_state();
        state.sorted(state.objects.keys())
    }

    /// All objects of a namespace, by key.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.read_state();
        state.sorted(state.by_namespace.get(namespace).into_iter().flatten())
    }

    /// All objects that name this uid among their owners, by key.
    pub fn of_owner(&self, uid: &str) -> Vec<Arc<K>> {
        let state = self.read_state();
        state.sorted(state.by_owner.get(uid).into_iter().flatten())
    }

    /// All objects on a node, by key.
    pub fn of_node(&self, node: &str) -> Vec<Arc<K>> {
        let state = self.read_state();
        state.sorted(state.by_node.get(node).into_iter().flatten())
    }

    /// Takes the answer to an own write that left an object.
    pub fn take_written(&self, object: K) {
        let key = Key::of(&object);
        let revision = revision(&object);
        let mut state = self.write_state();
        let known = state.objects.get(&key);
        let same = known.is_some_and(|known| known.meta().uid == object.meta().uid);
        // The watch is past this write, and does not know the object: it came
        // and went before the answer was read.
        let gone = !same && revision <= state.seen;
        if gone || uid(&object).is_some_and(|uid| state.deleted.uids.contains(uid)) {
            return;
        }
        if revision > state.seen {
            state.unconfirmed.insert(key.clone(), Instant::now());
        }
        let change = state.put(self.node, key, object);
        drop(state);
        self.tell(change);
    }

    /// Takes it that an own write removed an object for good.
    pub fn take_removed(&self, key: &Key, uid: &str) {
        let mut state = self.write_state();
        state.deleted.insert(uid.to_owned());
        let known = state.objects.get(key);
        if known.is_some_and(|known| known.meta().uid.as_deref() == Some(uid)) {
            let change = state.remove(self.node, key);
            drop(state);
            self.tell(change);
        }
    }

    /// Follows a watch until it ends. Failures of it are logged; the watcher
    /// begins anew by itself.
    pub async fn follow(&self, events: impl Stream<Item = watcher::Result<Event<K>>>) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take_event(event),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), error = %chain(&error), "watch failed");
                }
            }
        }
    }

    /// What only own writes told of for longer than `age`.
    pub fn unconfirmed(&self, age: Duration) -> Vec<Arc<K>> {
        let state = self.read_state();
        let old = state
            .unconfirmed
            .iter()
            .filter(|(_, since)| since.elapsed() >= age);
        state.sorted(old.map(|(key, _)| key))
    }

    /// Takes what a look-up said of an unconfirmed object.
    pub fn confirm(&self, looked_up: &K, found: Option<&K>) {
        let key = Key::of(looked_up);
        self.write_state().unconfirmed.remove(&key);
        let found = found.and_then(uid);
        if let Some(uid) = uid(looked_up)
            && found != Some(uid)
        {
            self.take_removed(&key, uid);
        }
    }

    /// Takes one event of the watch.
    pub fn take_event(&self, event: Event<K>) {
        let mut state = self.write_state();
        match event {
            Event::Init => state.listed = Some((HashSet::new(), 0)),
            Event::InitApply(object) => {
                if let Some((listed, latest)) = &mut state.listed {
                    listed.insert(Key::of(&object));
                    *latest = (*latest).max(revision(&object));
                }
                let change = state.observe(self.node, object);
                drop(state);
                self.tell(change);
            }
            Event::Apply(object) => {
                state.seen = state.seen.max(revision(&object));
                let change = state.observe(self.node, object);
                drop(state);
                self.tell(change);
            }
            Event::Delete(object) => {
                state.seen = state.seen.max(revision(&object));
                let key = Key::of(&object);
                if let Some(uid) = uid(&object) {
                    state.deleted.insert(uid.to_owned());
                }
                let known = state.objects.get(&key);
                if known.is_some_and(|known| known.meta().uid == object.meta().uid) {
                    let change = state.remove(self.node, &key);
                    drop(state);
                    self.tell(change);
                }
            }
            Event::InitDone => {
                let (listed, latest) = state.listed.take().unwrap_or_default();
                state.seen = state.seen.max(latest);
                let gone: Vec<Key> = state
                    .objects
                    .keys()
                    .filter(|key| !listed.contains(key) && !state.unconfirmed.contains_key(key))
                    .cloned()
                    .collect();
                let gone: Vec<_> = gone
                    .iter()
                    .map(|key| {
                        let removed = state.remove(self.node, key);
                        if let Some(uid) = removed.0.as_deref().and_then(uid) {
                            state.deleted.insert(uid.to_owned());
                        }
                        removed
                    })
                    .collect();
                drop(state);
                for change in gone {
                    self.tell(change);
                }
                self.ready.send_replace(true);
            }
        }
    }

    fn tell(&self, (before, after): (Option<Arc<K>>, Option<Arc<K>>)) {
        if before.is_none() && after.is_none() {
            return;
        }
        let change = Change {
            before: before.as_ref(),
            after: after.as_ref(),
        };
        for listener in lock(&self.listeners).iter() {
            listener(&change);
        }
    }

    fn read_state(&self) -> std::sync::RwLockReadGuard<'_, State<K>> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_state(&self) -> std::sync::RwLockWriteGuard<'_, State<K>> {
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<K: Mirrored> State<K> {
    fn sorted<'a>(&'a self, keys: impl Iterator<Item = &'a Key>) -> Vec<Arc<K>> {
        let mut keys: Vec<&Key> = keys.collect();
        keys.sort_unstable();
        keys.into_iter()
            .filter_map(|key| self.objects.get(key).cloned())
            .collect()
    }

    /// Takes what the watch says of an object.
    fn observe(&mut self, node: Place<K>, object: K) -> (Option<Arc<K>>, Option<Arc<K>>) {
        if uid(&object).is_some_and(|uid| self.deleted.uids.contains(uid)) {
            return (None, None);
        }
        let key = Key::of(&object);
        self.unconfirmed.remove(&key);
        self.put(node, key, object)
    }

    /// Puts an object in, unless what is known is as new.
    fn put(&mut self, node: Place<K>, key: Key, mut object: K) -> (Option<Arc<K>>, Option<Arc<K>>) {
        if let Some(known) = self.objects.get(&key)
            && known.meta().uid == object.meta().uid
            && revision(&**known) >= revision(&object)
        {
            return (None, None);
        }
        // Nobody here reads who set which field, and it is half of an object.
        object.meta_mut().managed_fields = None;
        let before = self.remove(node, &key).0;
        let namespace = self.by_namespace.entry(key.namespace.clone());
        namespace.or_default().insert(key.clone());
        for owner in object.owner_references() {
            let owned = self.by_owner.entry(owner.uid.clone()).or_default();
            owned.insert(key.clone());
        }
        if let Some(node) = node(&object) {
            let placed = self.by_node.entry(node.to_owned()).or_default();
            placed.insert(key.clone());
        }
        let after = Arc::new(object);
        self.objects.insert(key, Arc::clone(&after));
        (before, Some(after))
    }

    fn remove(&mut self, node: Place<K>, key: &Key) -> (Option<Arc<K>>, Option<Arc<K>>) {
        let Some(object) = self.objects.remove(key) else {
            return (None, None);
        };
        drop_from(&mut self.by_namespace, &key.namespace, key);
        for owner in object.owner_references() {
            drop_from(&mut self.by_owner, &owner.uid, key);
        }
        if let Some(node) = node(&object) {
            drop_from(&mut self.by_node, node, key);
        }
        (Some(object), None)
    }
}

fn drop_from(index: &mut HashMap<String, HashSet<Key>>, of: &str, key: &Key) {
    if let Some(keys) = index.get_mut(of) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(of);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An object's revision; 0 if it never was in the store.
fn revision<K: Resource>(object: &K) -> u64 {
    let revision = object.meta().resource_version.as_deref();
    revision
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

fn uid<K: Resource>(object: &K) -> Option<&str> {
    object.meta().uid.as_deref()
}

/// An error with what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // kube's errors hold their source's text in their own.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
