//! Placement: decisions alone, and pods bound a second beside kube-scheduler.
//!
//! Each contender is a whole server, a store with every write on disk, an API over
//! TLS, and a scheduler, and takes the same objects from the same client. Nodes
//! are hollow: objects without a machine. What is timed is a storm: from the first
//! pod that is made to the last that is bound.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_scheduler::hollow::{self, HollowConfig, agents};
use futures::{StreamExt, TryStreamExt, pin_mut, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde_json::{Value, json};

use crate::measure::rounds;
use crate::report::Section;
use tokio_util::sync::CancellationToken;

use servers::{Kind, Server};

/// Decisions without a server.
mod decisions;
/// What is started, and how.
mod servers;

/// Storms of each kind.
const ROUNDS: usize = 3;
/// Pods made at once.
const CLIENTS: usize = 32;
/// No storm takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// What the pods of a storm want.
#[derive(Clone, Copy)]
enum Want {
    Room,
    Apart,
}

/// A storm's measure.
struct Storm {
    bound_a_second: f64,
    /// Half of the pods were bound in this time after they were made.
    median_wait: Duration,
}

/// Measures decisions, and storms on every server that is here.
///
/// # Errors
///
/// Ours could not be measured.
pub fn run(section: &mut Section) -> Result<()> {
    decisions::run(section)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut rows = Vec::new();
    for (nodes, pods) in [(100, 1000), (1000, 3000)] {
        rows.extend(runtime.block_on(storms(section, nodes, pods))?);
    }
    let live = runtime.block_on(live_storms(section))?;
    section.rows(
        "A storm of pods: from the first made to the last bound",
        &[
            "berth, pods bound a second",
            "kube-scheduler with kube-apiserver and etcd",
            "ratio",
            "berth, median from made to bound",
            "kube-scheduler",
        ],
        rows,
    );
    section.rows(
        "The same with our agents on runtimes that pretend: from the first made to the last ready",
        &[
            "berth, pods ready a second",
            "kube-scheduler with kube-apiserver and etcd",
            "ratio",
            "berth, median from made to ready",
            "kube-scheduler",
        ],
        vec![live],
    );
    Ok(())
}

/// Pods on nodes that say that they run them: the agent's code, the same on both servers.
async fn live_storms(section: &mut Section) -> Result<Vec<String>> {
    let (nodes, pods) = (100, 1000);
    let mut found = Vec::new();
    for kind in [Kind::Berth, Kind::Kubernetes] {
        let server = match Server::start(kind).await {
            Ok(server) => server,
            Err(error) if kind == Kind::Berth => return Err(error),
            Err(error) => {
                section.say(format!("{} is not measured: {error:#}.", kind.name()));
                continue;
            }
        };
        let config = HollowConfig {
            nodes,
            lease_period: None,
            ..HollowConfig::default()
        };
        let (directory, shutdown) = (tempfile::tempdir()?, CancellationToken::new());
        let (client, places, stop) = (
            server.client.clone(),
            directory.path().to_owned(),
            shutdown.clone(),
        );
        let running = tokio::spawn(async move { agents::run(client, config, &places, stop).await });
        until_registered(&server.client, nodes).await?;
        let mut storms = Vec::new();
        for round in 0..=rounds(ROUNDS) {
            let storm = storm(&server.client, pods, nodes, Want::Room, is_ready).await?;
            clear(&server.client).await?;
            if round > 0 {
                storms.push(storm);
            }
        }
        shutdown.cancel();
        running.await??;
        found.push(storms);
    }
    Ok(row(nodes, pods, Want::Room, found))
}

async fn until_registered(client: &Client, nodes: usize) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let deadline = Instant::now() + LIMIT;
    while api.list(&ListParams::default()).await?.items.len() < nodes {
        ensure!(Instant::now() < deadline, "not all agents register");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn storms(section: &mut Section, nodes: usize, pods: usize) -> Result<Vec<Vec<String>>> {
    let mut servers = Vec::new();
    for kind in [Kind::Berth, Kind::Kubernetes] {
        match Server::start(kind).await {
            Ok(server) => {
                let config = HollowConfig {
                    nodes,
                    lease_period: None,
                    ..HollowConfig::default()
                };
                let registered = hollow::register(&server.client, &config).await;
                registered.with_context(|| format!("registering nodes with {}", kind.name()))?;
                servers.push(server);
            }
            Err(error) if kind == Kind::Berth => return Err(error),
            Err(error) => section.say(format!("{} is not measured: {error:#}.", kind.name())),
        }
    }
    let mut rows = Vec::new();
    for want in [Want::Room, Want::Apart] {
        let mut found: Vec<Vec<Storm>> = servers.iter().map(|_| Vec::new()).collect();
        for round in 0..=rounds(ROUNDS) {
            for (server, found) in servers.iter().zip(&mut found) {
                let storm = storm(&server.client, pods, nodes, want, is_bound).await;
                let storm = storm.with_context(|| format!("round {round} of {}", server.name()))?;
                clear(&server.client).await?;
                // The first round fills caches and is nobody's measure.
                if round > 0 {
                    found.push(storm);
                }
            }
        }
        rows.push(row(nodes, pods, want, found));
    }
    Ok(rows)
}

fn row(nodes: usize, pods: usize, want: Want, found: Vec<Vec<Storm>>) -> Vec<String> {
    let what = match want {
        Want::Room => "plain",
        Want::Apart => "anti-affinity by host",
    };
    let medians: Vec<(f64, Duration)> = found.into_iter().map(median).collect();
    let absent = || "–".to_owned();
    let peer = medians.get(1);
    vec![
        format!("{nodes} nodes, {pods} pods, {what}"),
        format!("{:.0}", medians[0].0),
        peer.map_or_else(absent, |(rate, _)| format!("{rate:.0}")),
        peer.map_or_else(absent, |(rate, _)| format!("{:.1}", medians[0].0 / rate)),
        format!("{:.0} ms", medians[0].1.as_secs_f64() * 1000.0),
        peer.map_or_else(absent, |(_, wait)| {
            format!("{:.0} ms", wait.as_secs_f64() * 1000.0)
        }),
    ]
}

fn median(mut storms: Vec<Storm>) -> (f64, Duration) {
    storms.sort_by(|one, other| one.bound_a_second.total_cmp(&other.bound_a_second));
    let middle = &storms[storms.len() / 2];
    (middle.bound_a_second, middle.median_wait)
}

/// Makes pods as fast as the API takes them, and watches until all are bound.
async fn storm(
    client: &Client,
    pods: usize,
    nodes: usize,
    want: Want,
    is_done: fn(&Pod) -> bool,
) -> Result<Storm> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut manifests = Vec::with_capacity(pods);
    for number in 0..pods {
        manifests.push(pod(number, nodes, want)?);
    }
    let (ready, watching) = tokio::sync::oneshot::channel();
    let seen = tokio::spawn(see_done(api.clone(), pods, is_done, ready));
    watching.await.context("the watch did not begin")?;
    let begun = Instant::now();
    let made: Vec<(String, Instant)> = stream::iter(manifests)
        .map(|pod| {
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &pod).await?;
                Ok::<_, kube::Error>((pod.metadata.name.unwrap_or_default(), Instant::now()))
            }
        })
        .buffer_unordered(CLIENTS)
        .try_collect()
        .await
        .context("making the pods")?;
    let bound = tokio::time::timeout(LIMIT, seen)
        .await
        .context("not all pods got there in time")???;
    let taken = begun.elapsed();
    let mut waits: Vec<Duration> = made
        .iter()
        .filter_map(|(name, made)| Some(bound.get(name)?.saturating_duration_since(*made)))
        .collect();
    waits.sort();
    ensure!(
        waits.len() == pods,
        "{} of {pods} pods got there",
        waits.len()
    );
    Ok(Storm {
        bound_a_second: pods as f64 / taken.as_secs_f64(),
        median_wait: waits[pods / 2],
    })
}

fn is_bound(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().map(|spec| &spec.node_name);
    node.is_some_and(Option::is_some)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    let mut conditions = conditions.flatten();
    conditions.any(|one| one.type_ == "Ready" && one.status == "True")
}

/// When each pod was first seen done.
async fn see_done(
    api: Api<Pod>,
    pods: usize,
    is_done: fn(&Pod) -> bool,
    ready: tokio::sync::oneshot::Sender<()>,
) -> Result<std::collections::HashMap<String, Instant>> {
    let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let mut ready = Some(ready);
    let mut bound = std::collections::HashMap::new();
    while bound.len() < pods {
        match events.next().await.context("the watch ended")?? {
            Event::InitDone => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(());
                }
            }
            Event::Apply(pod) if is_done(&pod) => {
                let name = pod.metadata.name.unwrap_or_default();
                bound.entry(name).or_insert_with(Instant::now);
            }
            _ => {}
        }
    }
    Ok(bound)
}

/// A small pod; one that wants to be apart wants it of as many others as half the nodes.
fn pod(number: usize, nodes: usize, want: Want) -> Result<Pod> {
    let group = format!("group-{}", number / (nodes / 2));
    let mut spec = json!({"containers": [{"name": "main", "image": "app",
        "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]});
    if matches!(want, Want::Apart) {
        let selector: Value = json!({"matchLabels": {"group": group}});
        spec["affinity"] = decisions::apart(&selector);
    }
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{number}"), "labels": {"group": group}},
        "spec": spec,
    }))?)
}

/// Takes all pods and their events away.
async fn clear(client: &Client) -> Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let at_once = DeleteParams::default().grace_period(0);
    api.delete_collection(&at_once, &ListParams::default())
        .await
        .context("deleting the pods")?;
    let deadline = Instant::now() + LIMIT;
    while !api
        .list(&ListParams::default().limit(1))
        .await?
        .items
        .is_empty()
    {
        ensure!(Instant::now() < deadline, "the pods of a round stay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What is still written about them is no part of the next round.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}
