//! `berth cri` beside containerd: pods, containers, lists and execs over the CRI.
//!
//! Each daemon has a throw-away host with a registry, asks no more of the
//! machine than its defaults, and is asked the same by the same client. What is
//! timed is the call as a kubelet sees it, on a socket that stays open.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::measure::{Times, rounds};
use crate::report::{Section, in_milliseconds};
use daemons::Daemon;
use node::{Node, Steps};

/// critest's own benchmarks.
mod critest;
/// What is started, and how.
mod daemons;
/// Lists and execs in great numbers.
mod load;
/// What the daemons and their helpers take while pods idle.
mod memory;
/// A client of one daemon.
mod node;

/// Pods, one after the other.
const ROUNDS: usize = 20;
/// Rounds of many pods at once.
const CROWD_ROUNDS: usize = 5;
/// Pods of a round.
const CROWD: usize = 20;
/// The row that ratios are told against.
const REFERENCE: &str = "containerd with runc";

/// Measures every daemon that is here.
///
/// # Errors
///
/// Ours could not be measured, or nobody to compare it with is here.
pub fn run(section: &mut Section) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut nodes = Vec::new();
    let mut versions = Vec::new();
    for daemon in Daemon::ALL {
        let started = runtime.block_on(Node::start(daemon));
        match started.with_context(|| format!("starting {}", daemon.name())) {
            Ok(node) => {
                versions.push(format!("{}: {}", daemon.name(), daemon.version()));
                nodes.push(node);
            }
            Err(error) if daemon.is_ours() => return Err(error),
            Err(error) => section.say(format!("{} is not measured: {error:#}.", daemon.name())),
        }
    }
    section.say(format!("{}.", versions.join("; ")));
    critest::benchmarks(section, &nodes)?;
    runtime.block_on(async {
        one_by_one(section, &nodes).await?;
        crowds(section, &nodes).await?;
        load::execs(section, &nodes).await?;
        load::lists(section, &nodes).await?;
        memory::of_idle_pods(section, &nodes).await
    })?;
    nodes.into_iter().try_for_each(Node::end)
}

async fn one_by_one(section: &mut Section, nodes: &[Node]) -> Result<()> {
    let mut found: Vec<Vec<Steps>> = nodes.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds(ROUNDS) {
        for (node, found) in nodes.iter().zip(&mut found) {
            let steps = node.one_pod(&format!("one-{round}")).await?;
            // The first round fills caches and is nobody's measure.
            if round > 0 {
                found.push(steps);
            }
        }
    }
    let running = columns(nodes, &found, Steps::until_running);
    section.table("RunPodSandbox to a running container", &running, REFERENCE);
    let rows = nodes.iter().zip(&found).map(|(node, found)| {
        let mut row = vec![node.name().to_owned()];
        row.extend(Steps::EACH.map(|(_, step)| {
            let times = found.iter().map(step).collect();
            in_milliseconds(Times::of(node.name(), times).median())
        }));
        row
    });
    section.rows(
        "Call by call, medians",
        &Steps::EACH.map(|(name, _)| name),
        rows.collect(),
    );
    Ok(())
}

fn columns(nodes: &[Node], found: &[Vec<Steps>], figure: fn(&Steps) -> Duration) -> Vec<Times> {
    let pairs = nodes.iter().zip(found);
    pairs
        .map(|(node, found)| Times::of(node.name(), found.iter().map(figure).collect()))
        .collect()
}

async fn crowds(section: &mut Section, nodes: &[Node]) -> Result<()> {
    let mut each: Vec<Vec<Duration>> = nodes.iter().map(|_| Vec::new()).collect();
    let mut all: Vec<Vec<Duration>> = nodes.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds(CROWD_ROUNDS) {
        for (index, node) in nodes.iter().enumerate() {
            let crowd = node.crowd(&format!("crowd-{round}"), CROWD).await?;
            if round > 0 {
                each[index].extend(crowd.each);
                all[index].push(crowd.all);
            }
        }
    }
    let times = |found: Vec<Vec<Duration>>| -> Vec<Times> {
        let pairs = nodes.iter().zip(found);
        pairs
            .map(|(node, found)| Times::of(node.name(), found))
            .collect()
    };
    section.table(
        &format!("The same for each of {CROWD} pods that are asked for at once"),
        &times(each),
        REFERENCE,
    );
    section.table(&format!("Until all {CROWD} run"), &times(all), REFERENCE);
    Ok(())
}
