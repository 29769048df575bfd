//! Lists of many containers, and many execs a second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;

use super::node::Node;
use crate::measure::{few_rounds, rounds};
use crate::report::{Section, in_milliseconds};

/// Pods whose containers are listed.
const PODS: usize = 20;
/// Containers in each.
const CONTAINERS: usize = 50;
/// Lists that are asked for, one after the other.
const LISTS: usize = 200;

/// Execs a second.
const RATE: u32 = 200;
/// For so many seconds.
const SECONDS: u32 = 3;

/// `ListContainers` where there are a thousand.
///
/// # Errors
///
/// A daemon refuses a call or leaves a container out.
pub async fn lists(section: &mut Section, nodes: &[Node]) -> Result<()> {
    let each = few_rounds().map_or(CONTAINERS, |few| few.clamp(1, CONTAINERS));
    let mut pods = Vec::new();
    for node in nodes {
        let made = (0..PODS).map(|number| async move {
            let name = format!("listed-{number}");
            let pod = node.run_pod(&name).await?;
            for container in 0..each {
                node.create(&pod, &name, &format!("c{container}")).await?;
            }
            Ok::<_, anyhow::Error>(pod)
        });
        pods.push(futures::future::try_join_all(made).await?);
    }
    let mut found: Vec<Vec<Duration>> = nodes.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds(LISTS) {
        for (node, found) in nodes.iter().zip(&mut found) {
            let mut client = node.client();
            let begin = Instant::now();
            let reply = client
                .list_containers(v1::ListContainersRequest::default())
                .await?;
            found.push(begin.elapsed());
            let count = reply.into_inner().containers.len();
            ensure!(count == PODS * each, "{} lists {count}", node.name());
        }
    }
    for (node, pods) in nodes.iter().zip(&pods) {
        let gone = pods.iter().map(|pod| node.remove_pod(pod));
        futures::future::try_join_all(gone).await?;
    }
    let rows = nodes.iter().zip(found).map(|(node, found)| {
        let mut row = vec![node.name().to_owned()];
        row.extend(Percentiles::of(found).words());
        row
    });
    section.rows(
        &format!("ListContainers of {} containers", PODS * each),
        &Percentiles::NAMES,
        rows.collect(),
    );
    Ok(())
}

/// `ExecSync` of `true` at a steady rate. A daemon that falls behind is not
/// waited for: each exec's time runs from the moment at which it was due.
///
/// # Errors
///
/// A daemon refuses a call.
pub async fn execs(section: &mut Section, nodes: &[Node]) -> Result<()> {
    let count = few_rounds().map_or(RATE * SECONDS, |_| RATE);
    let mut rows = Vec::new();
    for node in nodes {
        let pod = node.run_pod("execs").await?;
        let id = node.create(&pod, "execs", "main").await?;
        node.start_container(&id).await?;
        exec(node, &id).await?;
        let begin = Instant::now();
        let waits = (0..count).map(|number| {
            let id = &id;
            async move {
                let due = begin + Duration::from_secs(1) / RATE * number;
                tokio::time::sleep_until(due.into()).await;
                exec(node, id).await?;
                Ok::<_, anyhow::Error>(due.elapsed())
            }
        });
        let found = futures::future::try_join_all(waits).await?;
        let taken = begin.elapsed();
        node.remove_pod(&pod).await?;
        let mut row = vec![node.name().to_owned()];
        row.push(format!("{:.0}", f64::from(count) / taken.as_secs_f64()));
        row.extend(Percentiles::of(found).words());
        rows.push(row);
    }
    let mut columns = vec!["done a second"];
    columns.extend(Percentiles::NAMES);
    section.rows(
        &format!("{count} × ExecSync of `true`, {RATE} asked for a second"),
        &columns,
        rows,
    );
    Ok(())
}

async fn exec(node: &Node, id: &str) -> Result<()> {
    let request = v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: vec!["true".to_owned()],
        timeout: 60,
    };
    let reply = node.client().exec_sync(request).await;
    let reply = reply.with_context(|| format!("exec by {}", node.name()))?;
    let code = reply.into_inner().exit_code;
    ensure!(code == 0, "{}: true ended with {code}", node.name());
    Ok(())
}

/// The middle, the tail and the worst of some times.
struct Percentiles {
    median: Duration,
    tail: Duration,
    worst: Duration,
}

impl Percentiles {
    const NAMES: [&'static str; 3] = ["median", "p99", "max"];

    fn of(mut times: Vec<Duration>) -> Percentiles {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        Percentiles {
            median: at(50),
            tail: at(99),
            worst: at(100),
        }
    }

    fn words(&self) -> [String; 3] {
        [self.median, self.tail, self.worst].map(in_milliseconds)
    }
}
