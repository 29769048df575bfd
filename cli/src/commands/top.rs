//! `berth top`: the processes of containers, as the host sees them.

use berth_cri::engine::Engine;
use berth_cri::v1;
use clap::Args;
use serde_json::{Value, json};

use crate::amounts::write_size;
use crate::error::{Context, Result};
use crate::objects::{container_name, find_container, find_pod, match_pods, observe_pods};
use crate::output::{Rows, print_list};
use crate::settings::Settings;

/// `berth top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// A pod, POD/CONTAINER, or the beginning of a container's id
    pub target: String,
    /// One container of several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

/// Prints the processes.
///
/// # Errors
///
/// No such container.
pub async fn run(settings: &Settings, engine: &Engine, arguments: &TopArguments) -> Result<u8> {
    let pods = observe_pods(engine).await?;
    let whole_pod =
        arguments.container.is_none() && !match_pods(&pods, &arguments.target).is_empty();
    let containers: Vec<&v1::ContainerStatus> = if whole_pod {
        find_pod(&pods, &arguments.target)?.latest()
    } else {
        let container = arguments.container.as_deref();
        vec![find_container(&pods, &arguments.target, container)?.container]
    };
    let mut values = Vec::new();
    let mut rows = Vec::new();
    for container in containers {
        if container.state() != v1::ContainerState::ContainerRunning {
            continue;
        }
        let name = container_name(container);
        let processes = engine
            .processes(&container.id)
            .await
            .context(format!("read the processes of {name}"))?;
        for process in processes {
            rows.push(vec![
                name.to_owned(),
                process.pid.to_string(),
                process.container_pid.to_string(),
                process.uid.to_string(),
                process.state.to_string(),
                write_size(process.rss_bytes),
                process.command.clone(),
            ]);
            values.push(json!({
                "container": name,
                "pid": process.pid,
                "containerPid": process.container_pid,
                "uid": process.uid,
                "state": process.state.to_string(),
                "residentBytes": process.rss_bytes,
                "threads": process.threads,
                "cpuSeconds": process.cpu.as_secs_f64(),
                "command": process.command,
            }));
        }
    }
    let pid = |value: &Value| value["pid"].to_string();
    print_list(settings.format, &values, pid, || Rows {
        heads: vec![
            "CONTAINER",
            "PID",
            "PID INSIDE",
            "UID",
            "STATE",
            "MEMORY",
            "COMMAND",
        ],
        wide_columns: 0,
        rows,
    })?;
    Ok(0)
}
