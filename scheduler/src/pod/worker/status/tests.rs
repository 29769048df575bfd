//! The phase over every pair of what a pod's containers do.

use super::{End, Known, KnownContainer, Pending, compose, phase, waiting};
use crate::pod::{
    plan::restart::{AfterExit, Role},
    worker::exit,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus,
};

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Waits,
    Runs,
    BacksOff,
    Succeeded,
    Failed,
}

fn ended(code: i32) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: code,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(role: Role, does: Does) -> KnownContainer {
    let (state, last, outcome) = match does {
        Does::Waits => (waiting("ContainerCreating", None), None, None),
        Does::Runs => (exit::running(Timestamp::now()), None, None),
        Does::BacksOff => (waiting("CrashLoopBackOff", None), Some(ended(1)), None),
        Does::Succeeded => (ended(0), None, Some(AfterExit::Succeeded)),
        Does::Failed => (ended(1), None, Some(AfterExit::Failed)),
    };
    KnownContainer {
        role,
        outcome,
        status: ContainerStatus {
            name: "a".to_owned(),
            started: Some(does == Does::Runs),
            ready: does == Does::Runs,
            state: Some(state),
            last_state: last,
            ..Default::default()
        },
    }
}

fn known(containers: Vec<KnownContainer>) -> Known {
    Known {
        containers,
        addresses: Vec::new(),
        host_addresses: Vec::new(),
        qos: "BestEffort",
        start_time: Timestamp::now(),
        sandbox_ready: true,
        end: None,
        pending: None,
    }
}

#[test]
fn a_pod_is_pending_until_every_main_container_ran() {
    let all = [
        Does::Waits,
        Does::Runs,
        Does::BacksOff,
        Does::Succeeded,
        Does::Failed,
    ];
    for one in all {
        for two in all {
            let pod = known(vec![container(Role::Main, one), container(Role::Main, two)]);
            let expected = match one == Does::Waits || two == Does::Waits {
                true => "Pending",
                false => "Running",
            };
            assert_eq!(phase(&pod), expected, "{one:?} {two:?}");
        }
    }
}

#[test]
fn an_ended_pod_succeeded_if_all_main_containers_did() {
    let all = [Does::Waits, Does::BacksOff, Does::Succeeded, Does::Failed];
    for one in all {
        for two in all {
            let mut pod = known(vec![container(Role::Main, one), container(Role::Main, two)]);
            pod.end = Some(End::default());
            let expected = match (one, two) {
                (Does::Succeeded, Does::Succeeded) => "Succeeded",
                _ => "Failed",
            };
            assert_eq!(phase(&pod), expected, "{one:?} {two:?}");
            pod.end = Some(End {
                reason: Some("Evicted".to_owned()),
                message: None,
            });
            assert_eq!(phase(&pod), "Failed");
        }
    }
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let table = [
        (Role::Init, Does::Runs, "Pending"),
        (Role::Init, Does::Succeeded, "Pending"),
        (Role::Sidecar, Does::Waits, "Pending"),
    ];
    for (role, does, expected) in table {
        let pod = known(vec![
            container(role, does),
            container(Role::Main, Does::Waits),
        ]);
        assert_eq!(phase(&pod), expected, "{role:?} {does:?}");
    }
    let pod = known(vec![
        container(Role::Init, Does::Succeeded),
        container(Role::Main, Does::Runs),
    ]);
    assert_eq!(phase(&pod), "Running");
    // A sidecar that is being restarted takes no phase back.
    let pod = known(vec![
        container(Role::Sidecar, Does::BacksOff),
        container(Role::Main, Does::Runs),
    ]);
    assert_eq!(phase(&pod), "Running");
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let early = Timestamp::from_second(1000).unwrap();
    let late = Timestamp::from_second(2000).unwrap();
    let time = |status: &PodStatus, kind: &str| {
        let mut conditions = status.conditions.iter().flatten();
        let found = conditions
            .find(|condition| condition.type_ == kind)
            .unwrap();
        (
            found.status.clone(),
            found.last_transition_time.as_ref().unwrap().0,
        )
    };
    let mut pod = known(vec![container(Role::Main, Does::Waits)]);
    let first = compose(&pod, &PodStatus::default(), early);
    pod.containers[0] = container(Role::Main, Does::Runs);
    let second = compose(&pod, &first, late);
    assert_eq!(time(&first, "Ready"), ("False".to_owned(), early));
    assert_eq!(time(&second, "Ready"), ("True".to_owned(), late));
    assert_eq!(time(&second, "PodScheduled"), ("True".to_owned(), early));
}

#[test]
fn a_resize_that_waits_is_a_condition_until_it_is_over() {
    let mut pod = known(vec![container(Role::Main, Does::Runs)]);
    let reason = |pod: &Known| {
        let status = compose(pod, &PodStatus::default(), Timestamp::now());
        let mut conditions = status.conditions.into_iter().flatten();
        conditions
            .find(|one| one.type_ == "PodResizePending")?
            .reason
    };
    assert_eq!(reason(&pod), None);
    pod.pending = Some(Pending {
        reason: "Deferred",
        message: "others have it".to_owned(),
    });
    assert_eq!(reason(&pod).as_deref(), Some("Deferred"));
    pod.pending = None;
    assert_eq!(reason(&pod), None);
}
