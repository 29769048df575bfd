//! The table of `create`, and the shorter one of `exec`.

use crate::stage::{NAME_LIMIT_BYTES, Stage};

pub mod await_cgroup;
pub mod await_init;
pub mod await_start;
pub mod become_user;
pub mod bind_root;
pub mod clone_init;
pub mod create_v1;
pub mod create_v2;
pub mod enter_cwd;
pub mod enter_pids;
pub mod enter_root;
pub mod exec_program;
pub mod filter_calls;
pub mod find_program;
pub mod hooks_inside;
pub mod hooks_runtime;
pub mod hooks_start;
pub mod join_cache;
pub mod join_cgroup;
pub mod join_pids;
pub mod join_spaces;
pub mod limit_init;
pub mod lock_root;
pub mod make_devices;
pub mod make_filter;
pub mod map_ids;
pub mod mask_paths;
pub mod mount_rest;
pub mod mount_tree;
pub mod move_links;
pub mod new_session;
pub mod open_console;
pub mod open_sources;
pub mod own_cgroup;
pub mod own_ids;
pub mod pin_runtime;
pub mod publish_state;
pub mod quiet_mounts;
pub mod record_init;
pub mod reserve_id;
pub mod send_pidfd;
pub mod set_labels;
pub mod set_limits;
pub mod set_names;
pub mod set_schedule;
pub mod set_sysctls;

/// How a container is made, in the order in which a reader may think of it.
///
/// Stages of the two actors run side by side where `after` allows it.
pub const CREATE: &[Stage] = &[
    reserve_id::STAGE,
    make_filter::STAGE,
    create_v2::STAGE,
    open_sources::STAGE,
    clone_init::STAGE,
    map_ids::STAGE,
    join_cache::STAGE,
    create_v1::STAGE,
    record_init::STAGE,
    move_links::STAGE,
    join_spaces::STAGE,
    own_ids::STAGE,
    new_session::STAGE,
    set_names::STAGE,
    set_sysctls::STAGE,
    quiet_mounts::STAGE,
    bind_root::STAGE,
    mount_tree::STAGE,
    await_cgroup::STAGE,
    join_cgroup::STAGE,
    own_cgroup::STAGE,
    mount_rest::STAGE,
    make_devices::STAGE,
    hooks_runtime::STAGE,
    hooks_inside::STAGE,
    enter_root::STAGE,
    open_console::STAGE,
    mask_paths::STAGE,
    lock_root::STAGE,
    join_pids::STAGE,
    set_limits::STAGE,
    set_schedule::STAGE,
    set_labels::STAGE,
    enter_cwd::STAGE,
    become_user::STAGE,
    enter_pids::STAGE,
    find_program::STAGE,
    await_init::STAGE,
    limit_init::STAGE,
    send_pidfd::STAGE,
    publish_state::STAGE,
    await_start::STAGE,
    hooks_start::STAGE,
    filter_calls::STAGE,
    exec_program::STAGE,
];

/// How a program is added to a container that runs.
pub const EXEC: &[Stage] = &[
    make_filter::STAGE,
    pin_runtime::STAGE,
    clone_init::STAGE,
    join_cache::STAGE,
    join_cgroup::STAGE,
    join_spaces::STAGE,
    own_ids::STAGE,
    new_session::STAGE,
    open_console::STAGE,
    set_limits::STAGE,
    set_schedule::STAGE,
    set_labels::STAGE,
    enter_cwd::STAGE,
    become_user::STAGE,
    enter_pids::STAGE,
    find_program::STAGE,
    await_init::STAGE,
    limit_init::STAGE,
    send_pidfd::STAGE,
    await_start::STAGE,
    filter_calls::STAGE,
    exec_program::STAGE,
];

/// The table as Markdown: what `berth-oci stages` prints and `docs/stages.md` holds.
pub fn describe(table: &[Stage]) -> String {
    let mut text =
        String::from("| # | stage | actor | effect | after | see |\n|--:|---|---|---|---|---|\n");
    for (index, stage) in table.iter().enumerate() {
        let after = stage.after.join(", ");
        let line = format!(
            "| {} | `{}` | {} | {} | {after} | {} |\n",
            index + 1,
            stage.name,
            stage.run.actor(),
            stage.effect,
            stage.see.join("; ")
        );
        text.push_str(&line);
    }
    text
}

/// Whether some table has a stage of this name.
pub fn is_known(name: &str) -> bool {
    CREATE.iter().chain(EXEC).any(|stage| stage.name == name)
}

/// Whether init makes this stage only after `start`.
pub fn is_behind_gate(name: &str) -> bool {
    let place = |name: &str| CREATE.iter().position(|stage| stage.name == name);
    place(name) > place(await_start::STAGE.name)
}

/// Names are short enough for the kernel, unique, and `after` is kept by the order.
pub fn check(table: &[Stage]) -> Result<(), String> {
    for (index, stage) in table.iter().enumerate() {
        if stage.name.len() > NAME_LIMIT_BYTES {
            return Err(format!(
                "{}: longer than {NAME_LIMIT_BYTES} bytes",
                stage.name
            ));
        }
        let before = &table[..index];
        if before.iter().any(|other| other.name == stage.name) {
            return Err(format!("{}: stands twice", stage.name));
        }
        for name in stage.after {
            let known = table.iter().any(|other| other.name == *name);
            if known && !before.iter().any(|other| other.name == *name) {
                return Err(format!("{}: stands before {name}", stage.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CREATE, EXEC, check};

    #[test]
    fn the_tables_keep_their_own_order() {
        check(CREATE).expect("create");
        check(EXEC).expect("exec");
    }
}
