//! critest's own benchmarks, asked of every daemon in turn.
//!
//! They time each call of pods', containers' and images' lives as critest's clients see it,
//! and write the times as JSON into a directory (cri-tools, `docs/benchmark.md`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::critest::named;
use serde::Deserialize;

use super::REFERENCE;
use super::node::Node;
use crate::measure::{Times, rounds};
use crate::report::{Section, in_milliseconds, ratio};

/// Each daemon has as many turns,
const TURNS: usize = 3;
/// and in each as many lives of a pod, of a container and of an image are timed.
const LIVES: usize = 10;
/// What critest writes, in the table's order.
const FILES: [&str; 4] = [
    "pod_benchmark_data.json",
    "container_benchmark_data.json",
    "image_lifecycle_benchmark_data.json",
    "image_listing_benchmark_data.json",
];
/// The images that are pulled and listed, of the registry that all have a mirror of. critest
/// removes them, and containerd every other name of an image with one: so none is the containers'.
const IMAGES: [&str; 3] = ["httpd:2.4.39-4", "nginx:1.14-2", "nonewprivs:1.3"];

/// What critest measured of one kind of life.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    operations_names: Vec<String>,
    datapoints: Vec<Datapoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datapoint {
    operations_durations_ns: Vec<u64>,
}

impl Results {
    /// Each call's name and its times.
    fn times(self) -> Result<Vec<(String, Vec<Duration>)>> {
        let Results {
            operations_names,
            datapoints,
        } = self;
        let named = operations_names.into_iter().enumerate();
        named
            .map(|(index, name)| {
                let times = datapoints.iter().map(|datapoint| {
                    let nanoseconds = datapoint.operations_durations_ns.get(index);
                    nanoseconds.map(|nanoseconds| Duration::from_nanos(*nanoseconds))
                });
                let times: Option<Vec<Duration>> = times.collect();
                let times = times.with_context(|| format!("{name} has no time"))?;
                Ok((name, times))
            })
            .collect()
    }
}

/// The calls' times of one daemon, by name.
type Found = BTreeMap<String, Vec<Duration>>;

/// Runs `critest -benchmark` where the variable `CRITEST` names it.
///
/// # Errors
///
/// critest fails, or writes something else.
pub fn benchmarks(section: &mut Section, nodes: &[Node]) -> Result<()> {
    let Some(program) = named("CRITEST") else {
        section.say("critest's own benchmarks were not run: `CRITEST` names no program.");
        return Ok(());
    };
    // The first turn pulls the images and is nobody's measure.
    let mut judged = Vec::new();
    for node in nodes {
        match one_turn(&program, node, 1) {
            Ok(_) => judged.push(node),
            Err(error) if node.is_ours() => return Err(error),
            Err(error) => {
                eprintln!("{error:#}");
                let name = node.name();
                section.say(format!("critest's benchmarks fail with {name} here."));
            }
        }
    }
    let nodes = judged;
    let mut order = Vec::new();
    let mut found: Vec<Found> = nodes.iter().map(|_| Found::new()).collect();
    for _ in 0..rounds(TURNS) {
        for (node, found) in nodes.iter().zip(&mut found) {
            for (name, times) in one_turn(&program, node, LIVES)? {
                if !order.contains(&name) {
                    order.push(name.clone());
                }
                found.entry(name).or_default().extend(times);
            }
        }
    }
    let columns: Vec<&str> = nodes.iter().map(|node| node.name()).collect();
    let reference = columns.iter().position(|name| *name == REFERENCE);
    let rows = order.iter().map(|operation| {
        let medians: Vec<Duration> = found
            .iter()
            .map(|found| Times::of("", found[operation].clone()).median())
            .collect();
        let reference = reference.map(|reference| medians[reference]);
        let mut row = vec![operation.clone(), ratio(medians[0], reference)];
        row.extend(medians.into_iter().map(in_milliseconds));
        row
    });
    let ratio = format!("{} to {REFERENCE}", columns[0]);
    let mut titles = vec![ratio.as_str()];
    titles.extend(&columns);
    let title = "`critest -benchmark`, medians";
    section.rows(title, &titles, rows.collect());
    Ok(())
}

/// One run of critest: each call's name and its times, in the table's order.
fn one_turn(program: &str, node: &Node, lives: usize) -> Result<Vec<(String, Vec<Duration>)>> {
    let folder = tempfile::tempdir()?;
    let parameters = folder.path().join("parameters.yaml");
    let images = IMAGES.map(|name| format!("registry.k8s.io/e2e-test-images/{name}"));
    let text = format!(
        "containersNumber: {lives}\npodsNumber: {lives}\nimagesNumber: {lives}\n\
         imagePullingBenchmarkImage: {}\nimageListingBenchmarkImages: [{}]\n",
        images[0],
        images.join(", ")
    );
    std::fs::write(&parameters, text)?;
    let endpoint = format!("unix://{}", node.socket().display());
    let output = node
        .host()
        .command(program)
        .args(["-benchmark", "-ginkgo.no-color"])
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .arg("-benchmarking-params-file")
        .arg(&parameters)
        .arg("-benchmarking-output-dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "critest -benchmark of {}: {said}",
        node.name()
    );
    let mut times = Vec::new();
    for name in FILES {
        let results = read_results(&folder.path().join(name)).context(said.clone())?;
        times.extend(results.times()?);
    }
    Ok(times)
}

fn read_results(path: &Path) -> Result<Results> {
    let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    Ok(serde_json::from_slice(&bytes)?)
}
