//! Which ids are taken and which are refused, by the name of the field.

use super::*;
use crate::engine::error::ErrorKind;
use crate::engine::spec::tests::sandbox_with;

const POD: v1::NamespaceMode = v1::NamespaceMode::Pod;
const NODE: v1::NamespaceMode = v1::NamespaceMode::Node;

fn range(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
    v1::IdMapping {
        host_id,
        container_id,
        length,
    }
}

fn options(mode: v1::NamespaceMode, ranges: &[v1::IdMapping]) -> v1::NamespaceOption {
    v1::NamespaceOption {
        pid: v1::NamespaceMode::Container as i32,
        userns_options: Some(v1::UserNamespace {
            mode: mode as i32,
            uids: ranges.to_vec(),
            gids: ranges.to_vec(),
        }),
        ..Default::default()
    }
}

fn refusal(options: v1::NamespaceOption) -> String {
    let error = PodUsers::plan(&sandbox_with(options)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

#[test]
fn a_kubelets_range_is_taken() {
    let config = sandbox_with(options(POD, &[range(0, 131_072, 65_536)]));
    let users = PodUsers::plan(&config).unwrap();
    let mappings = users.mappings().unwrap();
    assert_eq!(outside_of(&mappings.uids, 7), Some(131_079));
    assert_eq!(cri_ranges(&mappings.gids), [range(0, 131_072, 65_536)]);
    let oci = oci_ranges(&mappings.uids).unwrap();
    assert_eq!((oci[0].host_id(), oci[0].size()), (131_072, 65_536));
}

#[test]
fn several_ranges_are_taken_and_none_is_the_engines_choice() {
    let two = [range(1, 200_000, 10), range(0, 1000, 1)];
    let users = PodUsers::plan(&sandbox_with(options(POD, &two))).unwrap();
    assert_eq!(users.mappings().unwrap().uids.len(), 2);
    let none = PodUsers::plan(&sandbox_with(options(POD, &[]))).unwrap();
    assert!(none == PodUsers::ToChoose && none.are_own());
}

#[test]
fn the_hosts_users_are_the_default() {
    for config in [
        v1::PodSandboxConfig::default(),
        sandbox_with(v1::NamespaceOption::default()),
        sandbox_with(options(NODE, &[])),
    ] {
        assert_eq!(PodUsers::plan(&config).unwrap(), PodUsers::Host);
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let of = |ranges: &[v1::IdMapping]| refusal(options(POD, ranges));
    let starts = |text: String, with: &str| {
        let field = format!("{FIELD}{with}");
        assert!(
            text.starts_with(&field),
            "{text} does not begin with {field}"
        );
    };
    starts(of(&[range(0, 1000, 0)]), ".uids[0].length: ");
    starts(
        of(&[range(0, 1000, 100), range(0, 5000, 100)]),
        ".uids[1].container_id: ",
    );
    starts(
        of(&[range(0, 1000, 100), range(100, 1050, 100)]),
        ".uids[1].host_id: ",
    );
    starts(of(&[range(0, u32::MAX - 5, 100)]), ".uids[0].host_id: ");
    starts(
        of(&[range(1, 1000, 100)]),
        ".uids: expected a range that holds 0",
    );
    let mut lacking = options(POD, &[range(0, 1000, 100)]);
    lacking.userns_options.as_mut().unwrap().gids.clear();
    starts(refusal(lacking), ".gids: expected a range that holds 0");
    starts(
        refusal(options(NODE, &[range(0, 0, 1)])),
        ": expected no uids",
    );
    for wrong in [v1::NamespaceMode::Container, v1::NamespaceMode::Target] {
        starts(refusal(options(wrong, &[])), ".mode: expected POD or NODE");
    }
    let mut odd = options(POD, &[]);
    odd.userns_options.as_mut().unwrap().mode = 9;
    starts(refusal(odd), ".mode: 9 is not a mode");
}

#[test]
fn the_hosts_processes_and_queues_are_out_of_reach() {
    for set in [
        |options: &mut v1::NamespaceOption| options.pid = NODE as i32,
        |options: &mut v1::NamespaceOption| options.ipc = NODE as i32,
    ] {
        let mut wrong = options(POD, &[range(0, 1000, 100)]);
        set(&mut wrong);
        assert!(refusal(wrong).contains("NODE cannot be had"));
    }
    let mut network = options(POD, &[range(0, 1000, 100)]);
    network.network = NODE as i32;
    assert!(PodUsers::plan(&sandbox_with(network)).is_ok());
}

#[test]
fn a_container_says_what_its_sandbox_says() {
    let ranges = [range(0, 1000, 100)];
    let own = sandbox_with(options(POD, &ranges));
    let host = sandbox_with(v1::NamespaceOption::default());
    for (sandbox, same) in [
        (&own, v1::NamespaceOption::default()),
        (&own, options(POD, &ranges)),
        (&own, options(POD, &[])),
        (&host, v1::NamespaceOption::default()),
        (&host, options(NODE, &[])),
    ] {
        check_container(sandbox, &same).unwrap();
    }
    for (sandbox, other, field) in [
        (
            &own,
            options(NODE, &[]),
            ".mode: expected that of the sandbox, POD",
        ),
        (
            &host,
            options(POD, &ranges),
            ".mode: expected that of the sandbox, NODE",
        ),
        (
            &own,
            options(POD, &[range(0, 2000, 100)]),
            ".uids: expected those of the sandbox",
        ),
    ] {
        let error = check_container(sandbox, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error.to_string().starts_with(&format!("{FIELD}{field}")),
            "{error}"
        );
    }
}
