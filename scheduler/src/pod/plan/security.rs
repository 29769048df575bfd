//! Who a container is and what the kernel lets it do.
//!
//! The pod's `securityContext` holds for every container that does not say
//! otherwise itself. What neither says is the image's (the user) or the
//! runtime's (capabilities). A pod without a `seccompProfile` gets the runtime's
//! filter, as under a kubelet with `--seccomp-default`: unfiltered system calls
//! have to be asked for.
//!
//! Read more: "Configure a Security Context" in the Kubernetes documentation,
//! capabilities(7), seccomp(2), no_new_privs in prctl(2).

use std::path::Path;

use berth_cri::v1;
use berth_runtime::plan::hiding::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile,
    SecurityContext,
};

use super::{ConfigError, config_error};

/// The user that an image runs as, if it names one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// By number.
    pub uid: Option<i64>,
    /// By name; its number stands in the image's `/etc/passwd`.
    pub name: String,
}

/// A container's security settings.
///
/// # Errors
///
/// When `runAsNonRoot` does not hold, or cannot be known to.
pub fn plan_container_security(
    spec: &PodSpec,
    container: &Container,
    image: &ImageUser,
    seccomp_dir: &Path,
) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    check_non_root(&of_pod, &own, run_as_user, image)?;
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| match unmasked {
        true => Vec::new(),
        false => list.iter().map(|path| (*path).to_owned()).collect(),
    };
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(|capabilities| v1::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(plan_namespaces(spec)),
        selinux_options: own
            .se_linux_options
            .as_ref()
            .or(of_pod.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: run_as_user.or(image.uid).map(number),
        // A name counts only where no number does.
        run_as_username: match run_as_user.or(image.uid) {
            Some(_) => String::new(),
            None => image.name.clone(),
        },
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(number),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&DEFAULT_MASKED_PATHS),
        readonly_paths: paths(&DEFAULT_READONLY_PATHS),
        seccomp: Some(plan_seccomp(
            own.seccomp_profile
                .as_ref()
                .or(of_pod.seccomp_profile.as_ref()),
            privileged,
            seccomp_dir,
        )),
        apparmor: own
            .app_armor_profile
            .as_ref()
            .or(of_pod.app_armor_profile.as_ref())
            .map(apparmor),
        ..Default::default()
    })
}

/// The sandbox' security settings: those that the pod as a whole has.
pub fn plan_sandbox_security(
    spec: &PodSpec,
    seccomp_dir: &Path,
) -> v1::LinuxSandboxSecurityContext {
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let privileged = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .any(|container| {
            let own: Option<&SecurityContext> = container.security_context.as_ref();
            own.is_some_and(|own| own.privileged == Some(true))
        });
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(plan_namespaces(spec)),
        selinux_options: of_pod.se_linux_options.as_ref().map(selinux),
        run_as_user: of_pod.run_as_user.map(number),
        run_as_group: of_pod.run_as_group.map(number),
        supplemental_groups: supplemental_groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        // The sandbox itself runs nothing of the pod's; it is privileged where a
        // container is, because a runtime refuses the one without the other.
        privileged,
        seccomp: Some(plan_seccomp(
            of_pod.seccomp_profile.as_ref(),
            false,
            seccomp_dir,
        )),
        apparmor: of_pod.app_armor_profile.as_ref().map(apparmor),
        ..Default::default()
    }
}

/// Which namespaces are the pod's, the container's own, or the machine's.
fn plan_namespaces(spec: &PodSpec) -> v1::NamespaceOption {
    let mode = |host: Option<bool>, otherwise| match host {
        Some(true) => v1::NamespaceMode::Node,
        _ => otherwise,
    };
    let own_pids = match spec.share_process_namespace {
        Some(true) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    // Which ids the pod gets is the engine's choice: it knows what all others have.
    let own_users = v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    v1::NamespaceOption {
        network: mode(spec.host_network, v1::NamespaceMode::Pod).into(),
        pid: mode(spec.host_pid, own_pids).into(),
        ipc: mode(spec.host_ipc, v1::NamespaceMode::Pod).into(),
        userns_options: (spec.host_users == Some(false)).then_some(own_users),
        ..Default::default()
    }
}

/// `runAsNonRoot` is a promise about what the kernel will see, so a user that
/// is only a name does not satisfy it: the image decides what the name means.
fn check_non_root(
    of_pod: &PodSecurityContext,
    own: &SecurityContext,
    run_as_user: Option<i64>,
    image: &ImageUser,
) -> Result<(), ConfigError> {
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    match (run_as_user, image.uid) {
        (Some(0), _) => Err(config_error(
            "container's runAsUser breaks non-root policy".to_owned(),
        )),
        (Some(_), _) => Ok(()),
        (None, Some(uid)) if uid != 0 => Ok(()),
        (None, None) if !image.name.is_empty() => Err(config_error(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.name
        ))),
        (None, _) => Err(config_error(
            "container has runAsNonRoot and image will run as root".to_owned(),
        )),
    }
}

/// The groups that the pod names, with the one that owns its volumes.
fn supplemental_groups(of_pod: &PodSecurityContext) -> Vec<i64> {
    let mut groups = of_pod.supplemental_groups.clone().unwrap_or_default();
    groups.extend(of_pod.fs_group.filter(|group| !groups.contains(group)));
    groups
}

fn groups_policy(of_pod: &PodSecurityContext) -> i32 {
    match of_pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict.into(),
        _ => v1::SupplementalGroupsPolicy::Merge.into(),
    }
}

fn plan_seccomp(
    profile: Option<&SeccompProfile>,
    privileged: bool,
    seccomp_dir: &Path,
) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match profile {
        // A filter on a privileged container would take back what it was given.
        _ if privileged => (ProfileType::Unconfined, String::new()),
        Some(profile) if profile.type_ == "Unconfined" => (ProfileType::Unconfined, String::new()),
        Some(profile) if profile.type_ == "Localhost" => {
            let file = profile.localhost_profile.as_deref().unwrap_or_default();
            let path = seccomp_dir.join(file);
            (ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
        _ => (ProfileType::RuntimeDefault, String::new()),
    };
    v1::SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref,
    }
}

fn apparmor(profile: &AppArmorProfile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let profile_type = match profile.type_.as_str() {
        "Unconfined" => ProfileType::Unconfined,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::RuntimeDefault,
    };
    v1::SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

#[cfg(test)]
mod tests;
