//! Why a pod is where it is, or nowhere: every filter and score for every node.
//!
//! The same tables that decide are asked here, one node at a time and without
//! stopping at the first refusal. For a pod that runs already the question is
//! asked as if it were not there: would it come here again?

use std::fmt;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    scheduling::v1::PriorityClass,
};
use kube::api::{Api, ListParams};
use serde::Serialize;

use crate::placement::{
    facts::{self, Extent, PodFacts},
    filter::{FILTERS, Place},
    score::SCORES,
    snapshot::Snapshot,
    symbol::{Labels, Symbol},
};

/// Nodes and pods are listed in pages of this size.
const PAGE: u32 = 1000;

/// Why a pod is where it is, or nowhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<String>,
    /// What it asks of a node, as `cpu 500m`.
    pub requests: Vec<String>,
    /// Its priority.
    pub priority: i32,
    /// Gates that keep it from being placed at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<String>,
    /// Nodes with the highest sum among those that fit: one of them is chosen by lot.
    pub best: Vec<String>,
    /// Every node, the best first.
    pub nodes: Vec<NodeVerdict>,
}

/// Whether a node fits, and how well.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeVerdict {
    /// The node's name.
    pub node: String,
    /// Whether the pod runs there.
    pub current: bool,
    /// Whether every filter accepts it.
    pub fits: bool,
    /// Every filter's answer.
    pub filters: Vec<FilterVerdict>,
    /// Every score that has something to say, of a node that fits.
    pub scores: Vec<ScoreShare>,
    /// The sum of the scores' points.
    pub total: i64,
}

/// A filter's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterVerdict {
    /// The filter's name.
    pub filter: &'static str,
    /// What it demands.
    pub about: &'static str,
    /// Whether it accepts the node.
    pub accepts: bool,
    /// Why not, with numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What a score adds to a node's sum.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScoreShare {
    /// The score's name.
    pub score: &'static str,
    /// What it prefers.
    pub about: &'static str,
    /// From 0 to 100.
    pub rating: i64,
    /// How much it counts.
    pub weight: i64,
    /// Rating times weight.
    pub points: i64,
}

/// Why an explanation could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot explain pod {namespace}/{name}: reading {what} failed")]
pub struct ExplainError {
    namespace: String,
    name: String,
    what: &'static str,
    #[source]
    source: Box<kube::Error>,
}

/// Explains a pod; one that runs is looked at as if it did not.
///
/// The snapshot is as before when the function returns.
pub fn explain(snapshot: &mut Snapshot, pod: &Pod) -> Explanation {
    let mut facts = PodFacts::clone(&snapshot.read_pod(pod, Extent::Waiting));
    let bound_to = facts.bound_to.take();
    let itself = snapshot.displace(&facts.name);
    let explanation = judge(snapshot, &facts, bound_to);
    if let (Some((itself, _)), Some(node)) = (itself, bound_to) {
        snapshot.place(itself, node);
    }
    explanation
}

/// Explains a pod of a cluster: reads it, all nodes and all pods through the API.
///
/// # Errors
///
/// When the API does not give them.
pub async fn load(
    client: kube::Client,
    namespace: &str,
    name: &str,
) -> Result<Explanation, ExplainError> {
    let failed = |what| {
        move |source| ExplainError {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            what,
            source: Box::new(source),
        }
    };
    let pod = Api::<Pod>::namespaced(client.clone(), namespace)
        .get(name)
        .await
        .map_err(failed("the pod"))?;
    let mut snapshot = Snapshot::default();
    // Classes and namespaces come first: pods are read by them. A server that does
    // not serve classes has resolved them.
    let classes = Api::<PriorityClass>::all(client.clone());
    for class in classes
        .list(&ListParams::default())
        .await
        .into_iter()
        .flatten()
    {
        snapshot.priorities.set(class);
    }
    each_page(Api::<Namespace>::all(client.clone()), |namespace| {
        let labels = Labels::read(
            &mut snapshot.symbols,
            namespace.metadata.labels.iter().flatten(),
        );
        let name = namespace.metadata.name.unwrap_or_default();
        snapshot.set_namespace(&name, Some(labels));
    })
    .await
    .map_err(failed("the namespaces"))?;
    each_page(Api::<Node>::all(client.clone()), |node| {
        snapshot.set_node(&node);
    })
    .await
    .map_err(failed("the nodes"))?;
    each_page(Api::<Pod>::all(client), |pod| {
        if facts::takes_room(&pod) {
            let facts = snapshot.read_pod(&pod, Extent::Running);
            if let Some(node) = facts.bound_to {
                snapshot.place(facts, node);
            }
        }
    })
    .await
    .map_err(failed("the pods"))?;
    Ok(explain(&mut snapshot, &pod))
}

async fn each_page<K>(api: Api<K>, mut take: impl FnMut(K)) -> Result<(), kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + fmt::Debug,
{
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        list.items.into_iter().for_each(&mut take);
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(()),
        }
    }
}

fn judge(snapshot: &Snapshot, pod: &PodFacts, bound_to: Option<Symbol>) -> Explanation {
    let mut nodes: Vec<(usize, NodeVerdict)> = snapshot
        .ready()
        .iter()
        .filter_map(|slot| Place::of(snapshot, *slot))
        .map(|place| {
            let filters = filter(snapshot, pod, &place);
            let verdict = NodeVerdict {
                node: snapshot.symbols.text(place.node.name).to_owned(),
                current: bound_to == Some(place.node.name),
                fits: filters.iter().all(|filter| filter.accepts),
                filters,
                scores: Vec::new(),
                total: 0,
            };
            (place.slot, verdict)
        })
        .collect();
    score(snapshot, pod, &mut nodes);
    let mut nodes: Vec<NodeVerdict> = nodes.into_iter().map(|(_, verdict)| verdict).collect();
    nodes.sort_by(|one, other| {
        (other.fits, other.total, &one.node).cmp(&(one.fits, one.total, &other.node))
    });
    let most = nodes
        .first()
        .filter(|best| best.fits)
        .map(|best| best.total);
    let best = nodes
        .iter()
        .filter(|verdict| verdict.fits && Some(verdict.total) == most)
        .map(|verdict| verdict.node.clone())
        .collect();
    Explanation {
        namespace: pod.name.namespace.to_string(),
        name: pod.name.name.to_string(),
        bound_to: bound_to.map(|name| snapshot.symbols.text(name).to_owned()),
        requests: requests(snapshot, pod),
        priority: pod.priority,
        gates: pod.wishes.gates.clone(),
        best,
        nodes,
    }
}

fn filter(snapshot: &Snapshot, pod: &PodFacts, place: &Place<'_>) -> Vec<FilterVerdict> {
    FILTERS
        .iter()
        .map(|filter| {
            let mut reasons = Vec::new();
            if let Some(check) = (filter.prepare)(snapshot, pod) {
                check.judge(place, &mut |reason| {
                    reasons.push(reason.detail(&snapshot.symbols));
                });
            }
            FilterVerdict {
                filter: filter.name,
                about: filter.about,
                accepts: reasons.is_empty(),
                reasons,
            }
        })
        .collect()
}

fn score(snapshot: &Snapshot, pod: &PodFacts, nodes: &mut [(usize, NodeVerdict)]) {
    let fits: Vec<usize> = nodes
        .iter()
        .filter(|(_, verdict)| verdict.fits)
        .map(|(slot, _)| *slot)
        .collect();
    for score in SCORES {
        let Some(weigh) = (score.prepare)(snapshot, pod, &fits) else {
            continue;
        };
        let mut ratings: Vec<i64> = fits
            .iter()
            .map(|slot| Place::of(snapshot, *slot).map_or(0, |place| weigh.raw(&place)))
            .collect();
        weigh.normalise(&mut ratings);
        let fitting = nodes.iter_mut().filter(|(_, verdict)| verdict.fits);
        for ((_, verdict), rating) in fitting.zip(ratings) {
            let points = rating * score.weight;
            verdict.total += points;
            verdict.scores.push(ScoreShare {
                score: score.name,
                about: score.about,
                rating,
                weight: score.weight,
                points,
            });
        }
    }
}

fn requests(snapshot: &Snapshot, pod: &PodFacts) -> Vec<String> {
    pod.demand
        .each()
        .filter(|(_, amount)| *amount > 0)
        .map(|(resource, amount)| {
            format!(
                "{} {}",
                resource.name(&snapshot.symbols),
                resource.amount(amount)
            )
        })
        .collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(to)?;
        for node in &self.nodes {
            node.write(to)?;
        }
        Ok(())
    }
}

impl Explanation {
    fn write_head(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "pod {}/{}", self.namespace, self.name)?;
        writeln!(
            to,
            "asks for {}; priority {}",
            self.requests.join(", "),
            self.priority
        )?;
        if !self.gates.is_empty() {
            writeln!(to, "held back by its gates: {}", self.gates.join(", "))?;
        }
        let fitting = self.nodes.iter().filter(|node| node.fits).count();
        match &self.bound_to {
            Some(node) => writeln!(to, "runs on {node}; judged as if it did not run yet")?,
            None => writeln!(to, "has no node yet")?,
        }
        writeln!(to, "{fitting} of {} nodes fit", self.nodes.len())?;
        match (self.best.as_slice(), &self.bound_to) {
            ([], _) => writeln!(to, "no node would be chosen"),
            ([one], Some(current)) if one == current => {
                writeln!(to, "{one} would be chosen again")
            }
            ([one], _) => writeln!(to, "{one} would be chosen"),
            (several, _) => writeln!(to, "one would be chosen by lot of: {}", several.join(", ")),
        }
    }
}

impl NodeVerdict {
    fn write(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = if self.current { " (runs here)" } else { "" };
        let verdict = if self.fits {
            format!("fits, {} points", self.total)
        } else {
            "does not fit".to_owned()
        };
        writeln!(to, "\nnode {}{current}: {verdict}", self.node)?;
        for filter in &self.filters {
            if filter.accepts {
                writeln!(to, "  yes  {:<22} {}", filter.filter, filter.about)?;
            } else {
                writeln!(
                    to,
                    "  NO   {:<22} {}",
                    filter.filter,
                    filter.reasons.join("; ")
                )?;
            }
        }
        for score in &self.scores {
            writeln!(
                to,
                "  {:>4} = {:>3} x {}  {}: {}",
                score.points, score.rating, score.weight, score.score, score.about
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
