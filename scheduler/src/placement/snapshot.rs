//! Nodes and their pods, kept up to date change by change.
//!
//! The snapshot is the whole input of a decision: the same snapshot and the same
//! pod give the same answer, in a test, in the loop, and in `berth explain`.
//! Nothing in it is made anew for a pod: what filters and scores ask is counted
//! when nodes and pods come and go (`census`).

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1 as api;

use crate::placement::{
    census::{Census, Move, Slot},
    facts::{self, Extent, PodFacts, PodName},
    node::{Node, NodeChange, NodeObject},
    priority::Priorities,
    symbol::{Labels, Symbol, Symbols},
};

/// Texts and sets beyond those of a fresh snapshot before it is worn.
const WEAR: usize = 200_000;

/// Nodes and pods of a cluster.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Texts by number.
    pub symbols: Symbols,
    /// Counts of pods by topology.
    pub census: Census,
    nodes: Vec<Node>,
    slots: HashMap<Symbol, Slot>,
    free: Vec<Slot>,
    ready: Vec<Slot>,
    pods: HashMap<PodName, Slot>,
    images: HashMap<Symbol, usize>,
    nominated: HashMap<Symbol, Vec<Arc<PodFacts>>>,
    /// Priorities by class, for pods that came without a number.
    pub priorities: Priorities,
}

impl Snapshot {
    /// Reads a pod, and makes the snapshot count what the pod asks about.
    pub fn read_pod(&mut self, pod: &api::Pod, extent: Extent) -> Arc<PodFacts> {
        let mut facts = facts::read(&mut self.symbols, &mut self.census, pod, extent);
        let spec = pod.spec.as_ref();
        facts.priority = match spec.and_then(|spec| spec.priority) {
            Some(said) => said,
            None => self
                .priorities
                .of(spec.and_then(|spec| spec.priority_class_name.as_deref())),
        };
        self.answer_fresh();
        Arc::new(facts)
    }

    /// Takes a node's object in.
    pub fn set_node(&mut self, node: &api::Node) -> (Slot, NodeChange) {
        let object = NodeObject::read(&mut self.symbols, node);
        let name = self
            .symbols
            .intern(node.metadata.name.as_deref().unwrap_or_default());
        let slot = self.slot(name);
        let change = NodeChange::between(self.nodes[slot].object.as_ref(), &object);
        self.count_images(slot, usize::wrapping_sub);
        if change.added {
            self.ready.push(slot);
        }
        if change.labels {
            self.recount(slot, Some(object));
        } else {
            self.nodes[slot].object = Some(object);
        }
        self.count_images(slot, usize::wrapping_add);
        (slot, change)
    }

    /// A node's object is gone; its pods stay until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot_named(name) else {
            return;
        };
        self.count_images(slot, usize::wrapping_sub);
        self.recount(slot, None);
        self.ready.retain(|ready| *ready != slot);
        self.give_up_if_empty(slot);
    }

    /// Takes a namespace's labels in; none where it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        let namespace = self.symbols.intern(name);
        if self.census.namespace(namespace) == labels.as_ref() {
            return;
        }
        // Which sets its pods are in may change, so they are counted anew.
        let reads = self.census.reads_namespaces();
        let mine = |pod: &PodFacts| &*pod.name.namespace == name;
        if reads {
            self.count_where(mine, Move::Out);
        }
        self.census.set_namespace(namespace, labels, &self.symbols);
        if reads {
            self.count_where(mine, Move::In);
        }
    }

    /// Puts a pod on a node: seen there, or assumed.
    pub fn place(&mut self, pod: Arc<PodFacts>, node: Symbol) -> Slot {
        let slot = self.slot(node);
        if let Some(before) = self.pods.get(&pod.name).copied() {
            if before == slot && self.swap(&pod, slot) {
                return slot;
            }
            self.displace(&pod.name);
        }
        // The old place may have been the only thing known of this node.
        let slot = self.slot(node);
        self.pods.insert(pod.name.clone(), slot);
        self.nodes[slot].admit(&pod);
        self.census.count(&pod, slot, Move::In);
        slot
    }

    /// Takes a pod off its node.
    pub fn displace(&mut self, name: &PodName) -> Option<(Arc<PodFacts>, Slot)> {
        let slot = self.pods.remove(name)?;
        let pod = self.nodes[slot]
            .pods
            .iter()
            .find(|pod| pod.name == *name)
            .expect("a pod with a slot is on its node")
            .clone();
        self.nodes[slot].release(&pod);
        self.census.count(&pod, slot, Move::Out);
        self.give_up_if_empty(slot);
        Some((pod, slot))
    }

    /// Keeps room on a node for a pod that had others evicted from it.
    pub fn nominate(&mut self, pod: &Arc<PodFacts>, node: Symbol) {
        self.forget_nomination(&pod.name);
        self.nominated.entry(node).or_default().push(pod.clone());
    }

    /// Keeps no room for the pod any more.
    pub fn forget_nomination(&mut self, name: &PodName) {
        if self.nominated.is_empty() {
            return;
        }
        self.nominated.retain(|_, pods| {
            pods.retain(|pod| pod.name != *name);
            !pods.is_empty()
        });
    }

    /// Pods for which room is kept on a node.
    pub fn nominated_to(&self, node: Symbol) -> &[Arc<PodFacts>] {
        self.nominated.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Whether room is kept for anybody.
    pub fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// Nodes that have an object, in no order.
    pub fn ready(&self) -> &[Slot] {
        &self.ready
    }

    /// A node.
    pub fn node(&self, slot: Slot) -> &Node {
        &self.nodes[slot]
    }

    /// A node's name.
    pub fn node_name(&self, slot: Slot) -> &str {
        self.symbols.text(self.nodes[slot].name)
    }

    /// Where a node is kept, if it is known.
    pub fn slot_of(&self, name: Symbol) -> Option<Slot> {
        self.slots.get(&name).copied()
    }

    /// Where a node is kept, by its name's text.
    pub fn slot_named(&self, name: &str) -> Option<Slot> {
        self.slot_of(self.symbols.find(name)?)
    }

    /// Where a pod runs or is assumed to.
    pub fn pod(&self, name: &PodName) -> Option<&Arc<PodFacts>> {
        let slot = *self.pods.get(name)?;
        self.nodes[slot].pods.iter().find(|pod| pod.name == *name)
    }

    /// Names of all pods on nodes.
    pub fn pod_names(&self) -> impl Iterator<Item = &PodName> {
        self.pods.keys()
    }

    /// How many pods are on nodes.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// How many nodes hold an image.
    pub fn nodes_with_image(&self, image: Symbol) -> usize {
        self.images.get(&image).copied().unwrap_or(0)
    }

    /// How many texts and sets are kept.
    pub fn size(&self) -> usize {
        self.symbols.len() + self.census.size()
    }

    /// Whether most of what is kept is of objects long gone, given its size when new.
    pub fn is_worn(&self, when_new: usize) -> bool {
        self.size() > when_new.saturating_mul(2).saturating_add(WEAR)
    }

    fn slot(&mut self, name: Symbol) -> Slot {
        if let Some(known) = self.slots.get(&name) {
            return *known;
        }
        let node = Node::unknown(name);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.slots.insert(name, slot);
        slot
    }

    fn give_up_if_empty(&mut self, slot: Slot) {
        let node = &self.nodes[slot];
        if node.object.is_none() && node.pods.is_empty() {
            self.slots.remove(&node.name);
            self.free.push(slot);
        }
    }

    /// Exchanges a pod's facts where nobody could tell the difference.
    fn swap(&mut self, pod: &Arc<PodFacts>, slot: Slot) -> bool {
        let Some(known) = self.nodes[slot]
            .pods
            .iter_mut()
            .find(|known| known.name == pod.name)
        else {
            return false;
        };
        let same = known.cohort == pod.cohort && known.ending == pod.ending && known.asks_same(pod);
        if same {
            *known = pod.clone();
        }
        same
    }

    /// Moves a node, with its pods' counts, to the domains of new labels.
    fn recount(&mut self, slot: Slot, object: Option<NodeObject>) {
        let pods = self.nodes[slot].pods.clone();
        for pod in &pods {
            self.census.count(pod, slot, Move::Out);
        }
        let labels = object.as_ref().map(|object| &object.labels);
        self.census.settle_node(slot, labels);
        self.nodes[slot].object = object;
        for pod in &pods {
            self.census.count(pod, slot, Move::In);
        }
    }

    fn count_where(&mut self, chosen: impl Fn(&PodFacts) -> bool, direction: Move) {
        for (slot, node) in self.nodes.iter().enumerate() {
            for pod in node.pods.iter().filter(|pod| chosen(pod)) {
                self.census.count(pod, slot, direction);
            }
        }
    }

    /// Counts what a pod was the first to ask.
    fn answer_fresh(&mut self) {
        for key in std::mem::take(&mut self.census.fresh_keys) {
            for (slot, node) in self.nodes.iter().enumerate() {
                let labels = node.object.as_ref().map(|object| &object.labels);
                self.census.settle_node_in(key, slot, labels);
            }
        }
        for term in std::mem::take(&mut self.census.fresh_terms) {
            for (slot, node) in self.nodes.iter().enumerate() {
                for pod in &node.pods {
                    self.census.count_for(term, pod, slot);
                }
            }
        }
    }

    fn count_images(&mut self, slot: Slot, change: fn(usize, usize) -> usize) {
        let Some(object) = &self.nodes[slot].object else {
            return;
        };
        for (image, _) in &object.images {
            let nodes = self.images.entry(*image).or_default();
            *nodes = change(*nodes, 1);
            if *nodes == 0 {
                self.images.remove(image);
            }
        }
    }
}
