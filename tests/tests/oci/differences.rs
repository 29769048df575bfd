//! Where the runtimes are known to differ. A row says that the runtime fails
//! the case; a row whose case passes is an error, so that the table stays true.

/// One known difference.
pub struct Difference {
    /// The test's name.
    pub case: &'static str,
    /// The program's name.
    pub runtime: &'static str,
    /// Why, and why that is all right.
    pub reason: &'static str,
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        case: "limits::half_a_mebibyte_is_enough_for_a_small_program",
        runtime: "runc",
        reason: "runc's init alone has some two mebibytes when the limit is set",
    },
    Difference {
        case: "security::descriptors::a_directory_of_the_rootfs_on_the_hosts_mount_is_outside",
        runtime: "crun",
        reason: "crun 1.8 is of before CVE-2024-21626 and does not ask where it is",
    },
    Difference {
        case: "life::words_that_callers_look_for",
        runtime: "crun",
        reason: "crun has its own words, and callers know both",
    },
    Difference {
        case: "life::unknown_signals_are_refused",
        runtime: "crun",
        reason: "crun takes an unknown name for signal 0, which only asks whether init is there",
    },
    Difference {
        case: "mounts::a_link_without_a_target_gets_one_inside",
        runtime: "crun",
        reason: "crun 1.8 refuses such a link; images have /var/run -> /run without a /run",
    },
    Difference {
        case: "mounts::nothing_is_mounted_over_proc",
        runtime: "crun",
        reason: "crun checks its own uses of procfs instead",
    },
    Difference {
        case: "mounts::a_false_null_device_masks_nothing_wrong",
        runtime: "runc",
        reason: "CVE-2025-31133 was found after 1.1.5",
    },
    Difference {
        case: "mounts::root_propagation_is_as_asked",
        runtime: "runc",
        reason: "runc 1.1 leaves a shared root private; the mounts below it are shared as asked",
    },
    Difference {
        case: "namespaces::without_a_mount_namespace_it_is_in_the_hosts_and_leaves_nothing",
        runtime: "runc",
        reason: "runc refuses masked paths there, and without them leaves the mounts in the host's tree",
    },
    Difference {
        case: "namespaces::without_a_mount_namespace_it_is_in_the_hosts_and_leaves_nothing",
        runtime: "crun",
        reason: "crun leaves the container's mounts in the host's tree",
    },
    Difference {
        case: "namespaces::domain_names_are_the_containers",
        runtime: "runc",
        reason: "domainname came with 1.2",
    },
    Difference {
        case: "hooks::a_failing_one_says_why",
        runtime: "crun",
        reason: "crun lets the hook write to its own standard error",
    },
    Difference {
        case: "hooks::all_six_run_in_order_and_are_told_the_state",
        runtime: "runc",
        reason: "runc 1.1 runs poststart at the end of create",
    },
    Difference {
        case: "process::a_descriptor_as_directory_does_not_reach_the_host",
        runtime: "crun",
        reason: "CVE-2024-21626 was found after 1.8.1",
    },
    Difference {
        case: "process::a_relative_directory_is_refused",
        runtime: "crun",
        reason: "crun takes it from the root",
    },
    Difference {
        case: "process::sockets_of_an_activator_come_through",
        runtime: "crun",
        reason: "crun 1.8 passes LISTEN_FDS without LISTEN_PID",
    },
    Difference {
        case: "cgroups::ps_counts_all",
        runtime: "crun",
        reason: "crun's table is of numbers only",
    },
    Difference {
        case: "cgroups::resume_of_what_runs_is_refused",
        runtime: "crun",
        reason: "crun takes a resume of what runs for done",
    },
    Difference {
        case: "cgroups::processors_that_are_not_there_are_refused",
        runtime: "crun",
        reason: "crun 1.8 leaves its groups behind when a limit is refused",
    },
    Difference {
        case: "limits::files_of_version_2_are_refused_on_version_1",
        runtime: "crun",
        reason: "crun 1.8 leaves its groups behind when a limit is refused",
    },
    Difference {
        case: "exec::flags_change_the_program",
        runtime: "crun",
        reason: "crun 1.8 replaces the environment where --env is given",
    },
    Difference {
        case: "exec::groups_and_capabilities_are_added",
        runtime: "crun",
        reason: "crun has no --additional-gids",
    },
    Difference {
        case: "exec::it_is_where_the_container_is",
        runtime: "crun",
        reason: "crun starts at / where --cwd is not given",
    },
    Difference {
        case: "exec::limits_are_the_containers",
        runtime: "crun",
        reason: "crun gives the program the caller's limits",
    },
    Difference {
        case: "rootless::more_ids_come_from_newuidmap",
        runtime: "runc",
        reason: "runc 1.1 gives no groups to a program of an ordinary user",
    },
    Difference {
        case: "userns::a_network_of_the_hosts_may_be_joined",
        runtime: "runc",
        reason: "runc 1.1 cannot exec there: it joins the user namespace before the network",
    },
    Difference {
        case: "userns::a_cgroup_that_shows_writable_is_handed_over",
        runtime: "runc",
        reason: "runc hands over only where version 2 is all there is",
    },
    Difference {
        case: "console::run_in_the_foreground",
        runtime: "crun",
        reason: "crun does not give the terminal the size of the caller's at the beginning",
    },
    Difference {
        case: "schedule::a_policy_and_its_nice_value_are_as_asked",
        runtime: "runc",
        reason: "process.scheduler came with 1.2",
    },
    Difference {
        case: "schedule::a_policy_and_its_nice_value_are_as_asked",
        runtime: "crun",
        reason: "process.scheduler came after 1.8.1",
    },
    Difference {
        case: "schedule::io_priority_is_as_asked",
        runtime: "runc",
        reason: "process.ioPriority came with 1.2",
    },
    Difference {
        case: "schedule::io_priority_is_as_asked",
        runtime: "crun",
        reason: "process.ioPriority came after 1.8.1",
    },
    Difference {
        case: "schedule::personality_is_as_asked",
        runtime: "runc",
        reason: "linux.personality came with 1.2",
    },
    Difference {
        case: "labels::the_session_keyring_is_the_containers_and_can_be_searched",
        runtime: "crun",
        reason: "crun names it by the container's id alone",
    },
    Difference {
        case: "labels::an_empty_label_asks_for_none",
        runtime: "crun",
        reason: "crun 1.8 takes an empty label for a label",
    },
];
