//! `berth rollout`: how far an update is, back to the one before, and once more.

use std::time::{Duration, Instant};

use berth_scheduler::api::kind::{Kind, by_plural};
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};

use crate::cluster::api::{self, ClusterArguments, NamespaceArguments};
use crate::cluster::kinds::{parse_one, title};
use crate::cluster::request::{AS_JSON, Ask, collection, merge, object, read, send};
use crate::error::{Context, Error, Result};
use crate::output::print_line;
use crate::settings::Settings;

const REVISION: &str = "deployment.kubernetes.io/revision";

/// `berth rollout`.
#[derive(Debug, Args)]
pub struct RolloutArguments {
    /// What to do
    #[command(subcommand)]
    pub command: RolloutCommand,
    /// Which namespace
    #[command(flatten)]
    pub namespace: NamespaceArguments,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What `berth rollout` can do.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Wait until an update is done
    Status {
        /// deployment/NAME or daemonset/NAME
        target: String,
        /// How long to wait, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
    },
    /// Go back to the pods of an earlier revision
    Undo {
        /// deployment/NAME or daemonset/NAME
        target: String,
        /// Which revision [default: the one before]
        #[arg(long, value_name = "NUMBER")]
        to_revision: Option<u64>,
    },
    /// Replace all pods by new ones of the same kind
    Restart {
        /// deployment/NAME or daemonset/NAME
        target: String,
    },
    /// Stop updating
    Pause {
        /// deployment/NAME
        target: String,
    },
    /// Go on updating
    Resume {
        /// deployment/NAME
        target: String,
    },
}

struct Target<'a> {
    client: &'a Client,
    kind: &'static Kind,
    namespace: String,
    name: String,
}

/// Does what was asked.
///
/// # Errors
///
/// The object is not there or has no rollout, the API refuses, or an update failed.
pub async fn run(settings: &Settings, arguments: &RolloutArguments) -> Result<u8> {
    let client = api::connect(settings, &arguments.cluster).await?;
    let (RolloutCommand::Status { target: word, .. }
    | RolloutCommand::Undo { target: word, .. }
    | RolloutCommand::Restart { target: word }
    | RolloutCommand::Pause { target: word }
    | RolloutCommand::Resume { target: word }) = &arguments.command;
    let wanted = parse_one(word)?;
    let namespace = match &arguments.namespace.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let target = Target {
        client: &client,
        kind: wanted.kind,
        namespace,
        name: wanted.name.unwrap_or_default(),
    };
    match &arguments.command {
        RolloutCommand::Status { timeout, .. } => {
            target.expect(&["deployments", "daemonsets"])?;
            target.wait(Duration::from_secs(*timeout)).await?;
        }
        RolloutCommand::Undo { to_revision, .. } => {
            target.expect(&["deployments", "daemonsets"])?;
            target.undo(*to_revision).await?;
        }
        RolloutCommand::Restart { .. } => {
            target.expect(&["deployments", "daemonsets"])?;
            let now = Timestamp::now().to_string();
            let mark = json!({ "kubectl.kubernetes.io/restartedAt": now });
            let patch = json!({
                "spec": { "template": { "metadata": { "annotations": mark } } }
            });
            target.change(&patch, "restarted").await?;
        }
        RolloutCommand::Pause { .. } => {
            target.expect(&["deployments"])?;
            let patch = json!({ "spec": { "paused": true } });
            target.change(&patch, "paused").await?;
        }
        RolloutCommand::Resume { .. } => {
            target.expect(&["deployments"])?;
            let patch = json!({ "spec": { "paused": false } });
            target.change(&patch, "resumed").await?;
        }
    }
    Ok(0)
}

impl Target<'_> {
    fn title(&self) -> String {
        title(self.kind, &self.name)
    }

    fn expect(&self, plurals: &[&str]) -> Result<()> {
        if plurals.contains(&self.kind.plural) {
            return Ok(());
        }
        Err(Error::new(format!(
            "{}: expected one of {}",
            self.title(),
            plurals.join(", ")
        )))
    }

    async fn change(&self, patch: &Value, word: &str) -> Result<()> {
        let place = (&*self.namespace, &*self.name);
        merge(self.client, self.kind, place, "", patch).await?;
        print_line(&format!("{} {word}", self.title()))
    }

    async fn wait(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut told = String::new();
        loop {
            let value = read(self.client, self.kind, &self.namespace, &self.name).await?;
            let progress = match self.kind.plural {
                "daemonsets" => daemon_progress(&value),
                _ => deployment_progress(&value),
            };
            match progress {
                Progress::Done => {
                    return print_line(&format!("{} successfully rolled out", self.title()));
                }
                Progress::Failed(reason) => {
                    return Err(Error::new(format!("{}: {reason}", self.title())));
                }
                Progress::Waiting(reason) => {
                    if reason != told {
                        print_line(&format!("Waiting for {}: {reason}", self.title()))?;
                        told = reason;
                    }
                    if Instant::now() > deadline {
                        let seconds = patience.as_secs();
                        return Err(Error::new(format!(
                            "{} is not rolled out after {seconds} seconds",
                            self.title()
                        )));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn undo(&self, revision: Option<u64>) -> Result<()> {
        let current = read(self.client, self.kind, &self.namespace, &self.name).await?;
        if current["spec"]["paused"] == json!(true) {
            return Err(Error::new(format!(
                "{} is paused: 'berth rollout resume' first; nothing was changed",
                self.title()
            )));
        }
        let keeper = match self.kind.plural {
            "daemonsets" => "controllerrevisions",
            _ => "replicasets",
        };
        let keepers = by_plural("apps", keeper).expect("the table of kinds has both");
        let path = collection(keepers, Some(&self.namespace));
        let list = send(self.client, Ask::get(path)).await?.success()?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let uid = &current["metadata"]["uid"];
        let template = plan_undo(&items, uid, revision)
            .map_err(|reason| Error::new(format!("{}: {reason}", self.title())))?;
        // Replaced whole: what the other revision did not have must go.
        let patch = json!([{ "op": "replace", "path": "/spec/template", "value": template }]);
        let bytes = serde_json::to_vec(&patch).context("write a patch")?;
        let ask = Ask {
            method: Method::PATCH,
            path: object(self.kind, &self.namespace, &self.name),
            accept: AS_JSON,
            body: Some(("application/json-patch+json", bytes)),
        };
        let answer = send(self.client, ask).await?;
        answer
            .success()
            .context(format!("take {} back", self.title()))?;
        print_line(&format!("{} rolled back", self.title()))
    }
}

/// The template of a revision, as the ReplicaSets of a Deployment or the
/// ControllerRevisions of a DaemonSet remember it.
fn plan_undo(
    keepers: &[Value],
    owner: &Value,
    revision: Option<u64>,
) -> std::result::Result<Value, String> {
    let number = |keeper: &Value| -> Option<u64> {
        let noted = &keeper["metadata"]["annotations"][REVISION];
        let noted = || noted.as_str()?.parse().ok();
        keeper["revision"].as_u64().or_else(noted)
    };
    let owned = |keeper: &&Value| {
        let mut owners = keeper["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten();
        owners.any(|found| &found["uid"] == owner)
    };
    let mut revisions: Vec<(u64, &Value)> = keepers
        .iter()
        .filter(owned)
        .filter_map(|keeper| Some((number(keeper)?, keeper)))
        .collect();
    revisions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let found = match revision {
        Some(wanted) => revisions.iter().find(|(number, _)| *number == wanted),
        None => revisions.get(1),
    };
    let (_, keeper) = found.ok_or_else(|| {
        let known: Vec<String> = revisions
            .iter()
            .map(|(number, _)| number.to_string())
            .collect();
        format!(
            "there is no such earlier revision; known are {}; nothing was changed",
            known.join(", ")
        )
    })?;
    let kept = [&keeper["data"]["spec"], &keeper["spec"]];
    let kept = kept.into_iter().find(|kept| kept.is_object());
    let mut template = kept.map_or(Value::Null, |kept| kept["template"].clone());
    if let Some(fields) = template.as_object_mut() {
        // A ControllerRevision holds a patch, and says so.
        fields.remove("$patch");
    }
    let labels = template.pointer_mut("/metadata/labels");
    if let Some(labels) = labels.and_then(Value::as_object_mut) {
        // The ReplicaSet's own, added by the controller.
        labels.remove("pod-template-hash");
    }
    Ok(template)
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Waiting(String),
    Failed(String),
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn deployment_progress(value: &Value) -> Progress {
    let (spec, status) = (&value["spec"], &value["status"]);
    if number(&status["observedGeneration"]) < number(&value["metadata"]["generation"]) {
        return Progress::Waiting("the change to be seen".to_owned());
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    for condition in conditions {
        if condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded" {
            return Progress::Failed("it exceeded its progress deadline".to_owned());
        }
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let updated = number(&status["updatedReplicas"]);
    let (all, available) = (
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
    );
    if updated < wanted {
        return Progress::Waiting(format!("{updated} of {wanted} new replicas made"));
    }
    if all > updated {
        return Progress::Waiting(format!("{} old replicas to end", all - updated));
    }
    if available < updated {
        return Progress::Waiting(format!("{available} of {updated} new replicas available"));
    }
    Progress::Done
}

fn daemon_progress(value: &Value) -> Progress {
    let status = &value["status"];
    if number(&status["observedGeneration"]) < number(&value["metadata"]["generation"]) {
        return Progress::Waiting("the change to be seen".to_owned());
    }
    let wanted = number(&status["desiredNumberScheduled"]);
    let updated = number(&status["updatedNumberScheduled"]);
    let available = number(&status["numberAvailable"]);
    if updated < wanted {
        return Progress::Waiting(format!("{updated} of {wanted} pods updated"));
    }
    if available < wanted {
        return Progress::Waiting(format!("{available} of {wanted} updated pods available"));
    }
    Progress::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_done_when_all_new_replicas_are_available() {
        let value = |updated: i64, all: i64, available: i64, observed: i64| {
            json!({
                "metadata": { "generation": 2 },
                "spec": { "replicas": 3 },
                "status": {
                    "observedGeneration": observed, "updatedReplicas": updated,
                    "replicas": all, "availableReplicas": available,
                },
            })
        };
        let waits = |value| matches!(deployment_progress(&value), Progress::Waiting(_));
        assert!(waits(value(3, 3, 3, 1)));
        assert!(waits(value(2, 3, 3, 2)));
        assert!(waits(value(3, 4, 3, 2)));
        assert!(waits(value(3, 3, 2, 2)));
        assert_eq!(deployment_progress(&value(3, 3, 3, 2)), Progress::Done);
        let mut late = value(1, 3, 3, 2);
        late["status"]["conditions"] =
            json!([{ "type": "Progressing", "reason": "ProgressDeadlineExceeded" }]);
        assert!(matches!(deployment_progress(&late), Progress::Failed(_)));
    }

    #[test]
    fn undo_of_a_daemon_set_reads_its_revisions() {
        let revision = |number: u64, image: &str| {
            json!({
                "metadata": { "ownerReferences": [{ "uid": "u" }] },
                "revision": number,
                "data": { "spec": { "template": {
                    "$patch": "replace", "spec": { "containers": [{ "image": image }] },
                } } },
            })
        };
        let kept = [revision(2, "two"), revision(3, "three"), revision(1, "one")];
        let template = plan_undo(&kept, &json!("u"), None).unwrap();
        assert_eq!(
            template,
            json!({ "spec": { "containers": [{ "image": "two" }] } })
        );
    }

    #[test]
    fn undo_takes_the_template_of_the_revision_before_without_its_hash() {
        let set = |revision: &str, uid: &str| {
            json!({
                "metadata": {
                    "annotations": { REVISION: revision },
                    "ownerReferences": [{ "uid": uid }],
                },
                "spec": { "template": {
                    "metadata": { "labels": { "app": "web", "pod-template-hash": "x" } },
                    "spec": { "revision": revision },
                } },
            })
        };
        let sets = [
            set("1", "u"),
            set("10", "u"),
            set("9", "u"),
            set("50", "other"),
        ];
        let template = plan_undo(&sets, &json!("u"), None).unwrap();
        assert_eq!(template["spec"]["revision"], "9");
        assert_eq!(template["metadata"]["labels"], json!({ "app": "web" }));
        let template = plan_undo(&sets, &json!("u"), Some(1)).unwrap();
        assert_eq!(template["spec"]["revision"], "1");
        let words = plan_undo(&sets, &json!("u"), Some(4)).unwrap_err();
        assert!(words.contains("10, 9, 1"), "{words}");
        assert!(plan_undo(&sets[..1], &json!("u"), None).is_err());
    }
}
