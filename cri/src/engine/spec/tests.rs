//! A container to plan with, for the tests of every part.

use super::*;
use crate::engine::spec::mounts::PodFiles;

/// Owns everything that [`SpecInputs`] borrows.
pub(crate) struct Fixture {
    pub container: v1::ContainerConfig,
    pub sandbox: v1::PodSandboxConfig,
    pub image: ImageConfiguration,
    pub namespaces: namespaces::PodNamespaces,
    pub target_pid: Option<i32>,
    pub host: host::HostFacts,
    pub defaults: defaults::ContainerDefaults,
    run_as: RunAs,
    files: PodFiles,
}

pub(crate) fn sandbox_with(options: v1::NamespaceOption) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_sandbox(sandbox_with(v1::NamespaceOption {
            pid: v1::NamespaceMode::Container as i32,
            ..Default::default()
        }))
    }

    pub(crate) fn with_sandbox(sandbox: v1::PodSandboxConfig) -> Self {
        Self {
            container: v1::ContainerConfig {
                command: vec!["/bin/true".to_owned()],
                ..Default::default()
            },
            namespaces: namespaces::PodNamespaces::plan(&sandbox, Path::new("/run/pod")).unwrap(),
            sandbox,
            image: ImageConfiguration::default(),
            target_pid: None,
            host: host::HostFacts::default(),
            defaults: defaults::ContainerDefaults::default(),
            run_as: RunAs::default(),
            files: PodFiles {
                hosts: "/run/pod/hosts".into(),
                hostname: "/run/pod/hostname".into(),
                resolv_conf: "/run/pod/resolv.conf".into(),
                shm: "/run/pod/shm".into(),
            },
        }
    }

    /// The container's security context, made on demand.
    pub(crate) fn context(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        self.container
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    pub(crate) fn inputs(&self) -> SpecInputs<'_> {
        SpecInputs {
            container: &self.container,
            sandbox: &self.sandbox,
            image: &self.image,
            run_as: &self.run_as,
            home: "/root",
            seccomp: security::Seccomp::RuntimeDefault,
            namespaces: &self.namespaces,
            target_pid: self.target_pid,
            files: &self.files,
            devices: &[],
            host: &self.host,
            cgroups_path: Path::new("/berth/pod/container"),
            defaults: &self.defaults,
            rootfs: Path::new("/run/pod/containers/c/rootfs"),
            pod_id: "pod",
        }
    }
}

#[test]
fn a_plain_container_is_confined() {
    let fixture = Fixture::new();
    let spec = plan_spec(&fixture.inputs()).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    assert!(!linux.masked_paths().as_ref().unwrap().is_empty());
    assert_eq!(
        linux.cgroups_path().as_deref(),
        Some(Path::new("/berth/pod/container"))
    );
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(false));
    assert_eq!(spec.hostname(), &None);
    let annotations = spec.annotations().as_ref().unwrap();
    assert_eq!(annotations["io.kubernetes.cri.sandbox-id"], "pod");
    // The builders bring defaults of their own, which nobody asked for.
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(
        keys(&json),
        "annotations linux mounts ociVersion process root"
    );
    assert_eq!(
        keys(&json["linux"]),
        "cgroupsPath devices maskedPaths namespaces readonlyPaths resources seccomp"
    );
    assert_eq!(
        keys(&json["process"]),
        "args capabilities cwd env noNewPrivileges terminal user"
    );
    // The OCI runtime reads what we write.
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}

#[test]
fn a_privileged_container_needs_a_privileged_sandbox() {
    let mut fixture = Fixture::new();
    fixture.context().privileged = true;
    let error = plan_spec(&fixture.inputs()).unwrap_err();
    assert!(error.to_string().contains("not made privileged"), "{error}");
    fixture
        .sandbox
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .privileged = true;
    let spec = plan_spec(&fixture.inputs()).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.seccomp(), &None);
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert!(rules.len() == 1 && rules[0].allow());
}

#[test]
fn paths_are_cleaned_and_may_not_climb() {
    let clean = |path: &str| clean_absolute("field", path);
    assert_eq!(clean("/a//b/./c/").unwrap(), Path::new("/a/b/c"));
    for wrong in ["", "a", "/a/../b", "/a\0b"] {
        let error = clean(wrong).unwrap_err();
        assert!(error.to_string().starts_with("field: "), "{error}");
    }
}
