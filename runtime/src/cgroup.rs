//! Control groups: where a container's processes are counted and limited.
//!
//! A group is a directory; the kernel fills it with files, and a write to one
//! sets a limit. Version 1 has a separate tree of directories for each
//! controller, version 2 one tree for all, and a hybrid machine has both. So
//! the work is a list of directories to make and an ordered list of files to
//! write, and that list is a value: [`plan_cgroup`] makes a [`CgroupPlan`]
//! without touching anything, `CgroupPlan::create` carries it out, and the plan
//! is kept in the container's `state.json` so that later commands find the
//! same groups again.
//!
//! ```text
//! observe_tree ──▶ CgroupTree ─┐
//! config.json ──▶ CgroupRequest┴▶ plan_cgroup ──▶ CgroupPlan ─▶ create ─▶ attach ─▶ … ─▶ remove
//! ```
//!
//! See cgroups(7), the kernel's `admin-guide/cgroup-v1/` and
//! `admin-guide/cgroup-v2.rst`, and the OCI specification's
//! `config-linux.md#control-groups`.

/// Making directories and writing limits.
mod apply;
/// Putting processes into the groups.
pub mod attach;
/// Bandwidth and weight of block devices.
mod block_io;
/// Other limits for a group that lives, or none of them.
mod change;
/// Processor time and processor sets.
mod cpu;
/// The same rules as an eBPF program, for version 2.
pub mod device_program;
/// Which device nodes may be opened.
pub mod devices;
/// What can go wrong, with the field or the file in it.
pub mod error;
/// The same in the shape of `runc events`.
pub mod event_stats;
/// The few calls that a cgroup filesystem needs.
mod files;
/// Groups inside the container's own, for `exec --cgroup`.
pub mod inner;
/// The small controllers: pids, hugetlb, net_cls, net_prio, rdma, and `unified`.
mod limits;
/// Memory and swap limits.
mod memory;
/// Being told when the kernel kills for lack of memory.
pub mod memory_events;
/// The plan: directories, writes, device rules.
pub mod plan;
/// Looking for, freezing and killing the processes inside.
mod processes;
/// Taking the directories away again.
pub mod remove;
/// What a group used so far.
pub mod stats;
/// The service manager's way to make groups.
pub mod systemd;
/// The hierarchies of this machine: version 1, version 2, hybrid.
pub mod tree;
