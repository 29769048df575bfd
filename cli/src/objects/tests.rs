//! Words, and what they mean.

use super::*;

fn pod(namespace: &str, name: &str, id: &str, containers: &[(&str, u32, &str)]) -> FoundPod {
    let metadata = v1::PodSandboxMetadata {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: format!("uid-{id}"),
        attempt: 0,
    };
    let containers = containers
        .iter()
        .zip(0..)
        .map(|((name, attempt, id), created_at)| {
            let metadata = v1::ContainerMetadata {
                name: (*name).to_owned(),
                attempt: *attempt,
            };
            v1::ContainerStatus {
                id: (*id).to_owned(),
                metadata: Some(metadata),
                state: v1::ContainerState::ContainerExited.into(),
                created_at,
                ..Default::default()
            }
        });
    FoundPod {
        sandbox: v1::PodSandbox {
            id: id.to_owned(),
            metadata: Some(metadata),
            ..Default::default()
        },
        containers: containers.collect(),
    }
}

fn pods() -> Vec<FoundPod> {
    vec![
        pod(
            "default",
            "web",
            "aaa111",
            &[("init", 0, "c0ffee01"), ("nginx", 0, "c0ffee02")],
        ),
        pod(
            "default",
            "db",
            "bbb222",
            &[("db", 0, "dddd01"), ("db", 1, "dddd02")],
        ),
        pod("team", "web", "aaa333", &[]),
        pod("team", "queue", "ccc444", &[("queue", 0, "eeee01")]),
    ]
}

#[test]
fn a_pod_has_several_names() {
    let pods = pods();
    for (word, id) in [
        ("web", "aaa111"),
        ("team/web", "aaa333"),
        ("queue", "ccc444"),
        ("uid-bbb222", "bbb222"),
        ("bbb", "bbb222"),
        ("aaa3", "aaa333"),
    ] {
        assert_eq!(find_pod(&pods, word).unwrap().sandbox.id, id, "{word}");
    }
}

#[test]
fn an_unknown_or_unclear_pod_is_an_error_that_helps() {
    let pods = pods();
    let message = find_pod(&pods, "webb").unwrap_err().to_string();
    assert_eq!(message, "there is no pod \"webb\"; did you mean web?");
    let message = find_pod(&pods, "aaa").unwrap_err().to_string();
    assert!(
        message.contains("default/web") && message.contains("team/web"),
        "{message}"
    );
}

#[test]
fn a_container_is_found_through_its_pod_or_its_id() {
    let pods = pods();
    let found = |word, name| find_container(&pods, word, name).map(|f| f.container.id.clone());
    assert_eq!(found("web", Some("init")).unwrap(), "c0ffee01");
    assert_eq!(found("web/nginx", None).unwrap(), "c0ffee02");
    assert_eq!(found("team/queue/queue", None).unwrap(), "eeee01");
    assert_eq!(found("dddd01", None).unwrap(), "dddd01");
    // Nothing runs: the last one made; and of several attempts the last.
    assert_eq!(found("web", None).unwrap(), "c0ffee02");
    assert_eq!(found("db", None).unwrap(), "dddd02");
}

#[test]
fn a_container_that_runs_goes_before_others_and_an_annotated_one_before_all() {
    let mut pods = pods();
    pods[0].containers[0].state = v1::ContainerState::ContainerRunning.into();
    let id = |pods: &[FoundPod]| {
        find_container(pods, "web", None)
            .unwrap()
            .container
            .id
            .clone()
    };
    assert_eq!(id(&pods), "c0ffee01");
    let annotation = (DEFAULT_CONTAINER_ANNOTATION.to_owned(), "nginx".to_owned());
    pods[0].sandbox.annotations.extend([annotation]);
    assert_eq!(id(&pods), "c0ffee02");
}

#[test]
fn a_container_that_is_not_there_is_an_error_with_those_that_are() {
    let pods = pods();
    let message = find_container(&pods, "web", Some("x"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "pod web has no container \"x\"; it has init, nginx"
    );
    let message = find_container(&pods, "team/web", None)
        .unwrap_err()
        .to_string();
    assert_eq!(message, "pod team/web has no container yet");
    let message = find_container(&pods, "c0ffee", None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("several"), "{message}");
}
