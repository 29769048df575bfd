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
        case: "namespaces::domain_names_are_the_containers",
        runtime: "runc",
        reason: "domainname came with 1.2",
    },
];
