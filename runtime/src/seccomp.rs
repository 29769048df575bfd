//! System call filters: what a container may ask the kernel at all.
//!
//! A filter is a small program (classic BPF) that the kernel runs before every
//! system call. The specification describes it by names; the program compares
//! numbers, which differ between architectures. So the work has three steps:
//!
//! ```text
//! linux.seccomp ─ plan_filter ─▶ FilterPlan ─ compile_filter ─▶ BpfProgram ─ sys::seccomp::install
//!                 (pure, checks)   │ digest        ▲ │ libseccomp, 10 ms
//!                                  └──▶ cache ─────┘ └─▶ cache        50 us when it is there
//! ```
//!
//! A filter can never be taken off again, and it holds for all children. It is
//! installed as the last step before exec, because it would also filter what
//! the runtime itself still has to do.
//!
//! See seccomp(2), `Documentation/userspace-api/seccomp_filter.rst`, and the
//! OCI specification's `config-linux.md#seccomp`.

/// Compiled filters on disk.
mod cache;
/// From the plan to the program.
pub mod compile;
/// What can go wrong, with the field in it.
pub mod error;
/// What keeps new programs from dying on an old list.
mod newer;
/// The plan: names, comparisons and verdicts, checked.
pub mod plan;
/// Our own default: `RuntimeDefault`.
pub mod profile;
/// The default's system calls, group by group.
mod profile_table;
