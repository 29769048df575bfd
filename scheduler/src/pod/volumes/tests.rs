//! Volumes in a mount namespace of the test's own thread.
//!
//! They need root, and fail without it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use super::{
    VolumesPlan,
    empty_dir::observe_usage_bytes,
    ensure_volumes,
    mounts::{MountPlan, ensure_mounts, plan_mounts},
    plan_volumes,
    sub_path::bind_sub_path,
    teardown::remove_volumes,
};
use crate::{
    manifest::read_manifests,
    pod::{
        objects::PodObjects,
        plan::{environment::plan_environment, facts::PodFacts},
        settings::NodeFacts,
    },
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, size: big}
binaryData: {raw: AAE=}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: s3cret}
";

/// A mount namespace that ends with the test's thread.
fn own_mounts() {
    use nix::{mount::MsFlags, sched::CloneFlags};
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

fn node() -> NodeFacts {
    NodeFacts {
        name: "node".to_owned(),
        addresses: Vec::new(),
        cpu_millis: 1000,
        memory_bytes: 1 << 30,
    }
}

/// A pod with these volumes and one container with these mounts.
fn pod(volumes: Value, mounts: Value, security: Value) -> Pod {
    let spec: PodSpec = serde_json::from_value(json!({
        "volumes": volumes, "securityContext": security,
        "containers": [{"name": "main", "volumeMounts": mounts,
            "env": [{"name": "PART", "value": "data"}],
            "terminationMessagePath": "/dev/termination-log"}]}))
    .unwrap();
    let mut pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "web", "uid": "u-1", "labels": {"app": "shop", "tier": "one"}}}),
    )
    .unwrap();
    pod.spec = Some(spec);
    pod
}

fn plan(pod: &Pod, directory: &Path) -> Result<VolumesPlan, String> {
    let objects = PodObjects::of(&read_manifests(OBJECTS, "test").unwrap());
    let node = node();
    let facts = PodFacts {
        pod,
        objects: &objects,
        node: &node,
        addresses: &[],
    };
    plan_volumes(&facts, directory.to_owned()).map_err(|error| error.to_string())
}

fn mounts(pod: &Pod, volumes: &VolumesPlan) -> Result<Vec<MountPlan>, String> {
    let objects = PodObjects::default();
    let node = node();
    let facts = PodFacts {
        pod,
        objects: &objects,
        node: &node,
        addresses: &[],
    };
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let environment = plan_environment(&facts, container).unwrap();
    plan_mounts(volumes, container, 2, &environment).map_err(|error| error.to_string())
}

fn bits(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn files_of_objects_have_paths_modes_and_owners() {
    own_mounts();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("u-1");
    let pod = pod(
        json!([
            {"name": "map", "configMap": {"name": "settings", "items": [{"key": "colour", "path": "a/b", "mode": 0o400, "user": 7}], "defaultMode": 0o600}},
            {"name": "all", "configMap": {"name": "settings"}},
            {"name": "login", "secret": {"secretName": "login", "defaultMode": 0o440}},
            {"name": "none", "secret": {"secretName": "none", "optional": true}},
            {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "mixed", "projected": {"sources": [
                {"configMap": {"name": "settings"}},
                {"secret": {"name": "login", "items": [{"key": "password", "path": "colour"}]}}]}}
        ]),
        json!([]),
        json!({}),
    );
    let volumes = plan(&pod, &directory).unwrap();
    assert!(
        !format!("{volumes:?}").contains("115, 51"),
        "a secret is printed"
    );
    ensure_volumes(&volumes).unwrap();
    let read = |path: &str| fs::read_to_string(directory.join(path)).unwrap();
    assert_eq!(read("map/a/b"), "blue");
    assert_eq!(bits(&directory.join("map/a/b")), 0o400);
    assert_eq!(fs::metadata(directory.join("map/a/b")).unwrap().uid(), 7);
    assert!(!directory.join("map/size").exists());
    assert_eq!(
        (read("all/size"), read("all/raw")),
        ("big".to_owned(), "\0\u{1}".to_owned())
    );
    assert_eq!(read("login/password"), "s3cret");
    assert_eq!(bits(&directory.join("login/password")), 0o440);
    assert_eq!(read("down/labels"), "app=\"shop\"\ntier=\"one\"\n");
    assert_eq!(read("mixed/colour"), "s3cret");
    assert_eq!(read("mixed/size"), "big");
    let device = |path: &str| fs::metadata(directory.join(path)).unwrap().dev();
    assert_ne!(
        device("login"),
        device("map"),
        "a secret stands on the disk"
    );
    // A second worker finds all as it is.
    ensure_volumes(&volumes).unwrap();
    remove_volumes(&directory).unwrap();
    assert!(!directory.exists());
    remove_volumes(&directory).unwrap();
}

#[test]
fn what_is_missing_or_leaves_the_volume_is_named() {
    let table = [
        (
            json!({"configMap": {"name": "none"}}),
            "volume \"v\": configmap \"none\" not found",
        ),
        (
            json!({"secret": {"secretName": "login", "items": [{"key": "k", "path": "k"}]}}),
            "volume \"v\": secret \"login\" references non-existent key: k",
        ),
        (
            json!({"configMap": {"name": "settings", "items": [{"key": "size", "path": "../x"}]}}),
            "expected a relative path",
        ),
        (
            json!({"configMap": {"name": "settings", "items": [{"key": "size", "path": "..data"}]}}),
            "expected a relative path",
        ),
        (
            json!({"configMap": {"name": "settings", "items": [{"key": "size", "path": "/etc/x"}]}}),
            "expected a relative path",
        ),
        (
            json!({"emptyDir": {"medium": "Tape"}}),
            "emptyDir.medium: \"Tape\"",
        ),
    ];
    for (mut volume, message) in table {
        volume["name"] = json!("v");
        let pod = pod(json!([volume]), json!([]), json!({}));
        let error = plan(&pod, Path::new("/nowhere")).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn empty_directories_are_on_disk_or_in_memory_and_the_groups() {
    own_mounts();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("u-1");
    let pod = pod(
        json!([
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "own", "emptyDir": {"mode": 0o750}}
        ]),
        json!([]),
        json!({"fsGroup": 4000}),
    );
    let volumes = plan(&pod, &directory).unwrap();
    ensure_volumes(&volumes).unwrap();
    assert_eq!(bits(&directory.join("disk")), 0o2777);
    assert_eq!(bits(&directory.join("own")), 0o2770);
    let memory = fs::metadata(directory.join("memory")).unwrap();
    assert_eq!((memory.gid(), memory.mode() & 0o7777), (4000, 0o2777));
    fs::write(directory.join("disk/file"), vec![1; 100_000]).unwrap();
    let full = fs::write(directory.join("memory/file"), vec![0; 2 << 20]);
    assert_eq!(full.unwrap_err().raw_os_error(), Some(nix::libc::ENOSPC));
    let usage = observe_usage_bytes(&directory.join("disk")).unwrap();
    assert!((100_000..200_000).contains(&usage), "{usage}");
    ensure_volumes(&volumes).unwrap();
    assert!(
        directory.join("disk/file").exists(),
        "a second worker lost data"
    );
    remove_volumes(&directory).unwrap();
    assert!(!directory.exists());
}

#[test]
fn host_paths_are_checked_by_their_type() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("sock")).unwrap();
    let table = [
        ("dir", "Directory", true),
        ("file", "Directory", false),
        ("none", "Directory", false),
        ("file", "File", true),
        ("dir", "File", false),
        ("sock", "Socket", true),
        ("file", "Socket", false),
        ("made/deep", "DirectoryOrCreate", true),
        ("file", "DirectoryOrCreate", false),
        ("made/file", "FileOrCreate", true),
        ("nowhere/file", "FileOrCreate", false),
        ("dir", "FileOrCreate", false),
        ("implied", "", true),
        ("file", "", true),
        ("file", "CharDevice", false),
        ("file", "BlockDevice", false),
    ];
    for (index, (path, kind, holds)) in table.iter().enumerate() {
        let path = root.join(path);
        let pod = pod(
            json!([{"name": "v", "hostPath": {"path": path, "type": kind}}]),
            json!([]),
            json!({}),
        );
        let volumes = plan(&pod, &root.join(format!("pod-{index}"))).unwrap();
        let result = ensure_volumes(&volumes);
        assert_eq!(result.is_ok(), *holds, "{path:?} {kind}: {result:?}");
    }
    assert!(root.join("made/file").is_file() && root.join("implied").is_dir());
    let device = pod(
        json!([{"name": "v", "hostPath": {"path": "/dev/null", "type": "CharDevice"}}]),
        json!([]),
        json!({}),
    );
    ensure_volumes(&plan(&device, &root.join("pod-null")).unwrap()).unwrap();
}

#[test]
fn a_container_mounts_volumes_hosts_and_its_last_words() {
    own_mounts();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("u-1");
    let pod = pod(
        json!([{"name": "data", "emptyDir": {}}, {"name": "map", "configMap": {"name": "settings"}}]),
        json!([
            {"name": "map", "mountPath": "/srv/deep/colour", "subPath": "colour"},
            {"name": "data", "mountPath": "/srv", "mountPropagation": "HostToContainer"},
            {"name": "data", "mountPath": "/part", "subPathExpr": "$(PART)/new", "readOnly": true, "recursiveReadOnly": "Enabled"}]),
        json!({}),
    );
    let volumes = plan(&pod, &directory).unwrap();
    ensure_volumes(&volumes).unwrap();
    let plans = mounts(&pod, &volumes).unwrap();
    let targets: Vec<&str> = plans
        .iter()
        .map(|plan| plan.mount.container_path.as_str())
        .collect();
    assert_eq!(
        targets,
        [
            "/srv",
            "/part",
            "/etc/hosts",
            "/dev/termination-log",
            "/srv/deep/colour"
        ]
    );
    ensure_mounts(&plans).unwrap();
    let part = &plans[1].mount;
    assert!(part.readonly && part.recursive_read_only);
    assert!(directory.join("data/data/new").is_dir());
    let colour = &plans[4].mount;
    assert!(colour.readonly, "a file of a ConfigMap can be written");
    assert_eq!(fs::read_to_string(&colour.host_path).unwrap(), "blue");
    assert_eq!(bits(Path::new(&plans[3].mount.host_path)), 0o666);
    // A second start puts everything in place again.
    ensure_mounts(&plans).unwrap();
    assert_eq!(fs::read_to_string(&colour.host_path).unwrap(), "blue");
    remove_volumes(&directory).unwrap();
    assert!(!directory.exists());
}

#[test]
fn links_in_a_volume_cannot_leave_it() {
    own_mounts();
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let volume = root.join("volume");
    fs::create_dir_all(volume.join("inside")).unwrap();
    fs::write(root.join("outside"), "not yours").unwrap();
    symlink("/", volume.join("absolute")).unwrap();
    symlink("../outside", volume.join("relative")).unwrap();
    symlink("inside", volume.join("fine")).unwrap();
    symlink("/proc/self/root", volume.join("magic")).unwrap();
    let bind = |sub: &str| bind_sub_path(&volume, Path::new(sub), &root.join("target"));
    for sub in [
        "absolute",
        "absolute/etc",
        "relative",
        "../outside",
        "magic/etc",
        "/etc",
    ] {
        let error = bind(sub).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(nix::libc::EXDEV),
            "{sub}: {error}"
        );
        assert!(!root.join("target").exists(), "{sub}");
    }
    fs::write(volume.join("inside/file"), "yours").unwrap();
    bind("fine/file").unwrap();
    assert_eq!(fs::read_to_string(root.join("target")).unwrap(), "yours");
    nix::mount::umount(&root.join("target")).unwrap();
}

#[test]
fn a_mount_of_the_node_outlives_the_teardown() {
    own_mounts();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("pod with space");
    let precious = root.path().join("node");
    fs::create_dir_all(precious.join("data")).unwrap();
    fs::write(precious.join("data/file"), "precious").unwrap();
    let pod = pod(
        json!([{"name": "node", "hostPath": {"path": precious, "type": "Directory"}}]),
        json!([{"name": "node", "mountPath": "/a", "subPath": "data"}]),
        json!({"fsGroup": 4000}),
    );
    let volumes = plan(&pod, &directory).unwrap();
    ensure_volumes(&volumes).unwrap();
    ensure_mounts(&mounts(&pod, &volumes).unwrap()).unwrap();
    remove_volumes(&directory).unwrap();
    assert!(!directory.exists());
    assert_eq!(
        fs::read_to_string(precious.join("data/file")).unwrap(),
        "precious"
    );
    assert_eq!(fs::metadata(precious.join("data")).unwrap().gid(), 0);
}

#[test]
fn mounts_that_cannot_be_are_named() {
    let table = [
        (
            json!({"name": "none", "mountPath": "/a"}),
            "volumeMount \"none\": no such volume",
        ),
        (
            json!({"name": "data", "mountPath": "/a", "subPath": "../b"}),
            "expected a relative path",
        ),
        (
            json!({"name": "data", "mountPath": "/a", "subPathExpr": "$(NONE)"}),
            "a variable in it is not set",
        ),
    ];
    for (mount, message) in table {
        let pod = pod(
            json!([{"name": "data", "emptyDir": {}}]),
            json!([mount]),
            json!({}),
        );
        let volumes = plan(&pod, Path::new("/nowhere")).unwrap();
        let error = mounts(&pod, &volumes).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    let missing = pod(
        json!([{"name": "v", "hostPath": {"path": "/nowhere/at/all", "type": "File"}}]),
        json!([]),
        json!({}),
    );
    let root = tempfile::tempdir().unwrap();
    let volumes = plan(&missing, &root.path().join("u")).unwrap();
    let error = chain(&ensure_volumes(&volumes).unwrap_err());
    assert!(
        error.starts_with(
            "volume \"v\": hostPath type check failed: /nowhere/at/all is not a file: No such"
        ),
        "{error}"
    );
}
