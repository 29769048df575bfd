//! `berth info`: where berth keeps things, and what this machine offers it.

use berth_cri::engine::Engine;
use berth_runtime::cgroup::tree::{CgroupVersion, Hierarchy, observe_tree};
use serde_json::json;

use crate::amounts::write_size;
use crate::error::{Context, Result};
use crate::objects::observe_pods;
use crate::output::{Format, print_line, print_value};
use crate::settings::Settings;
use crate::workers::{WorkerFiles, list_workers};

/// Prints it.
///
/// # Errors
///
/// The node does not answer.
pub async fn run(settings: &Settings, engine: &Engine) -> Result<u8> {
    let pods = observe_pods(engine).await?;
    let images = engine.images().list().context("list images")?;
    let mut unattended = Vec::new();
    for pod in pods.iter().filter(|pod| pod.is_up()) {
        let files = WorkerFiles::new(&settings.workers_dir(), pod.namespace(), pod.name());
        if files.worker().is_none() {
            unattended.push(pod.title());
        }
    }
    let workers = list_workers(&settings.workers_dir())?.len();
    let uname = rustix::system::uname();
    let bytes: u64 = images.iter().map(|image| image.size_bytes).sum();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": uname.release().to_string_lossy(),
        "machine": uname.machine().to_string_lossy(),
        "runDir": settings.run_dir,
        "dataDir": settings.data_dir,
        "cgroupParent": settings.cgroup_parent,
        "pods": pods.len(),
        "podsUp": pods.iter().filter(|pod| pod.is_up()).count(),
        "podsUnattended": unattended,
        "podsWithFiles": workers,
        "images": images.len(),
        "imageBytes": bytes,
        "seccomp": std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        "cgroups": cgroup_layout(),
    });
    match settings.format {
        Format::Json | Format::Yaml => print_value(settings.format, &value)?,
        _ => {
            let text = |name: &str| match &value[name] {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            print_line(&format!("berth         {}", text("version")))?;
            print_line(&format!(
                "kernel        {} {}",
                text("kernel"),
                text("machine")
            ))?;
            print_line(&format!(
                "cgroups       {}, below {}",
                text("cgroups"),
                text("cgroupParent")
            ))?;
            print_line(&format!("run dir       {}", text("runDir")))?;
            print_line(&format!("data dir      {}", text("dataDir")))?;
            print_line(&format!(
                "pods          {}, {} up",
                text("pods"),
                text("podsUp")
            ))?;
            if !unattended.is_empty() {
                print_line(&format!("unattended    {}", unattended.join(", ")))?;
            }
            print_line(&format!(
                "images        {}, {}",
                text("images"),
                write_size(bytes)
            ))?;
        }
    }
    Ok(0)
}

fn cgroup_layout() -> String {
    let tree = match observe_tree() {
        Ok(tree) => tree,
        Err(error) => return format!("unreadable: {error}"),
    };
    let is_v2 = |hierarchy: &Hierarchy| hierarchy.version == CgroupVersion::V2;
    let with_v1 = tree.hierarchies.iter().any(|hierarchy| !is_v2(hierarchy));
    match (with_v1, tree.hierarchies.iter().any(is_v2)) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
    .to_owned()
}
