use std::collections::HashSet;

use oci_spec::runtime::Capability;

use super::default_profile;
use crate::seccomp::plan::{Verdict, plan_filter};
use crate::seccomp::profile_table::{ALLOWED, WITH_CAPABILITY};

/// What the profile says about a call without arguments that matter.
fn verdict(capabilities: &[Capability], name: &str) -> Verdict {
    let set: HashSet<Capability> = capabilities.iter().copied().collect();
    let plan = plan_filter(&default_profile(&set).expect("a profile")).expect("a plan");
    plan.rules
        .iter()
        .find(|rule| rule.name == name)
        .map_or(plan.default, |rule| rule.verdict)
}

#[test]
fn no_call_is_listed_twice_in_a_group_or_for_everybody() {
    let mut seen = HashSet::new();
    for name in ALLOWED
        .iter()
        .flat_map(|(_, names)| names.split_whitespace())
    {
        assert!(seen.insert(name), "{name} is there twice");
    }
    for (capability, names) in WITH_CAPABILITY {
        for name in names.split_whitespace() {
            assert!(!seen.contains(name), "{name} needs no {capability:?}");
        }
    }
}

#[test]
fn capabilities_open_their_calls() {
    for (capability, name) in [
        (Capability::SysAdmin, "mount"),
        (Capability::SysChroot, "chroot"),
        (Capability::SysTime, "settimeofday"),
        (Capability::SysModule, "init_module"),
    ] {
        assert_eq!(verdict(&[], name), Verdict::Errno(1), "{name}");
        assert_eq!(verdict(&[capability], name), Verdict::Allow, "{name}");
    }
}

#[test]
fn clone3_looks_unknown_to_the_unprivileged() {
    assert_eq!(verdict(&[], "clone3"), Verdict::Errno(38));
    assert_eq!(verdict(&[Capability::SysAdmin], "clone3"), Verdict::Allow);
}

#[test]
fn the_known_ways_out_are_closed() {
    for name in [
        "io_uring_setup",
        "keyctl",
        "userfaultfd",
        "kexec_load",
        "swapon",
        "bpf",
        "setns",
    ] {
        assert_eq!(verdict(&[], name), Verdict::Errno(1), "{name}");
    }
}
