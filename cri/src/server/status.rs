//! Who we are and whether pods can be run.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;

use super::CriServer;
use crate::engine::cgroups::Driver;
use crate::v1;

/// The version of the messages; a kubelet accepts this one only.
const API_VERSION: &str = "v1";
/// What a kubelet's own version field must be.
const KUBELET_API_VERSION: &str = "0.1.0";

/// A kubelet asks every few seconds and waits.
const NETWORK_PATIENCE: Duration = Duration::from_secs(10);

/// Names and versions. A kubelet refuses a runtime that leaves one out.
pub(super) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "berth".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: API_VERSION.to_owned(),
    }
}

/// The two conditions that a kubelet waits for, and what pods may ask for.
pub(super) async fn status(server: &CriServer, verbose: bool) -> v1::StatusResponse {
    let network = network_trouble(server).await;
    let conditions = vec![
        condition("RuntimeReady", "RuntimeNotReady", runtime_trouble(server)),
        condition("NetworkReady", "NetworkNotReady", network),
    ];
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info: match verbose {
            true => info(server),
            false => HashMap::new(),
        },
        runtime_handlers: server.handler_list(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: true,
            mount_options: false,
        }),
    }
}

/// Who makes groups; a kubelet does as we do.
pub(super) fn runtime_config(driver: Driver) -> v1::RuntimeConfigResponse {
    let driver = match driver {
        Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        Driver::Systemd => v1::CgroupDriver::Systemd,
    };
    v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration {
            cgroup_driver: driver as i32,
        }),
    }
}

fn condition(kind: &str, reason: &str, trouble: Option<String>) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: trouble.is_none(),
        reason: trouble
            .as_ref()
            .map(|_| reason.to_owned())
            .unwrap_or_default(),
        message: trouble.unwrap_or_default(),
    }
}

/// What would keep every pod from being made.
fn runtime_trouble(server: &CriServer) -> Option<String> {
    let config = server.engine.config();
    let default = match server.engine.runtimes().choose("", &config.oci_runtime) {
        Ok(chosen) => chosen.runtime.program,
        Err(error) => return Some(error.chain()),
    };
    // The monitor is berth-oci's, whatever makes the containers.
    for program in [&config.oci_runtime, &default] {
        match std::fs::metadata(program) {
            Err(error) => return Some(format!("{}: {error}", program.display())),
            Ok(file) if file.permissions().mode() & 0o111 == 0 => {
                return Some(format!("{}: cannot be executed", program.display()));
            }
            Ok(_) => {}
        }
    }
    for folder in [&config.run_dir, &config.data_dir] {
        if let Err(errno) = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
            return Some(format!("{}: {errno}", folder.display()));
        }
    }
    None
}

/// What would keep every pod from getting a network.
async fn network_trouble(server: &CriServer) -> Option<String> {
    let ready = server.engine.network_ready();
    match tokio::time::timeout(NETWORK_PATIENCE, ready).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.chain()),
        Err(_) => Some(format!(
            "there was no answer within {} seconds",
            NETWORK_PATIENCE.as_secs()
        )),
    }
}

/// What an operator asks for with `crictl info`.
fn info(server: &CriServer) -> HashMap<String, String> {
    let config = server.engine.config();
    let netd = server.engine.netd();
    let subnets: Vec<String> = netd
        .config()
        .subnets
        .iter()
        .map(ToString::to_string)
        .collect();
    let runtimes = server.engine.runtimes();
    let programs: HashMap<_, _> = runtimes
        .named
        .iter()
        .map(|(name, runtime)| (name.clone(), runtime.program.display().to_string()))
        .collect();
    let shown = json!({
        "runDir": config.run_dir,
        "dataDir": config.data_dir,
        "ociRuntime": config.oci_runtime,
        "runtimes": programs,
        "defaultHandler": runtimes.default_handler,
        "cgroupDriver": match config.cgroup_driver {
            Driver::Cgroupfs => "cgroupfs",
            Driver::Systemd => "systemd",
        },
        "cgroupParent": config.cgroup_parent,
        "podSubnets": subnets,
    });
    let mut told = HashMap::from([("config".to_owned(), shown.to_string())]);
    if server.engine.cni().is_chosen() {
        told.insert("cni".to_owned(), server.engine.network_info().to_string());
    }
    told
}
