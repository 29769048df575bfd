//! Reading and judging `monitor.json`, before anything is made.

use std::path::Path;

use super::failure::{Context as _, MonitorError, named};
use super::protocol::{CONFIG_NAME, MonitorConfig, PodNamespace};
use crate::plan::mappings::{Mappings, check_ranges};

/// Reads the configuration of the pod in `pod_dir`.
///
/// # Errors
///
/// When the file cannot be read or parsed, or when a field asks for what the
/// monitor must not do, such as a sysctl that would change the host.
pub fn read_configuration(pod_dir: &Path) -> Result<MonitorConfig, MonitorError> {
    let path = pod_dir.join(CONFIG_NAME);
    let text = std::fs::read(&path).during(|| named("read", &path))?;
    let config =
        serde_json::from_slice(&text).map_err(|source| MonitorError::Syntax { path, source })?;
    check(&config)?;
    Ok(config)
}

/// Whether every field can be honoured. Pure.
fn check(config: &MonitorConfig) -> Result<(), MonitorError> {
    if config.pod_id.is_empty() {
        return Err(refused("pod_id", "a name", "nothing"));
    }
    if config.oci_runtime.as_os_str().is_empty() {
        return Err(refused(
            "oci_runtime",
            "a program's path or name",
            "nothing",
        ));
    }
    if !config.oci_root.is_absolute() {
        // The monitor's working directory is not its starter's.
        let found = config.oci_root.display().to_string();
        return Err(refused("oci_root", "an absolute path", &found));
    }
    for (place, namespace) in config.namespaces.iter().enumerate() {
        if config.namespaces[..place].contains(namespace) {
            let found = format!("{namespace:?} twice").to_lowercase();
            return Err(refused("namespaces", "each namespace once", &found));
        }
    }
    check_mappings(config)?;
    if let Some(hostname) = &config.hostname {
        check_hostname(hostname, &config.namespaces)?;
    }
    if let Some(cgroup) = &config.cgroup {
        check_cgroup(cgroup)?;
    }
    for name in config.sysctls.keys() {
        check_sysctl(name, &config.namespaces)?;
    }
    Ok(())
}

fn check_hostname(hostname: &str, namespaces: &[PodNamespace]) -> Result<(), MonitorError> {
    if !namespaces.contains(&PodNamespace::Uts) {
        let expected = "no hostname while uts is not among namespaces (it would be the host's)";
        return Err(refused("hostname", expected, hostname));
    }
    // __NEW_UTS_LEN of the kernel.
    if hostname.is_empty() || hostname.len() > 64 || hostname.contains('\0') {
        return Err(refused("hostname", "1 to 64 bytes", hostname));
    }
    Ok(())
}

/// A user namespace without maps has no root; maps without one would map nothing.
fn check_mappings(config: &MonitorConfig) -> Result<(), MonitorError> {
    let has_user = config.namespaces.contains(&PodNamespace::User);
    match (&config.id_mappings, has_user) {
        (None, false) => Ok(()),
        (Some(mappings), true) => check_maps(mappings),
        (None, true) => {
            let expected = "maps, for user is among namespaces";
            Err(refused("id_mappings", expected, "nothing"))
        }
        (Some(_), false) => {
            let expected = "nothing while user is not among namespaces";
            Err(refused("id_mappings", expected, "maps"))
        }
    }
}

fn check_maps(mappings: &Mappings) -> Result<(), MonitorError> {
    for (name, ranges) in [("uids", &mappings.uids), ("gids", &mappings.gids)] {
        let field = format!("id_mappings.{name}");
        if ranges.is_empty() {
            return Err(refused(&field, "at least one range", "none"));
        }
        check_ranges(&field, ranges).map_err(|error| {
            let expected = "ranges that the kernel takes";
            refused(error.field(), expected, error.reason())
        })?;
    }
    Ok(())
}

fn check_cgroup(cgroup: &str) -> Result<(), MonitorError> {
    let below_root = cgroup.starts_with('/') && !cgroup.trim_matches('/').is_empty();
    let climbs = cgroup.split('/').any(|part| part == ".." || part == ".");
    if !below_root || climbs || cgroup.contains('\0') {
        let expected = "an absolute path below a hierarchy's root, without . and ..";
        return Err(refused("cgroup", expected, cgroup));
    }
    Ok(())
}

/// A sysctl that belongs to no namespace of the pod would change the host.
fn check_sysctl(name: &str, namespaces: &[PodNamespace]) -> Result<(), MonitorError> {
    let field = format!("sysctls[{name:?}]");
    let plain = name.replace('/', ".");
    if name.contains('\0') || plain.split('.').any(str::is_empty) {
        return Err(refused(&field, "words joined by dots", name));
    }
    let Some(owner) = sysctl_namespace(&plain) else {
        let expected = "a name below net. or fs.mqueue., kernel.domainname, \
                        or one of kernel.{msg*,sem*,shm*,auto_msgmni}; others are the host's";
        return Err(refused(&field, expected, name));
    };
    if !namespaces.contains(&owner) {
        let expected = "a namespace of the pod that the value belongs to";
        let found = format!("{owner:?} is not among namespaces").to_lowercase();
        return Err(refused(&field, expected, &found));
    }
    Ok(())
}

/// Which namespace keeps a sysctl, as `sysctl(5)` and the kernel's
/// `ipc/ipc_sysctl.c` have it.
fn sysctl_namespace(name: &str) -> Option<PodNamespace> {
    if name.starts_with("net.") {
        return Some(PodNamespace::Net);
    }
    if name.starts_with("fs.mqueue.") {
        return Some(PodNamespace::Ipc);
    }
    match name.strip_prefix("kernel.")? {
        "domainname" => Some(PodNamespace::Uts),
        "auto_msgmni" | "msgmax" | "msgmnb" | "msgmni" | "msg_next_id" | "sem" | "sem_next_id"
        | "shmall" | "shmmax" | "shmmni" | "shm_next_id" | "shm_rmid_forced" => {
            Some(PodNamespace::Ipc)
        }
        _ => None,
    }
}

fn refused(field: &str, expected: &'static str, found: &str) -> MonitorError {
    MonitorError::Field {
        field: field.to_owned(),
        expected,
        found: found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MonitorConfig {
        MonitorConfig {
            pod_id: "pod".into(),
            hostname: Some("web".into()),
            namespaces: vec![PodNamespace::Net, PodNamespace::Ipc, PodNamespace::Uts],
            id_mappings: None,
            sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
            cgroup: Some("/berth/pod".into()),
            oci_runtime: "berth-oci".into(),
            oci_root: "/run/berth/oci".into(),
            oci_arguments: Vec::new(),
        }
    }

    fn complaint(change: impl FnOnce(&mut MonitorConfig)) -> String {
        let mut config = config();
        change(&mut config);
        check(&config).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_configuration_passes() {
        check(&config()).unwrap();
    }

    #[test]
    fn each_complaint_names_its_field() {
        type Change = fn(&mut MonitorConfig);
        let cases: [(&str, Change); 15] = [
            ("id_mappings", |c| c.namespaces.push(PodNamespace::User)),
            ("id_mappings", |c| c.id_mappings = Some(maps(1))),
            ("id_mappings.uids[0].size", |c| {
                c.namespaces.push(PodNamespace::User);
                c.id_mappings = Some(maps(0));
            }),
            ("id_mappings.gids", |c| {
                c.namespaces.push(PodNamespace::User);
                c.id_mappings = Some(Mappings {
                    gids: Vec::new(),
                    ..maps(1)
                });
            }),
            ("pod_id", |c| c.pod_id.clear()),
            ("oci_runtime", |c| c.oci_runtime = "".into()),
            ("oci_root", |c| c.oci_root = "run/oci".into()),
            ("namespaces", |c| c.namespaces.push(PodNamespace::Net)),
            ("hostname", |c| {
                c.namespaces.retain(|n| *n != PodNamespace::Uts)
            }),
            ("hostname", |c| c.hostname = Some("h".repeat(65))),
            ("cgroup", |c| c.cgroup = Some("/".into())),
            ("cgroup", |c| c.cgroup = Some("/berth/../x".into())),
            ("sysctls[\"vm.swappiness\"]", |c| {
                c.sysctls.insert("vm.swappiness".into(), "1".into());
            }),
            ("sysctls[\"net/../vm/swappiness\"]", |c| {
                c.sysctls.insert("net/../vm/swappiness".into(), "1".into());
            }),
            ("sysctls[\"net.ipv4.ip_forward\"]", |c| {
                c.namespaces.clear_keeping_uts()
            }),
        ];
        for (field, change) in cases {
            let text = complaint(change);
            assert!(text.starts_with(&format!("{field}: expected ")), "{text}");
        }
    }

    fn maps(count: u32) -> Mappings {
        let range = crate::plan::mappings::IdRange {
            inside: 0,
            outside: 100_000,
            count,
        };
        Mappings {
            uids: vec![range],
            gids: vec![range],
        }
    }

    trait ClearKeepingUts {
        fn clear_keeping_uts(&mut self);
    }

    impl ClearKeepingUts for Vec<PodNamespace> {
        fn clear_keeping_uts(&mut self) {
            self.retain(|namespace| *namespace == PodNamespace::Uts);
        }
    }
}
