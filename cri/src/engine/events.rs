//! What happens in all pods, whoever makes it happen.
//!
//! The monitors tell their subscribers at once. Pods themselves come and go as
//! records, which are looked at several times a second: the event is then a
//! fraction of a second late, and no process has to run for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::{ContainerRecord, Event, Request};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::records::PodPhase;
use super::{Engine, monitor_link};

/// How often the records are looked at.
const PERIOD: Duration = Duration::from_millis(200);
/// Events that wait for a slow reader before the sources wait too.
const BACKLOG: usize = 1024;

/// Something that happened, with the pod it happened in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// The sandbox.
    pub pod_id: String,
    /// What happened.
    pub change: Change,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A sandbox is ready.
    SandboxReady {
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// A sandbox was stopped.
    SandboxStopped {
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// A sandbox was removed.
    SandboxRemoved {
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// Something happened to a container.
    Container(Event),
}

impl Engine {
    /// Everything that happens from now on in all pods of these directories, by
    /// whatever process. Ends when the stream is dropped.
    pub fn events(&self) -> ReceiverStream<EngineEvent> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let engine = self.clone();
        tokio::spawn(async move { engine.watch(sender).await });
        ReceiverStream::new(receiver)
    }

    async fn watch(self, sender: mpsc::Sender<EngineEvent>) {
        let mut watched = Watched::default();
        // What is there at the beginning is no event.
        let mut known = self.phases().unwrap_or_default();
        for id in known.keys() {
            watched.subscribe(&self, id, Begin::Now, &sender);
        }
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            // Out of descriptors, say: what could not be seen has not gone.
            let Some(now) = self.phases() else {
                continue;
            };
            for (pod_id, change) in changes(&known, &now, now_nanoseconds()) {
                if matches!(change, Change::SandboxReady { .. }) {
                    watched.subscribe(&self, &pod_id, Begin::WithThePod, &sender);
                }
                if sender.send(EngineEvent { pod_id, change }).await.is_err() {
                    return;
                }
            }
            watched.keep(&now);
            known = now;
        }
    }

    /// The phases of all sandboxes; none when they cannot be listed.
    fn phases(&self) -> Option<BTreeMap<String, PodPhase>> {
        let made = self.records().list_pods().ok()?.records.into_iter();
        let made = made.filter(|record| record.phase != PodPhase::HalfMade);
        Some(
            made.map(|record| (record.id.clone(), record.phase))
                .collect(),
        )
    }
}

/// What changed between two looks. Pure.
fn changes(
    before: &BTreeMap<String, PodPhase>,
    now: &BTreeMap<String, PodPhase>,
    at: i64,
) -> Vec<(String, Change)> {
    let mut list = Vec::new();
    for (id, phase) in now {
        if !before.contains_key(id) {
            list.push((id.clone(), Change::SandboxReady { at }));
        }
        let was_stopped = before.get(id) == Some(&PodPhase::Stopped);
        if *phase == PodPhase::Stopped && !was_stopped {
            list.push((id.clone(), Change::SandboxStopped { at }));
        }
    }
    for id in before.keys().filter(|id| !now.contains_key(*id)) {
        list.push((id.clone(), Change::SandboxRemoved { at }));
    }
    list
}

/// From when on a monitor's events are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// What happened before is no event.
    Now,
    /// The pod is new: what happened until it was found is told as well.
    WithThePod,
}

/// Passes a monitor's events on until one of the three has gone.
async fn listen(
    pod_dir: &Path,
    pod_id: &str,
    begin: Begin,
    sender: &mpsc::Sender<EngineEvent>,
) -> Option<()> {
    // Subscribed first and asked for the state afterwards, nothing falls between
    // the two; what is told twice is passed on once.
    let stream = monitor_link::take_over(pod_dir, Request::Subscribe)
        .await
        .ok()?;
    let tell = async |event: Event| {
        let pod_id = pod_id.to_owned();
        let change = Change::Container(event);
        sender.send(EngineEvent { pod_id, change }).await.ok()
    };
    let mut told = BTreeSet::new();
    if begin == Begin::WithThePod {
        let records = monitor_link::status(pod_dir).await.ok()??;
        for event in records.iter().flat_map(past) {
            told.insert(name(&event));
            tell(event).await?;
        }
    }
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(event) = serde_json::from_str::<Event>(&line) else {
            continue;
        };
        if !told.remove(&name(&event)) {
            tell(event).await?;
        }
    }
    Some(())
}

/// What has happened to a container by now.
fn past(record: &ContainerRecord) -> Vec<Event> {
    if record.pid == 0 && record.exit.is_none() {
        // Its making is under way, and is told of when it has succeeded.
        return Vec::new();
    }
    let (id, at) = (record.id.clone(), record.created_at);
    let mut events = vec![Event::Created { id, at }];
    if record.started_at > 0 {
        let (id, at) = (record.id.clone(), record.started_at);
        events.push(Event::Started { id, at });
    }
    events.extend(record.exit.clone().map(Event::Exited));
    events
}

/// An event that happens once to a container, by kind and container.
fn name(event: &Event) -> (&'static str, String) {
    match event {
        Event::Created { id, .. } => ("created", id.clone()),
        Event::Started { id, .. } => ("started", id.clone()),
        Event::OomKilled { id, .. } => ("oom-killed", id.clone()),
        Event::Exited(exit) => ("exited", exit.id.clone()),
        Event::Deleted { id, .. } => ("deleted", id.clone()),
    }
}

/// One task for each monitor that is listened to.
#[derive(Default)]
struct Watched {
    tasks: BTreeMap<String, JoinHandle<()>>,
}

impl Watched {
    fn subscribe(
        &mut self,
        engine: &Engine,
        pod_id: &str,
        begin: Begin,
        sender: &mpsc::Sender<EngineEvent>,
    ) {
        let pod_dir = engine.paths().pod(pod_id);
        let (pod_id, sender) = (pod_id.to_owned(), sender.clone());
        let key = pod_id.clone();
        let task = tokio::spawn(async move {
            // A monitor that has gone has nothing to tell, and a reader that has
            // gone wants nothing.
            let _ = listen(&pod_dir, &pod_id, begin, &sender).await;
        });
        if let Some(old) = self.tasks.insert(key, task) {
            old.abort();
        }
    }

    /// Forgets those whose pods are gone; they end with the monitor's socket.
    fn keep(&mut self, now: &BTreeMap<String, PodPhase>) {
        let gone: BTreeSet<String> = self
            .tasks
            .keys()
            .filter(|id| !now.contains_key(*id))
            .cloned()
            .collect();
        for id in gone {
            self.tasks.remove(&id);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_tells_what_happened_until_it_was_found() {
        let record = |started_at| ContainerRecord {
            id: "c".to_owned(),
            pid: 7,
            state: berth_runtime::monitor::protocol::ContainerState::Running,
            created_at: 1,
            started_at,
            exit: None,
        };
        let names =
            |record: &ContainerRecord| past(record).iter().map(|e| name(e).0).collect::<Vec<_>>();
        assert_eq!(names(&record(0)), ["created"]);
        let being_made = ContainerRecord {
            pid: 0,
            ..record(0)
        };
        assert!(names(&being_made).is_empty());
        assert_eq!(names(&record(2)), ["created", "started"]);
    }

    #[test]
    fn two_looks_give_the_changes_between_them() {
        let look = |pods: &[(&str, PodPhase)]| {
            pods.iter()
                .map(|(id, phase)| ((*id).to_owned(), *phase))
                .collect::<BTreeMap<_, _>>()
        };
        let before = look(&[
            ("stays", PodPhase::Ready),
            ("stops", PodPhase::Ready),
            ("goes", PodPhase::Stopped),
        ]);
        let now = look(&[
            ("stays", PodPhase::Ready),
            ("stops", PodPhase::Stopped),
            ("comes", PodPhase::Ready),
            ("brief", PodPhase::Stopped),
        ]);
        let at = 5;
        let mut found = changes(&before, &now, at);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("brief", Change::SandboxReady { at }),
            ("brief", Change::SandboxStopped { at }),
            ("comes", Change::SandboxReady { at }),
            ("goes", Change::SandboxRemoved { at }),
            ("stops", Change::SandboxStopped { at }),
        ];
        assert_eq!(found, expected.map(|(id, change)| (id.to_owned(), change)));
    }
}
