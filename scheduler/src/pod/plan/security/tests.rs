//! The merge of pod and container, and the promise of `runAsNonRoot`.

use super::{ImageUser, plan_container_security, plan_sandbox_security};
use berth_cri::v1;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};
use std::path::Path;

fn security(
    pod: Value,
    container: Value,
    image: ImageUser,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let spec: PodSpec = serde_json::from_value(json!({
        "securityContext": pod,
        "containers": [{"name": "a", "securityContext": container}]}))
    .unwrap();
    plan_container_security(&spec, &spec.containers[0], &image, Path::new("/profiles"))
        .map_err(|error| error.to_string())
}

#[test]
fn a_container_wins_over_its_pod() {
    let merged = security(
        json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 7, "supplementalGroups": [5, 7],
            "supplementalGroupsPolicy": "Strict", "seccompProfile": {"type": "Unconfined"}}),
        json!({"runAsUser": 2000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}),
        ImageUser::default(),
    )
    .unwrap();
    assert_eq!(merged.run_as_user.unwrap().value, 2000);
    assert_eq!(merged.run_as_group.unwrap().value, 1000);
    assert_eq!(merged.supplemental_groups, [5, 7]);
    assert_eq!(merged.supplemental_groups_policy, 1);
    assert!(merged.readonly_rootfs && merged.no_new_privs && !merged.privileged);
    let capabilities = merged.capabilities.unwrap();
    assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
    assert_eq!(capabilities.drop_capabilities, ["ALL"]);
    assert_eq!(merged.seccomp.unwrap().localhost_ref, "/profiles/a/b.json");
    assert!(merged.masked_paths.iter().any(|path| path == "/proc/kcore"));
}

#[test]
fn silence_means_the_runtimes_filter_and_the_images_user() {
    let named = ImageUser {
        uid: None,
        name: "nginx".to_owned(),
    };
    let merged = security(json!({}), json!({}), named).unwrap();
    assert_eq!(merged.seccomp.unwrap().profile_type, 0);
    assert_eq!(merged.run_as_username, "nginx");
    assert!(merged.run_as_user.is_none() && !merged.no_new_privs);
}

#[test]
fn privileged_takes_every_fence_down() {
    let merged = security(json!({}), json!({"privileged": true}), ImageUser::default()).unwrap();
    assert!(merged.privileged && merged.masked_paths.is_empty());
    assert!(merged.readonly_paths.is_empty());
    assert_eq!(merged.seccomp.unwrap().profile_type, 1);
}

#[test]
fn run_as_non_root_holds_or_the_container_does_not_start() {
    let uid = |uid| ImageUser {
        uid: Some(uid),
        name: String::new(),
    };
    let name = ImageUser {
        uid: None,
        name: "app".to_owned(),
    };
    let table = [
        (json!({}), json!({}), uid(1000), None),
        (json!({}), json!({"runAsUser": 5}), name.clone(), None),
        (json!({"runAsUser": 5}), json!({}), uid(0), None),
        (json!({}), json!({}), uid(0), Some("image will run as root")),
        (
            json!({}),
            json!({}),
            ImageUser::default(),
            Some("image will run as root"),
        ),
        (json!({}), json!({}), name, Some("non-numeric user (app)")),
        (
            json!({}),
            json!({"runAsUser": 0}),
            uid(5),
            Some("breaks non-root policy"),
        ),
        (json!({}), json!({"runAsNonRoot": false}), uid(0), None),
    ];
    for (mut pod, container, image, message) in table {
        pod["runAsNonRoot"] = json!(true);
        let result = security(pod, container.clone(), image);
        match message {
            None => assert!(result.is_ok(), "{container}"),
            Some(message) => assert!(result.unwrap_err().contains(message), "{container}"),
        }
    }
}

#[test]
fn namespaces_are_the_pods_unless_the_machines_are_asked_for() {
    let spec = |value| serde_json::from_value::<PodSpec>(value).unwrap();
    let modes = |spec: &PodSpec| {
        let options = plan_sandbox_security(spec, Path::new("/"))
            .namespace_options
            .unwrap();
        (options.network, options.pid, options.ipc)
    };
    assert_eq!(modes(&spec(json!({"containers": []}))), (0, 1, 0));
    let shared =
        spec(json!({"containers": [], "shareProcessNamespace": true, "hostNetwork": true}));
    assert_eq!(modes(&shared), (2, 0, 0));
    let host = spec(json!({"containers": [], "hostPID": true, "hostIPC": true}));
    assert_eq!(modes(&host), (0, 2, 2));
    let users = |spec: &PodSpec| {
        let context = plan_sandbox_security(spec, Path::new("/"));
        context.namespace_options.unwrap().userns_options
    };
    assert_eq!(users(&host), None);
    let own = users(&spec(json!({"containers": [], "hostUsers": false}))).unwrap();
    assert!(own.mode == 0 && own.uids.is_empty() && own.gids.is_empty());
}
