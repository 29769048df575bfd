//! Writers that remember what was acknowledged, and a reader that misses nothing.
//!
//! A write whose answer was lost may have happened or not, and both are right. A write
//! that was acknowledged has happened, whatever died a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

/// Notes that one writer changes in turn.
const NOTES: u64 = 6;

/// Services that exist at a time.
const DOORS: u64 = 6;

/// What a name may hold: a number, or nothing.
type State = Option<u64>;

/// What is known of one name.
#[derive(Debug, Clone, Default)]
struct Known {
    acknowledged: State,
    /// Since then, without an answer.
    tried: Vec<State>,
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Journal {
    over: AtomicBool,
    known: Mutex<BTreeMap<String, Known>>,
    /// Names and the revisions that they got.
    revisions: Mutex<BTreeSet<(u64, String)>>,
    seen: Mutex<Vec<(u64, String)>>,
    /// What should not have been said.
    wrong: Mutex<Vec<String>>,
}

/// How a write went.
enum Outcome {
    Acknowledged(Option<u64>),
    Unknown,
    Refused(String),
}

impl Journal {
    /// Begins to write: notes by some writers, Services by one.
    pub async fn start(client: &kube::Client, writers: u64) -> Result<Arc<Journal>> {
        let journal = Arc::new(Journal::default());
        // The reader begins where no note was written yet.
        let notes: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let empty = notes.list(&Default::default()).await?;
        let from = empty.metadata.resource_version.context("a revision")?;
        for writer in 0..writers {
            let (journal, client) = (journal.clone(), client.clone());
            tokio::spawn(async move { journal.write_notes(client, writer).await });
        }
        let (writing, ours) = (journal.clone(), client.clone());
        tokio::spawn(async move { writing.write_services(ours).await });
        let reading = journal.clone();
        tokio::spawn(async move {
            if let Err(error) = reading.read(&notes, from).await {
                reading.wrong.lock().unwrap().push(format!("{error:#}"));
            }
        });
        Ok(journal)
    }

    /// Ends the writers; what is under way is waited for by nobody.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.revisions.lock().unwrap().len()
    }

    /// Asserts that what is there is what was acknowledged, or tried after that.
    pub async fn assert_kept(&self, client: &kube::Client) -> Result<()> {
        let wrong = self.wrong.lock().unwrap().clone();
        ensure!(wrong.is_empty(), "{wrong:?}");
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        let notes: Api<ConfigMap> = Api::default_namespaced(client.clone());
        for note in notes.list(&Default::default()).await? {
            if let Some(number) = number_of(&note) {
                found.insert(note.name_any(), number);
            }
        }
        let services: Api<Service> = Api::default_namespaced(client.clone());
        for service in services.list(&Default::default()).await? {
            if service.name_any().starts_with("door-") {
                found.insert(service.name_any(), 0);
            }
        }
        for (name, known) in &*self.known.lock().unwrap() {
            let now = found.get(name).copied();
            ensure!(
                now == known.acknowledged || known.tried.contains(&now),
                "{name} is {now:?}, and known is {known:?}"
            );
        }
        Ok(())
    }

    /// Asserts that the reader saw each acknowledged change of a note once, in order.
    pub fn assert_seen(&self) -> Result<()> {
        let seen = self.seen.lock().unwrap();
        for pair in seen.windows(2) {
            ensure!(pair[0].0 < pair[1].0, "out of order: {pair:?}");
        }
        let seen: BTreeSet<&(u64, String)> = seen.iter().collect();
        let revisions = self.revisions.lock().unwrap();
        let missed: Vec<_> = revisions
            .iter()
            .filter(|write| write.1.starts_with("note-") && !seen.contains(write))
            .collect();
        ensure!(missed.is_empty(), "never seen: {missed:?}");
        Ok(())
    }

    async fn write_notes(&self, client: kube::Client, writer: u64) {
        let notes: Api<ConfigMap> = Api::default_namespaced(client);
        let mut number = 0;
        while !self.over.load(Ordering::Relaxed) {
            number += 1;
            let name = format!("note-{writer}-{}", number % NOTES);
            if number % 11 == 0 {
                let deleted = notes.delete(&name, &DeleteParams::default()).await;
                let outcome = outcome(deleted.map(|_| None));
                self.note(&name, None, outcome);
                continue;
            }
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name}, "data": {"number": number.to_string()}});
            let by = PatchParams::apply("journal").force();
            let applied = notes.patch(&name, &by, &Patch::Apply(&body)).await;
            let outcome = outcome(applied.map(|note| revision(&note)));
            self.note(&name, Some(number), outcome);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes Services and removes older ones: every node changes its tables for each.
    async fn write_services(&self, client: kube::Client) {
        let services: Api<Service> = Api::default_namespaced(client);
        let mut number = 0;
        while !self.over.load(Ordering::Relaxed) {
            number += 1;
            let name = format!("door-{number}");
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))
            .expect("a Service");
            let made = services.create(&PostParams::default(), &service).await;
            let outcome_of = outcome(made.map(|service| revision(&service)));
            self.note(&name, Some(0), outcome_of);
            if number > DOORS {
                let name = format!("door-{}", number - DOORS);
                let deleted = services.delete(&name, &DeleteParams::default()).await;
                self.note(&name, None, outcome(deleted.map(|_| None)));
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    fn note(&self, name: &str, state: State, outcome: Outcome) {
        let mut all = self.known.lock().unwrap();
        let known = all.entry(name.to_owned()).or_default();
        match outcome {
            Outcome::Unknown => known.tried.push(state),
            Outcome::Refused(why) => self.wrong.lock().unwrap().push(format!("{name}: {why}")),
            Outcome::Acknowledged(revision) => {
                *known = Known {
                    acknowledged: state,
                    tried: Vec::new(),
                };
                if let Some(revision) = revision {
                    let mut revisions = self.revisions.lock().unwrap();
                    assert!(revisions.insert((revision, name.to_owned())));
                }
            }
        }
    }

    /// Follows all notes from the first moment on, over any number of servers.
    async fn read(&self, notes: &Api<ConfigMap>, mut from: String) -> Result<()> {
        loop {
            if let Ok(stream) = notes.watch(&WatchParams::default(), &from).await {
                let mut stream = std::pin::pin!(stream);
                while let Ok(Some(event)) = stream.try_next().await {
                    match event {
                        WatchEvent::Added(note)
                        | WatchEvent::Modified(note)
                        | WatchEvent::Deleted(note) => {
                            from = note.resource_version().context("a revision")?;
                            let revision = from.parse()?;
                            let mut seen = self.seen.lock().unwrap();
                            seen.push((revision, note.name_any()));
                        }
                        WatchEvent::Bookmark(mark) => from = mark.metadata.resource_version,
                        WatchEvent::Error(error) if error.code == 410 => {
                            bail!("history was lost: {error:?}")
                        }
                        // A server that ends says so.
                        WatchEvent::Error(_) => break,
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn number_of(note: &ConfigMap) -> Option<u64> {
    note.data.as_ref()?.get("number")?.parse().ok()
}

fn revision(object: &impl ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

fn outcome(answer: Result<Option<u64>, kube::Error>) -> Outcome {
    match answer {
        Ok(revision) => Outcome::Acknowledged(revision),
        // What is to be deleted is not there, or what is to be made is: that is an
        // answer too, after a write that had none.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
            Outcome::Acknowledged(None)
        }
        Err(kube::Error::Api(status)) if status.code < 500 => {
            Outcome::Refused(format!("{status:?}"))
        }
        Err(_) => Outcome::Unknown,
    }
}
