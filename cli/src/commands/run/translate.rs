//! `berth run IMAGE` as the Pod that it stands for. Pure.
//!
//! There is one way to run something: a pod, by the pod worker. The flags that
//! people know from docker are another way to write its manifest, and
//! `--dry-run` shows it. What a Pod cannot say is an error, not a guess.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::flags::{HostNamespace, ImageFlags, Network, Pull, Restart};

/// Parts of flags, each with its own small grammar.
mod parts;

use parts::{Mounts, Port};

/// What the translation reads of the machine, read before by the caller.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// This process's variables, for `-e NAME`.
    pub environment: BTreeMap<String, String>,
    /// The lines of all `--env-file`s, in order.
    pub env_file_lines: Vec<String>,
    /// Where `-v ./data:/data` starts from.
    pub directory: String,
    /// Five letters for the name of a pod that was given none.
    pub suffix: String,
}

/// The Pod for an image, its command and the flags.
///
/// # Errors
///
/// A flag that a Pod cannot say, or whose text is not understood; the message
/// names the flag and what it expects.
pub fn translate(
    flags: &ImageFlags,
    image: &str,
    command: &[String],
    surroundings: &Surroundings,
) -> Result<Value, String> {
    if flags.network == Network::None {
        return Err(
            "--network none: a Pod has a network of its own or the machine's; \
                    expected bridge or host"
                .to_owned(),
        );
    }
    let container_name = label_of(image);
    let pod_name = match &flags.name {
        Some(name) => name.clone(),
        None => format!("{container_name}-{}", surroundings.suffix),
    };
    let mounts = parts::mounts(flags, &surroundings.directory)?;
    let mut spec = Map::new();
    spec.insert("restartPolicy".into(), json!(restart_policy(flags.restart)));
    spec.insert("automountServiceAccountToken".into(), json!(false));
    spec.insert("enableServiceLinks".into(), json!(false));
    set(
        &mut spec,
        "terminationGracePeriodSeconds",
        flags.stop_timeout.map(|grace| grace.as_secs()),
    );
    set(&mut spec, "hostname", flags.hostname.as_deref());
    set(
        &mut spec,
        "hostNetwork",
        (flags.network == Network::Host).then_some(true),
    );
    set(
        &mut spec,
        "hostPID",
        (flags.pid == Some(HostNamespace::Host)).then_some(true),
    );
    set(
        &mut spec,
        "hostIPC",
        (flags.ipc == Some(HostNamespace::Host)).then_some(true),
    );
    set(&mut spec, "volumes", non_empty(mounts.volumes.clone()));
    let container = container(
        flags,
        &container_name,
        image,
        command,
        surroundings,
        &mounts,
    )?;
    spec.insert("containers".into(), json!([container]));
    let mut metadata = Map::from_iter([("name".to_owned(), json!(pod_name))]);
    set(&mut metadata, "labels", labels(&flags.labels)?);
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

fn container(
    flags: &ImageFlags,
    name: &str,
    image: &str,
    command: &[String],
    surroundings: &Surroundings,
    mounts: &Mounts,
) -> Result<Value, String> {
    let ports: Vec<Value> = parts::ports(&flags.publish)?
        .iter()
        .map(Port::to_json)
        .collect();
    let mut container = Map::new();
    container.insert("name".into(), json!(name));
    container.insert("image".into(), json!(image));
    container.insert("imagePullPolicy".into(), json!(pull_policy(flags.pull)));
    set(
        &mut container,
        "command",
        flags.entrypoint.as_ref().map(|program| json!([program])),
    );
    set(
        &mut container,
        "args",
        non_empty(command.iter().map(|word| json!(word)).collect()),
    );
    set(&mut container, "workingDir", flags.workdir.as_deref());
    set(
        &mut container,
        "env",
        non_empty(parts::variables(flags, surroundings)?),
    );
    set(&mut container, "ports", non_empty(ports));
    set(&mut container, "resources", limits(flags)?);
    set(
        &mut container,
        "volumeMounts",
        non_empty(mounts.mounts.clone()),
    );
    set(&mut container, "securityContext", security(flags)?);
    set(&mut container, "stdin", flags.interactive.then_some(true));
    // Who leaves a terminal may come back to it; a pipe ends once.
    let once = flags.interactive && !flags.tty;
    set(&mut container, "stdinOnce", once.then_some(true));
    set(&mut container, "tty", flags.tty.then_some(true));
    Ok(Value::Object(container))
}

fn set(object: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

fn non_empty(values: Vec<Value>) -> Option<Value> {
    (!values.is_empty()).then_some(Value::Array(values))
}

/// The last part of an image's name as a DNS label: `docker.io/library/nginx:1` is `nginx`.
fn label_of(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    let word = last.split(':').next().unwrap_or(last).to_ascii_lowercase();
    let clean: String = word
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(50)
        .collect();
    match clean.trim_matches('-') {
        "" => "container".to_owned(),
        label => label.to_owned(),
    }
}

fn restart_policy(restart: Restart) -> &'static str {
    match restart {
        Restart::No => "Never",
        Restart::OnFailure => "OnFailure",
        Restart::Always => "Always",
    }
}

fn pull_policy(pull: Pull) -> &'static str {
    match pull {
        Pull::Always => "Always",
        Pull::Missing => "IfNotPresent",
        Pull::Never => "Never",
    }
}

fn labels(labels: &[String]) -> Result<Option<Value>, String> {
    let mut object = Map::new();
    for label in labels {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        if name.is_empty() {
            return Err(format!("--label {label}: expected NAME=VALUE"));
        }
        object.insert(name.to_owned(), json!(value));
    }
    Ok((!object.is_empty()).then_some(Value::Object(object)))
}

fn limits(flags: &ImageFlags) -> Result<Option<Value>, String> {
    let mut limits = Map::new();
    set(
        &mut limits,
        "memory",
        flags.memory.map(|bytes| bytes.to_string()),
    );
    if let Some(cpus) = flags.cpus {
        if !cpus.is_finite() || cpus <= 0.0 {
            return Err(format!("--cpus {cpus}: expected a number above 0"));
        }
        limits.insert(
            "cpu".into(),
            json!(format!("{}m", (cpus * 1000.0).round() as u64)),
        );
    }
    Ok((!limits.is_empty()).then(|| json!({"limits": limits})))
}

fn security(flags: &ImageFlags) -> Result<Option<Value>, String> {
    let mut context = Map::new();
    if let Some(user) = &flags.user {
        let (uid, gid) = parts::user(user)?;
        context.insert("runAsUser".into(), json!(uid));
        set(&mut context, "runAsGroup", gid);
    }
    let mut capabilities = Map::new();
    set(
        &mut capabilities,
        "add",
        non_empty(capability_names(&flags.cap_add)),
    );
    set(
        &mut capabilities,
        "drop",
        non_empty(capability_names(&flags.cap_drop)),
    );
    set(
        &mut context,
        "capabilities",
        (!capabilities.is_empty()).then_some(Value::Object(capabilities)),
    );
    set(&mut context, "privileged", flags.privileged.then_some(true));
    set(
        &mut context,
        "readOnlyRootFilesystem",
        flags.read_only.then_some(true),
    );
    for option in &flags.security {
        match option.as_str() {
            "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true" => {
                context.insert("allowPrivilegeEscalation".into(), json!(false));
            }
            "seccomp=unconfined" => {
                context.insert("seccompProfile".into(), json!({"type": "Unconfined"}));
            }
            _ => {
                return Err(format!(
                    "--security-opt {option}: expected no-new-privileges or seccomp=unconfined"
                ));
            }
        }
    }
    // As with docker, a container is confined unless the user says otherwise;
    // a Pod without a word about it would not be.
    if !flags.privileged && !context.contains_key("seccompProfile") {
        context.insert("seccompProfile".into(), json!({"type": "RuntimeDefault"}));
    }
    Ok((!context.is_empty()).then_some(Value::Object(context)))
}

/// Kubernetes writes capabilities without the prefix that the kernel gives them.
fn capability_names(names: &[String]) -> Vec<Value> {
    names
        .iter()
        .map(|name| name.to_ascii_uppercase())
        .map(|name| json!(name.strip_prefix("CAP_").unwrap_or(&name)))
        .collect()
}

#[cfg(test)]
mod tests;
