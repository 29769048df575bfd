//! Parts of flags, each with its own small grammar.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{ImageFlags, Surroundings};
use crate::amounts::read_size;

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The address of this machine, or all of them.
    pub host_address: Option<IpAddr>,
    /// The port of this machine.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl Port {
    /// As an element of a container's `ports`.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "containerPort": self.container_port,
            "hostPort": self.host_port,
            "protocol": self.protocol,
        });
        if let Some(address) = self.host_address {
            value["hostIP"] = json!(address.to_string());
        }
        value
    }
}

/// `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`, with ranges of equal length.
pub fn ports(publish: &[String]) -> Result<Vec<Port>, String> {
    let mut ports = Vec::new();
    for text in publish {
        ports.extend(port(text).ok_or_else(|| {
            format!("--publish {text}: expected [ADDRESS:]HOST:CONTAINER[/tcp|udp|sctp]")
        })?);
    }
    Ok(ports)
}

fn port(text: &str) -> Option<Vec<Port>> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_uppercase();
    if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
        return None;
    }
    let (host, container) = numbers.rsplit_once(':')?;
    // An IPv6 address stands in brackets, for it has colons of its own.
    let (address, host) = match host.rsplit_once(':') {
        Some((address, host)) => {
            let address = address
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .unwrap_or(address);
            (Some(address.parse().ok()?), host)
        }
        None => (None, host),
    };
    let (first_host, last_host) = range(host)?;
    let (first_container, last_container) = range(container)?;
    if last_host - first_host != last_container - first_container {
        return None;
    }
    let pairs = (first_host..=last_host).zip(first_container..=last_container);
    Some(
        pairs
            .map(|(host_port, container_port)| Port {
                host_address: address,
                host_port,
                container_port,
                protocol: protocol.clone(),
            })
            .collect(),
    )
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

/// A pod's `volumes` and a container's `volumeMounts`, in step.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// For the pod.
    pub volumes: Vec<Value>,
    /// For the container.
    pub mounts: Vec<Value>,
}

impl Mounts {
    fn add(&mut self, mut volume: Value, target: &str, read_only: bool) {
        let name = format!("volume-{}", self.volumes.len());
        volume["name"] = json!(name);
        self.volumes.push(volume);
        let mut mount = json!({"name": name, "mountPath": target});
        if read_only {
            mount["readOnly"] = json!(true);
        }
        self.mounts.push(mount);
    }
}

/// `--volume`, `--mount` and `--tmpfs` together.
pub fn mounts(flags: &ImageFlags, directory: &str) -> Result<Mounts, String> {
    let mut mounts = Mounts::default();
    for text in &flags.volumes {
        volume(&mut mounts, text, directory).map_err(|why| format!("--volume {text}: {why}"))?;
    }
    for text in &flags.mounts {
        mount(&mut mounts, text, directory).map_err(|why| format!("--mount {text}: {why}"))?;
    }
    for text in &flags.tmpfs {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let size = options
            .split(',')
            .find_map(|option| option.strip_prefix("size="));
        tmpfs(&mut mounts, target, size).map_err(|why| format!("--tmpfs {text}: {why}"))?;
    }
    Ok(mounts)
}

fn volume(mounts: &mut Mounts, text: &str, directory: &str) -> Result<(), String> {
    let mut words = text.split(':');
    let (Some(source), Some(target)) = (words.next(), words.next()) else {
        return Err("expected SOURCE:TARGET[:ro]".to_owned());
    };
    let mut read_only = false;
    for option in words.flat_map(|word| word.split(',')) {
        match option {
            "ro" => read_only = true,
            "rw" => {}
            _ => {
                return Err(format!(
                    "the option {option:?} is not known; expected ro or rw"
                ));
            }
        }
    }
    bind(mounts, source, target, read_only, directory)
}

fn mount(mounts: &mut Mounts, text: &str, directory: &str) -> Result<(), String> {
    let words: BTreeMap<&str, &str> = text
        .split(',')
        .map(|word| word.split_once('=').unwrap_or((word, "true")))
        .collect();
    let one_of = |names: &[&str]| names.iter().find_map(|name| words.get(name).copied());
    let known = [
        "type",
        "source",
        "src",
        "target",
        "dst",
        "destination",
        "readonly",
        "ro",
        "tmpfs-size",
    ];
    if let Some(unknown) = words.keys().find(|name| !known.contains(name)) {
        return Err(format!(
            "{unknown:?} is not known; expected one of {}",
            known.join(", ")
        ));
    }
    let target = one_of(&["target", "dst", "destination"]).ok_or("target is missing")?;
    let read_only = one_of(&["readonly", "ro"]).is_some_and(|value| value != "false");
    match words.get("type").copied() {
        Some("bind") => {
            let source = one_of(&["source", "src"]).ok_or("source is missing")?;
            bind(mounts, source, target, read_only, directory)
        }
        Some("tmpfs") => tmpfs(mounts, target, one_of(&["tmpfs-size"])),
        other => Err(format!(
            "type is {:?}; expected bind or tmpfs",
            other.unwrap_or("")
        )),
    }
}

fn bind(
    mounts: &mut Mounts,
    source: &str,
    target: &str,
    read_only: bool,
    directory: &str,
) -> Result<(), String> {
    let path = match source {
        _ if source.starts_with('/') => source.to_owned(),
        "." | ".." => format!("{directory}/{source}"),
        _ if source.starts_with("./") || source.starts_with("../") => {
            format!("{directory}/{source}")
        }
        _ => {
            return Err(format!(
                "{source:?} is no path; expected one that begins with / or ./"
            ));
        }
    };
    check_target(target)?;
    mounts.add(json!({"hostPath": {"path": path}}), target, read_only);
    Ok(())
}

fn tmpfs(mounts: &mut Mounts, target: &str, size: Option<&str>) -> Result<(), String> {
    check_target(target)?;
    let mut volume = json!({"emptyDir": {"medium": "Memory"}});
    if let Some(size) = size {
        volume["emptyDir"]["sizeLimit"] = json!(read_size(size)?.to_string());
    }
    mounts.add(volume, target, false);
    Ok(())
}

fn check_target(target: &str) -> Result<(), String> {
    if target.starts_with('/') && target.len() > 1 {
        return Ok(());
    }
    Err(format!("the target {target:?} is no absolute path below /"))
}

/// `--env-file` first, then `--env`; a later one of the same name wins.
pub fn variables(flags: &ImageFlags, surroundings: &Surroundings) -> Result<Vec<Value>, String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for text in surroundings.env_file_lines.iter().chain(&flags.env) {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), surroundings.environment.get(text).cloned()),
        };
        if name.is_empty() {
            return Err(format!("--env {text}: expected NAME=VALUE or NAME"));
        }
        // A name alone that is not set here is not set there, as with docker.
        let Some(value) = value else { continue };
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value));
    }
    // Kubernetes expands $(NAME) in values; a literal one is written $$(NAME).
    Ok(variables
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value.replace("$(", "$$(")}))
        .collect())
}

/// `UID[:GID]`.
pub fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let wrong = || format!("--user {text}: a Pod takes numbers; expected UID or UID:GID");
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    Ok((uid.parse().map_err(|_| wrong())?, gid))
}
