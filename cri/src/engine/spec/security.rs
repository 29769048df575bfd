//! The seccomp and AppArmor profiles, and what of /proc is hidden.

use std::path::PathBuf;

use berth_runtime::plan::hiding::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS};
use berth_runtime::seccomp::profile::default_profile;
use oci_spec::runtime::LinuxSeccomp;

use super::host::HostFacts;
use super::{Privilege, SpecInputs, capabilities, clean_absolute, security_context};
use crate::engine::error::{Error, ErrorKind};
use crate::v1;

/// Which filter of system calls is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// None.
    Unconfined,
    /// The one that comes with berth.
    RuntimeDefault,
    /// A JSON file of the OCI's form on the host.
    File(PathBuf),
}

/// The filter of system calls, its file read.
#[derive(Debug, Clone, PartialEq)]
pub enum Seccomp {
    /// None.
    Unconfined,
    /// The one that comes with berth, which depends on the capabilities.
    RuntimeDefault,
    /// One that the caller brought.
    Profile(Box<LinuxSeccomp>),
}

/// The OCI's `linux.seccomp`.
///
/// # Errors
///
/// `Invalid` for a capability that is none.
pub fn plan_seccomp(
    inputs: &SpecInputs<'_>,
    privilege: Privilege,
) -> Result<Option<LinuxSeccomp>, Error> {
    match (&inputs.seccomp, privilege) {
        (Seccomp::Unconfined, _) | (_, Privilege::Privileged) => Ok(None),
        (Seccomp::Profile(profile), _) => Ok(Some(profile.as_ref().clone())),
        (Seccomp::RuntimeDefault, Privilege::Confined) => {
            if let Some(profile) = &inputs.defaults.seccomp {
                return Ok(Some(profile.as_ref().clone()));
            }
            let wanted = security_context(inputs.container)
                .capabilities
                .unwrap_or_default();
            // A call that its capability guards is let through with it.
            let sets = capabilities::plan_capabilities(
                &wanted,
                &inputs.defaults.capabilities,
                &inputs.host.capabilities,
                privilege,
            )?;
            let bounding = sets.bounding().clone().unwrap_or_default();
            Ok(Some(default_profile(&bounding)?))
        }
    }
}

/// The choice of a container. Without one there is no filter, as the CRI's
/// validation suite has it: whoever wants the default one says so, as a pod
/// worker of ours and a kubelet with `--seccomp-default` do.
///
/// # Errors
///
/// `Invalid` with the field's name.
pub fn seccomp_choice(context: &v1::LinuxContainerSecurityContext) -> Result<SeccompChoice, Error> {
    use v1::security_profile::ProfileType;
    if context.privileged {
        return Ok(SeccompChoice::Unconfined);
    }
    let Some(profile) = &context.seccomp else {
        return Ok(SeccompChoice::Unconfined);
    };
    match profile_type("seccomp", profile)? {
        ProfileType::Unconfined => Ok(SeccompChoice::Unconfined),
        ProfileType::RuntimeDefault => Ok(SeccompChoice::RuntimeDefault),
        ProfileType::Localhost => clean_absolute(
            "linux.security_context.seccomp.localhost_ref",
            &profile.localhost_ref,
        )
        .map(SeccompChoice::File),
    }
}

/// The AppArmor profile's name, if one is to be set.
///
/// # Errors
///
/// `Unsupported` when a profile is asked for and the machine has no AppArmor.
pub fn apparmor_profile(
    context: &v1::LinuxContainerSecurityContext,
    host: &HostFacts,
    privilege: Privilege,
) -> Result<Option<String>, Error> {
    use v1::security_profile::ProfileType;
    let Some(profile) = &context.apparmor else {
        return Ok(None);
    };
    match profile_type("apparmor", profile)? {
        ProfileType::Unconfined => Ok(host.apparmor.then(|| "unconfined".to_owned())),
        // Berth brings no AppArmor profile: the machine's rules apply.
        ProfileType::RuntimeDefault => Ok(None),
        ProfileType::Localhost if privilege == Privilege::Privileged && !host.apparmor => Ok(None),
        ProfileType::Localhost if !host.apparmor => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "linux.security_context.apparmor: profile {:?} is asked for, and AppArmor is not \
                 enabled on this machine",
                profile.localhost_ref
            ),
        )),
        ProfileType::Localhost if profile.localhost_ref.is_empty() => Err(Error::invalid(
            "linux.security_context.apparmor.localhost_ref: must not be empty",
        )),
        ProfileType::Localhost => Ok(Some(profile.localhost_ref.clone())),
    }
}

fn profile_type(
    field: &str,
    profile: &v1::SecurityProfile,
) -> Result<v1::security_profile::ProfileType, Error> {
    v1::security_profile::ProfileType::try_from(profile.profile_type).map_err(|_| {
        Error::invalid(format!(
            "linux.security_context.{field}.profile_type: {} is not a type of the CRI",
            profile.profile_type
        ))
    })
}

/// Paths that a program finds empty.
///
/// A kubelet states them for every container, and states an empty list for
/// `procMount: Unmasked`. Only a request without any security context leaves
/// the choice to us, and then hiding too much is the mistake that can be seen.
pub fn masked_paths(container: &v1::ContainerConfig, privilege: Privilege) -> Vec<String> {
    choose_paths(container, privilege, &DEFAULT_MASKED_PATHS, |context| {
        &context.masked_paths
    })
}

/// Paths that a program cannot write to.
pub fn readonly_paths(container: &v1::ContainerConfig, privilege: Privilege) -> Vec<String> {
    choose_paths(container, privilege, &DEFAULT_READONLY_PATHS, |context| {
        &context.readonly_paths
    })
}

fn choose_paths(
    container: &v1::ContainerConfig,
    privilege: Privilege,
    default: &[&str],
    stated: fn(&v1::LinuxContainerSecurityContext) -> &Vec<String>,
) -> Vec<String> {
    let context = container
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    match (privilege, context) {
        (Privilege::Privileged, _) => Vec::new(),
        (Privilege::Confined, None) => default.iter().map(|path| (*path).to_owned()).collect(),
        (Privilege::Confined, Some(context)) => stated(context).clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::security_profile::ProfileType;

    fn profile(kind: ProfileType, reference: &str) -> v1::SecurityProfile {
        v1::SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: reference.to_owned(),
        }
    }

    fn with_seccomp(profile: Option<v1::SecurityProfile>) -> v1::LinuxContainerSecurityContext {
        v1::LinuxContainerSecurityContext {
            seccomp: profile,
            ..Default::default()
        }
    }

    #[test]
    fn the_filter_is_the_one_that_is_asked_for() {
        let choose = |context| seccomp_choice(&context).unwrap();
        assert_eq!(choose(with_seccomp(None)), SeccompChoice::Unconfined);
        assert_eq!(
            choose(with_seccomp(Some(profile(ProfileType::RuntimeDefault, "")))),
            SeccompChoice::RuntimeDefault
        );
        assert_eq!(
            choose(with_seccomp(Some(profile(ProfileType::Unconfined, "")))),
            SeccompChoice::Unconfined
        );
        assert_eq!(
            choose(with_seccomp(Some(profile(
                ProfileType::Localhost,
                "/a/b.json"
            )))),
            SeccompChoice::File("/a/b.json".into())
        );
        let mut privileged = with_seccomp(None);
        privileged.privileged = true;
        assert_eq!(choose(privileged), SeccompChoice::Unconfined);
        for wrong in [
            profile(ProfileType::Localhost, "relative.json"),
            v1::SecurityProfile {
                profile_type: 7,
                ..Default::default()
            },
        ] {
            assert!(seccomp_choice(&with_seccomp(Some(wrong))).is_err());
        }
    }

    #[test]
    fn an_apparmor_profile_needs_apparmor() {
        let context = v1::LinuxContainerSecurityContext {
            apparmor: Some(profile(ProfileType::Localhost, "mine")),
            ..Default::default()
        };
        let without = HostFacts::default();
        let error = apparmor_profile(&context, &without, Privilege::Confined).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let with = HostFacts {
            apparmor: true,
            ..HostFacts::default()
        };
        assert_eq!(
            apparmor_profile(&context, &with, Privilege::Confined).unwrap(),
            Some("mine".to_owned())
        );
    }

    #[test]
    fn proc_is_masked_unless_the_request_says_otherwise() {
        let stating = |paths: &[&str]| v1::ContainerConfig {
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    masked_paths: paths.iter().map(|path| (*path).to_owned()).collect(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let (confined, silent) = (Privilege::Confined, v1::ContainerConfig::default());
        assert!(masked_paths(&silent, confined).contains(&"/proc/kcore".to_owned()));
        assert!(readonly_paths(&silent, confined).contains(&"/proc/sys".to_owned()));
        assert!(masked_paths(&silent, Privilege::Privileged).is_empty());
        let keys = stating(&["/proc/keys"]);
        assert_eq!(masked_paths(&keys, confined), ["/proc/keys"]);
        // procMount: Unmasked.
        assert!(masked_paths(&stating(&[]), confined).is_empty());
    }
}
