//! `berth stats`: what containers use, now.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use berth_cri::service::CriService;
use berth_cri::v1;
use clap::Args;
use serde_json::{Value, json};

use crate::amounts::{read_seconds, write_size};
use crate::error::{Context, Result};
use crate::objects::{
    FoundPod, container_name, find_container, find_pod, match_pods, observe_pods,
};
use crate::output::{Format, Rows, print_list};
use crate::settings::Settings;

/// `berth stats`.
#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Pods or containers; all that run without
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Print once and end
    #[arg(long)]
    pub no_stream: bool,
    /// Between two looks
    #[arg(long, value_parser = read_seconds, value_name = "TIME", default_value = "2s")]
    pub interval: Duration,
}

/// One container at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sample {
    pod: String,
    name: String,
    id: String,
    /// Nanoseconds since the epoch.
    at: i64,
    /// Of all processors together, in nanoseconds.
    cpu_nanoseconds: u64,
    memory_bytes: u64,
    memory_limit_bytes: Option<u64>,
    disk_bytes: u64,
    received_bytes: u64,
    sent_bytes: u64,
    processes: u64,
}

/// Prints what is used, again and again, in place when a person reads.
///
/// # Errors
///
/// A name means nothing, or the node does not answer.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &StatsArguments,
) -> Result<u8> {
    // A rate needs two looks; the first is soon followed by another.
    let mut before = sample(service, arguments).await?;
    let once = arguments.no_stream || settings.format != Format::Table;
    let in_place = !once && std::io::stdout().is_terminal();
    let mut pause = Duration::from_millis(500).min(arguments.interval);
    loop {
        tokio::time::sleep(pause).await;
        pause = arguments.interval;
        let now = sample(service, arguments).await?;
        if in_place {
            // Home, and clear what is below: the table stays where it is.
            let mut stdout = std::io::stdout().lock();
            write!(stdout, "\x1b[H\x1b[J").context("write to standard output")?;
        }
        print_samples(settings.format, &before, &now)?;
        if once {
            return Ok(0);
        }
        before = now;
    }
}

async fn sample(
    service: &dyn CriService,
    arguments: &StatsArguments,
) -> Result<BTreeMap<String, Sample>> {
    let pods = observe_pods(service).await?;
    let running = v1::ContainerState::ContainerRunning;
    let mut samples = BTreeMap::new();
    for (pod, container) in select(&pods, &arguments.names)? {
        if container.state() != running {
            continue;
        }
        let request = v1::ContainerStatsRequest {
            container_id: container.id.clone(),
        };
        let stats = match service.container_stats(request).await {
            Ok(answer) => answer.stats.unwrap_or_default(),
            Err(status) if status.code() == tonic::Code::NotFound => continue,
            Err(status) => {
                return Err(status).context(format!("read statistics of {}", container.id));
            }
        };
        let whole_pod = pod_stats(service, pod).await?;
        samples.insert(
            container.id.clone(),
            read_sample(pod, container, &stats, &whole_pod),
        );
    }
    Ok(samples)
}

fn select<'a>(
    pods: &'a [FoundPod],
    names: &[String],
) -> Result<Vec<(&'a FoundPod, &'a v1::ContainerStatus)>> {
    let whole = |pod: &'a FoundPod| pod.latest().into_iter().map(move |last| (pod, last));
    if names.is_empty() {
        return Ok(pods.iter().flat_map(whole).collect());
    }
    let mut selected = Vec::new();
    for name in names {
        if match_pods(pods, name).is_empty() {
            let found = find_container(pods, name, None)?;
            selected.push((found.pod, found.container));
        } else {
            selected.extend(whole(find_pod(pods, name)?));
        }
    }
    Ok(selected)
}

async fn pod_stats(service: &dyn CriService, pod: &FoundPod) -> Result<v1::LinuxPodSandboxStats> {
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: pod.sandbox.id.clone(),
    };
    match service.pod_sandbox_stats(request).await {
        Ok(answer) => Ok(answer
            .stats
            .and_then(|stats| stats.linux)
            .unwrap_or_default()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(Default::default()),
        Err(status) => Err(status).context(format!("read statistics of pod {}", pod.title())),
    }
}

fn read_sample(
    pod: &FoundPod,
    container: &v1::ContainerStatus,
    stats: &v1::ContainerStats,
    whole_pod: &v1::LinuxPodSandboxStats,
) -> Sample {
    let number = |value: &Option<v1::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let network = whole_pod
        .network
        .as_ref()
        .and_then(|network| network.default_interface.clone());
    let network = network.unwrap_or_default();
    let used = number(&memory.working_set_bytes);
    Sample {
        pod: pod.title(),
        name: container_name(container).to_owned(),
        id: container.id.clone(),
        at: cpu.timestamp,
        cpu_nanoseconds: number(&cpu.usage_core_nano_seconds),
        memory_bytes: used,
        // The CRI tells what is left of the limit, and nothing where there is none.
        memory_limit_bytes: memory
            .available_bytes
            .as_ref()
            .map(|available| available.value.saturating_add(used)),
        disk_bytes: stats
            .writable_layer
            .as_ref()
            .map_or(0, |layer| number(&layer.used_bytes)),
        received_bytes: number(&network.rx_bytes),
        sent_bytes: number(&network.tx_bytes),
        processes: whole_pod
            .process
            .as_ref()
            .map_or(0, |process| number(&process.process_count)),
    }
}

/// Hundredths of one processor's time.
fn cpu_percent(before: Option<&Sample>, now: &Sample) -> f64 {
    let Some(before) = before.filter(|before| before.at < now.at) else {
        return 0.0;
    };
    let used = now.cpu_nanoseconds.saturating_sub(before.cpu_nanoseconds);
    100.0 * used as f64 / (now.at - before.at) as f64
}

fn print_samples(
    format: Format,
    before: &BTreeMap<String, Sample>,
    now: &BTreeMap<String, Sample>,
) -> Result<()> {
    let mut samples: Vec<&Sample> = now.values().collect();
    samples.sort_by_key(|sample| (&sample.pod, &sample.name));
    let values: Vec<Value> = samples
        .iter()
        .map(|sample| {
            json!({
                "pod": sample.pod,
                "container": sample.name,
                "id": sample.id,
                "cpuPercent": cpu_percent(before.get(&sample.id), sample),
                "cpuNanoseconds": sample.cpu_nanoseconds,
                "memoryBytes": sample.memory_bytes,
                "memoryLimitBytes": sample.memory_limit_bytes,
                "diskBytes": sample.disk_bytes,
                "podReceivedBytes": sample.received_bytes,
                "podSentBytes": sample.sent_bytes,
                "podProcesses": sample.processes,
            })
        })
        .collect();
    let name = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
    print_list(format, &values, name, || Rows {
        heads: vec![
            "POD",
            "CONTAINER",
            "CPU",
            "MEMORY",
            "LIMIT",
            "DISK",
            "POD NET IN",
            "POD NET OUT",
            "POD PROCESSES",
        ],
        wide_columns: 0,
        rows: samples
            .iter()
            .map(|sample| {
                vec![
                    sample.pod.clone(),
                    sample.name.clone(),
                    format!("{:.2}%", cpu_percent(before.get(&sample.id), sample)),
                    write_size(sample.memory_bytes),
                    sample.memory_limit_bytes.map_or("-".to_owned(), write_size),
                    write_size(sample.disk_bytes),
                    write_size(sample.received_bytes),
                    write_size(sample.sent_bytes),
                    sample.processes.to_string(),
                ]
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_a_rate_between_two_looks() {
        let sample = |at, cpu_nanoseconds| Sample {
            at,
            cpu_nanoseconds,
            ..Sample::default()
        };
        assert_eq!(cpu_percent(Some(&sample(0, 0)), &sample(1000, 500)), 50.0);
        assert_eq!(cpu_percent(Some(&sample(0, 700)), &sample(1000, 500)), 0.0);
        assert_eq!(cpu_percent(Some(&sample(5, 0)), &sample(5, 500)), 0.0);
        assert_eq!(cpu_percent(None, &sample(5, 500)), 0.0);
    }
}
