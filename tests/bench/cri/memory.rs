//! What the daemons and their helpers take while pods idle.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::host::Host;
use berth_tests::sweep;

use super::REFERENCE;
use super::node::Node;
use crate::measure::few_rounds;
use crate::report::Section;

/// Pods of one container.
const PODS: usize = 50;
/// Until buffers of the start have been given back.
const SETTLE: Duration = Duration::from_secs(5);
/// Programs that are not the runtime's: the containers' own, and the harness'.
const OTHERS: [&str; 4] = ["sleep", "docker-registry", "registry", "sh"];

/// PSS of all that runs for the pods, the containers left out.
///
/// # Errors
///
/// A daemon refuses a pod, or `/proc` cannot be read.
pub async fn of_idle_pods(section: &mut Section, nodes: &[Node]) -> Result<()> {
    let count = few_rounds().map_or(PODS, |few| few.clamp(1, PODS));
    let mut found = Vec::new();
    for node in nodes {
        let mut pods = Vec::new();
        for number in 0..count {
            let name = format!("idle-{number}");
            let pod = node.run_pod(&name).await?;
            let id = node.create(&pod, &name, "main").await?;
            node.start_container(&id).await?;
            pods.push((pod, id));
        }
        tokio::time::sleep(SETTLE).await;
        found.push(Taken::by(node.host(), count)?);
        for (pod, id) in pods {
            node.kill_container(&id).await?;
            node.remove_pod(&pod).await?;
        }
    }
    let reference = nodes.iter().position(|node| node.name() == REFERENCE);
    let reference = reference.map(|index| found[index].total());
    let rows = nodes.iter().zip(&found).map(|(node, taken)| {
        let ratio = reference.map_or_else(
            || "–".to_owned(),
            |reference| format!("{:.2}", taken.total() as f64 / reference as f64),
        );
        vec![
            node.name().to_owned(),
            mebibytes(taken.total()),
            mebibytes(taken.total() / count as u64),
            ratio,
            format!("{}", taken.processes),
            mebibytes(taken.pauses),
        ]
    });
    section.rows(
        &format!("Memory (PSS) for {count} idle pods of one container"),
        &[
            "daemon and its helpers",
            "a pod",
            &format!("ratio to {REFERENCE}"),
            "processes",
            "pause containers beside it",
        ],
        rows.collect(),
    );
    Ok(())
}

/// In KiB.
struct Taken {
    helpers: u64,
    pauses: u64,
    processes: usize,
}

impl Taken {
    fn by(host: &Host, pods: usize) -> Result<Taken> {
        let mut taken = Taken {
            helpers: 0,
            pauses: 0,
            processes: 0,
        };
        for line in sweep::processes(host)? {
            let (pid, rest) = line.split_once(' ').context("a line has a number")?;
            let (name, _) = rest.split_once(':').context("a line has a name")?;
            if OTHERS.contains(&name) {
                continue;
            }
            let share = proportional(pid)?;
            if name == "pause" {
                taken.pauses += share;
            } else {
                taken.helpers += share;
                taken.processes += 1;
            }
        }
        anyhow::ensure!(
            taken.processes > pods,
            "{} processes cannot keep {pods} pods",
            taken.processes
        );
        Ok(taken)
    }

    fn total(&self) -> u64 {
        self.helpers
    }
}

/// A process's share of its memory, in KiB (`proc_pid_smaps(5)`).
fn proportional(pid: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.context("smaps_rollup has a Pss")?.parse()?)
}

fn mebibytes(kibibytes: u64) -> String {
    format!("{:.2} MiB", kibibytes as f64 / 1024.0)
}
