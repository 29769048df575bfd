//! The loop: hears, decides, writes.
//!
//! One task owns the snapshot and the queue, so nothing is locked. It first
//! takes in everything that arrived, then decides for a few milliseconds, and so
//! on. A node that was chosen is taken as given at once (the pod is *assumed*
//! there), and the next decision counts with it while the API is still asked; if
//! the API says no, the assumption is taken back.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{Client, Resource, ResourceExt, runtime::watcher::Event};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::placement::{
    PlacementConfig,
    apply::{Report, Writer, Written},
    cycle::{self, Decision, Draw},
    facts::{self, Extent, PodFacts, PodName},
    filter::{FILTERS, Occasion},
    message,
    news::{self, News},
    node::NodeChange,
    preemption::{self, Budget, Outcome, Preemption},
    queue::Queue,
    selector::Selector,
    snapshot::Snapshot,
    symbol::Labels,
};

/// News that wait at most.
const WAITING_NEWS: usize = 8192;
/// How long decisions are made before news are looked at again.
const STRETCH: Duration = Duration::from_millis(5);
/// How long bindings under way are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// The same before a session that begins anew; a store that takes longer has an end of its own.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Why a session ended.
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Its snapshot holds mostly what is gone; a new one reads everything anew.
    Worn,
}

/// One life of the loop, from reading everything to its end.
pub struct Session {
    config: PlacementConfig,
    snapshot: Snapshot,
    queue: Queue,
    draw: Draw<StdRng>,
    budgets: HashMap<(String, String), PodDisruptionBudget>,
    /// Pods whose binding is under way or not seen yet.
    assumed: HashMap<PodName, Arc<PodFacts>>,
    /// What was last written of a pod.
    reports: HashMap<PodName, (Report, Instant)>,
    bindings: usize,
    /// Names seen since a watch began again, by kind.
    pods_seen: Option<HashSet<PodName>>,
    nodes_seen: Option<HashSet<String>>,
    complete: HashSet<&'static str>,
    size_when_new: usize,
    writer: Writer,
    news: mpsc::Receiver<News>,
    /// Watches end when they are dropped.
    _watches: JoinSet<()>,
}

impl Session {
    /// Begins to watch.
    pub fn start(client: &Client, config: &PlacementConfig) -> Session {
        let (to, news) = mpsc::channel(WAITING_NEWS);
        let lot = match config.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        Session {
            snapshot: Snapshot::default(),
            queue: Queue::new(config.patience),
            draw: Draw::new(lot, config.breadth),
            budgets: HashMap::new(),
            assumed: HashMap::new(),
            reports: HashMap::new(),
            bindings: 0,
            pods_seen: None,
            nodes_seen: None,
            complete: HashSet::new(),
            size_when_new: 0,
            _watches: news::watch_all(client, &to),
            writer: Writer::start(client, to, config.counters.clone()),
            news,
            config: config.clone(),
        }
    }

    /// Places pods until told to stop.
    pub async fn run(mut self, shutdown: &CancellationToken) -> Ended {
        while !shutdown.is_cancelled() {
            let mut heard = 0;
            while heard < WAITING_NEWS
                && let Ok(news) = self.news.try_recv()
            {
                self.hear(news);
                heard += 1;
            }
            let ready = self.complete.len() == news::KINDS;
            if ready && self.size_when_new == 0 {
                self.size_when_new = self.snapshot.size();
            }
            if ready && self.snapshot.is_worn(self.size_when_new) {
                // The next session reads what is bound: nothing may become so behind its back.
                tokio::select! {
                    _ = tokio::time::timeout(LAST_WORDS, self.hear_of_bindings()) => {
                        return Ended::Worn;
                    }
                    () = shutdown.cancelled() => break,
                }
            }
            if ready && self.decide_for_a_while() {
                tokio::task::yield_now().await;
                continue;
            }
            self.publish_lengths();
            self.wait(shutdown, ready).await;
        }
        let _ = tokio::time::timeout(FAREWELL, self.hear_of_bindings()).await;
        Ended::Stopped
    }

    /// Decides until there is nothing to do or news should be heard; whether anything was done.
    fn decide_for_a_while(&mut self) -> bool {
        let begun = Instant::now();
        let mut decided = 0;
        while self.bindings < self.config.bindings_at_once && begun.elapsed() < STRETCH {
            if !self.turn(Instant::now()) {
                break;
            }
            decided += 1;
        }
        decided > 0
    }

    /// Waits for news, or for a pod whose delay is over.
    async fn wait(&mut self, shutdown: &CancellationToken, ready: bool) {
        let wake = self
            .queue
            .next_wake()
            .filter(|_| ready && self.bindings < self.config.bindings_at_once)
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        tokio::select! {
            news = self.news.recv() => {
                if let Some(news) = news {
                    self.hear(news);
                }
            }
            () = tokio::time::sleep_until(wake.into()) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Waits for bindings under way, so that what they come to is told.
    async fn hear_of_bindings(&mut self) {
        while self.bindings > 0
            && let Some(news) = self.news.recv().await
        {
            self.hear(news);
        }
    }

    fn publish_lengths(&self) {
        let [ready, delayed, refused] = self.queue.lengths().map(|length| length as u64);
        self.config.counters.ready.set(ready);
        self.config.counters.delayed.set(delayed);
        self.config.counters.refused.set(refused);
    }
}

/// Decisions.
impl Session {
    /// Tries one pod; whether there was one.
    fn turn(&mut self, now: Instant) -> bool {
        let Some(pod) = self.queue.next(now) else {
            return false;
        };
        let decision = cycle::decide(&mut self.snapshot, &pod, &mut self.draw);
        let counters = &self.config.counters;
        let micros = u64::try_from(now.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.decision_micros.add(micros);
        match decision.node {
            Some(slot) => {
                counters.placed.add(1);
                self.assume(pod, slot, now);
            }
            None => {
                counters.unschedulable.add(1);
                self.turn_down(&pod, &decision, now);
            }
        }
        true
    }

    fn assume(&mut self, pod: Arc<PodFacts>, slot: usize, now: Instant) {
        let node = self.snapshot.node(slot).name;
        self.snapshot.forget_nomination(&pod.name);
        self.snapshot.place(pod.clone(), node);
        self.assumed.insert(pod.name.clone(), pod.clone());
        self.reconsider(&Occasion::PodCame(&pod), now);
        self.bindings += 1;
        let node = self.snapshot.symbols.text(node).to_owned();
        self.writer.bind(pod, node);
    }

    fn turn_down(&mut self, pod: &Arc<PodFacts>, decision: &Decision, now: Instant) {
        let budgets = self.read_budgets();
        let refusals = &decision.refusals;
        let outcome = preemption::plan_preemption(&mut self.snapshot, pod, refusals, &budgets);
        let message = message::unschedulable(&self.snapshot, refusals, &outcome);
        self.queue.refuse(&pod.name, refusals.filters(), now);
        let mut nominated = None;
        if let Outcome::Evict(plan) = outcome {
            nominated = Some(self.make_room(pod, plan));
        }
        let report = Report {
            reason: "Unschedulable",
            message,
            nominated,
        };
        self.report(pod, report, now);
    }

    /// Sends the victims away and keeps their room; the node's name.
    fn make_room(&mut self, pod: &Arc<PodFacts>, plan: Preemption) -> String {
        let name = self.snapshot.node(plan.node).name;
        let node = self.snapshot.symbols.text(name).to_owned();
        let going = plan.victims.len() as u64;
        self.config.counters.victims.add(going);
        // Less important pods for which this room was kept must look again.
        let outdone: Vec<PodName> = self
            .snapshot
            .nominated_to(name)
            .iter()
            .filter(|other| other.priority < pod.priority)
            .map(|other| other.name.clone())
            .collect();
        for other in outdone {
            self.snapshot.forget_nomination(&other);
        }
        self.snapshot.nominate(pod, name);
        self.writer.evict(pod, plan.victims, &node);
        node
    }

    fn read_budgets(&mut self) -> Vec<Budget> {
        let symbols = &mut self.snapshot.symbols;
        self.budgets
            .iter()
            .map(|((namespace, _), budget)| {
                let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                let status = budget.status.as_ref();
                Budget {
                    namespace: symbols.intern(namespace),
                    selector: Selector::read(symbols, selector),
                    allowed: status
                        .and_then(|status| status.disruptions_allowed)
                        .map_or(0, i64::from),
                }
            })
            .collect()
    }

    /// Writes a pod's condition when it differs, and an event not at every change.
    fn report(&mut self, pod: &PodFacts, report: Report, now: Instant) {
        let last = self.reports.get(&pod.name);
        if last.is_some_and(|(said, _)| *said == report) {
            return;
        }
        let told = last
            .map(|(_, told)| *told)
            .filter(|told| now < *told + self.config.event_interval);
        if told.is_none() && report.reason == "Unschedulable" {
            let message = report.message.clone();
            self.writer
                .event(pod, "Warning", "FailedScheduling", message);
        }
        self.reports
            .insert(pod.name.clone(), (report.clone(), told.unwrap_or(now)));
        self.writer.report(pod, report);
    }

    fn reconsider(&mut self, occasion: &Occasion<'_>, now: Instant) {
        let snapshot = &self.snapshot;
        self.queue.reconsider(now, |pod, by| {
            FILTERS.iter().enumerate().any(|(place, filter)| {
                by & (1 << place) != 0 && (filter.helps)(snapshot, pod, occasion)
            })
        });
    }
}

/// News.
impl Session {
    fn hear(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Pod(event) => self.hear_of_pod(*event, now),
            News::Node(event) => self.hear_of_node(*event, now),
            News::Namespace(event) => self.hear_of_namespace(*event, now),
            News::Class(event) => match *event {
                Event::Apply(class) | Event::InitApply(class) => {
                    self.snapshot.priorities.set(class);
                }
                Event::Delete(class) => self.snapshot.priorities.remove(&class.name_any()),
                Event::Init => {}
                Event::InitDone => self.is_complete("classes"),
            },
            News::Budget(event) => self.hear_of_budget(*event),
            News::Written(Written::Binding { pod, node, result }) => {
                self.bindings -= 1;
                self.hear_of_binding(&pod, &node, result, now);
            }
            News::Written(Written::Eviction { pod, complete }) => {
                if !complete {
                    self.snapshot.forget_nomination(&pod);
                    self.queue.delay(&pod, now);
                }
            }
        }
    }

    fn is_complete(&mut self, kind: &'static str) {
        self.complete.insert(kind);
    }

    fn hear_of_pod(&mut self, event: Event<Pod>, now: Instant) {
        match event {
            Event::Init => self.pods_seen = Some(HashSet::new()),
            Event::InitApply(pod) => {
                if let Some(seen) = &mut self.pods_seen {
                    seen.insert(PodName::of(&pod));
                }
                self.see_pod(&pod, now);
            }
            Event::InitDone => {
                let seen = self.pods_seen.take().unwrap_or_default();
                let gone: Vec<PodName> = self
                    .snapshot
                    .pod_names()
                    .chain(self.queue.names())
                    .filter(|name| !seen.contains(*name))
                    .cloned()
                    .collect();
                for name in gone {
                    self.lose_pod(&name, now);
                }
                self.is_complete("pods");
            }
            Event::Apply(pod) => self.see_pod(&pod, now),
            Event::Delete(pod) => self.lose_pod(&PodName::of(&pod), now),
        }
    }

    fn see_pod(&mut self, pod: &Pod, now: Instant) {
        let spec = pod.spec.as_ref();
        let bound = spec
            .and_then(|spec| spec.node_name.as_deref())
            .is_some_and(|node| !node.is_empty());
        if !facts::takes_room(pod) {
            self.lose_pod(&PodName::of(pod), now);
        } else if bound {
            self.see_bound(pod, now);
        } else {
            let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref());
            let ours = scheduler.unwrap_or("default-scheduler") == self.config.scheduler_name;
            if !ours || pod.metadata.deletion_timestamp.is_some() {
                self.lose_pod(&PodName::of(pod), now);
            } else {
                self.see_waiting(pod, now);
            }
        }
    }

    fn see_bound(&mut self, pod: &Pod, now: Instant) {
        let facts = self.snapshot.read_pod(pod, Extent::Running);
        let Some(node) = facts.bound_to else {
            return;
        };
        self.queue.remove(&facts.name);
        self.assumed.remove(&facts.name);
        self.reports.remove(&facts.name);
        self.snapshot.forget_nomination(&facts.name);
        let before = self.snapshot.pod(&facts.name).cloned();
        let slot = self.snapshot.place(facts.clone(), node);
        match before {
            Some(before) => {
                let counted_alike = before.cohort == facts.cohort && before.ending == facts.ending;
                if !counted_alike {
                    self.reconsider(&Occasion::PodChanged(&facts), now);
                }
                if before.demand != facts.demand || before.uid != facts.uid {
                    self.reconsider(&Occasion::PodLeft(&before, slot), now);
                }
            }
            None => self.reconsider(&Occasion::PodCame(&facts), now),
        }
    }

    fn see_waiting(&mut self, pod: &Pod, now: Instant) {
        let facts = self.snapshot.read_pod(pod, Extent::Waiting);
        if let Some(assumed) = self.assumed.get(&facts.name) {
            // What the watch shows is from before the binding.
            if assumed.uid == facts.uid {
                return;
            }
        }
        // Another pod had this name, and its end was not told.
        if self.snapshot.pod(&facts.name).is_some() {
            self.lose_pod(&facts.name, now);
        }
        if let Some(node) = facts.nominated {
            self.snapshot.nominate(&facts, node);
        }
        self.queue.put(facts.clone(), now);
        if !facts.wishes.gates.is_empty() {
            let report = Report {
                reason: "SchedulingGated",
                message: "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
                nominated: None,
            };
            self.report(&facts, report, now);
        }
    }

    fn lose_pod(&mut self, name: &PodName, now: Instant) {
        self.queue.remove(name);
        self.assumed.remove(name);
        self.reports.remove(name);
        self.snapshot.forget_nomination(name);
        if let Some((pod, slot)) = self.snapshot.displace(name) {
            self.reconsider(&Occasion::PodLeft(&pod, slot), now);
        }
    }

    fn hear_of_node(&mut self, event: Event<Node>, now: Instant) {
        match event {
            Event::Init => self.nodes_seen = Some(HashSet::new()),
            Event::InitApply(node) => {
                if let Some(seen) = &mut self.nodes_seen {
                    seen.insert(node.name_any());
                }
                self.see_node(&node, now);
            }
            Event::Apply(node) => self.see_node(&node, now),
            Event::Delete(node) => self.lose_node(&node.name_any(), now),
            Event::InitDone => {
                let seen = self.nodes_seen.take().unwrap_or_default();
                let gone: Vec<String> = self
                    .snapshot
                    .ready()
                    .iter()
                    .map(|slot| self.snapshot.node_name(*slot).to_owned())
                    .filter(|name| !seen.contains(name))
                    .collect();
                for name in gone {
                    self.lose_node(&name, now);
                }
                self.is_complete("nodes");
            }
        }
    }

    /// With a node its domains may go, and the emptiest is another then.
    fn lose_node(&mut self, name: &str, now: Instant) {
        let Some(slot) = self.snapshot.slot_named(name) else {
            return;
        };
        self.snapshot.remove_node(name);
        let change = NodeChange {
            labels: true,
            ..NodeChange::default()
        };
        self.reconsider(&Occasion::Node { slot, change }, now);
    }

    fn see_node(&mut self, node: &Node, now: Instant) {
        let (slot, change) = self.snapshot.set_node(node);
        if change.matters() {
            self.reconsider(&Occasion::Node { slot, change }, now);
        }
    }

    fn hear_of_namespace(&mut self, event: Event<Namespace>, now: Instant) {
        match event {
            Event::Apply(namespace) | Event::InitApply(namespace) => {
                let labels = namespace.metadata.labels.iter().flatten();
                let labels = Labels::read(&mut self.snapshot.symbols, labels);
                self.snapshot
                    .set_namespace(&namespace.name_any(), Some(labels));
                self.reconsider(&Occasion::Namespace, now);
            }
            Event::Delete(namespace) => self.snapshot.set_namespace(&namespace.name_any(), None),
            Event::Init => {}
            Event::InitDone => self.is_complete("namespaces"),
        }
    }

    fn hear_of_budget(&mut self, event: Event<PodDisruptionBudget>) {
        match event {
            Event::Apply(budget) | Event::InitApply(budget) => {
                self.budgets.insert(full_name(&budget), budget);
            }
            Event::Delete(budget) => {
                self.budgets.remove(&full_name(&budget));
            }
            Event::Init => self.budgets.clear(),
            Event::InitDone => self.is_complete("budgets"),
        }
    }

    fn hear_of_binding(
        &mut self,
        pod: &Arc<PodFacts>,
        node: &str,
        result: Result<(), kube::Error>,
        now: Instant,
    ) {
        let error = match result {
            Ok(()) => {
                self.config.counters.bound.add(1);
                let message = format!("Successfully assigned {} to {node}", pod.name);
                self.writer.event(pod, "Normal", "Scheduled", message);
                return;
            }
            Err(error) => error,
        };
        self.config.counters.failed_bindings.add(1);
        tracing::warn!(%error, pod = %pod.name, node, "placement: a binding failed");
        let ours = self
            .assumed
            .get(&pod.name)
            .is_some_and(|assumed| assumed.uid == pod.uid);
        // The watch may have told already where the pod is, or that it is gone.
        if !ours {
            return;
        }
        self.assumed.remove(&pod.name);
        if let Some((pod, slot)) = self.snapshot.displace(&pod.name) {
            self.reconsider(&Occasion::PodLeft(&pod, slot), now);
        }
        self.queue.delay(&pod.name, now);
    }
}

fn full_name<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests;
