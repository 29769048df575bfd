//! The outline for people: one block a subject, one line a fact.

use std::fmt::{self, Display, Write};

use super::cgroups::{Cgroups, Group, Write as FileWrite};
use super::mounts::{Devices, Mount, Node};
use super::placement::{Extensions, Placement};
use super::process::{Process, Schedule};
use super::steps::{Filter, Hook, Step};
use super::{How, Namespace, Outline};

/// How wide the first column is.
const NAME_COLUMNS: usize = 14;

impl Display for Outline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outline {
            version: _,
            id,
            bundle,
            root,
            namespaces,
            hostname,
            domainname,
            mounts,
            devices,
            sysctls,
            masked_paths,
            readonly_paths,
            cgroups,
            process,
            hooks,
            seccomp,
            placement,
            annotations,
            stages,
        } = self;
        line(out, "container", id)?;
        line(out, "bundle", bundle)?;
        let mode = if root.readonly {
            "read-only"
        } else {
            "writable"
        };
        line(
            out,
            "root",
            format_args!("{}, {mode}, {}", root.path, root.propagation),
        )?;
        for (name, value) in [("hostname", hostname), ("domainname", domainname)] {
            if let Some(value) = value {
                line(out, name, value)?;
            }
        }
        title(out, "namespaces")?;
        namespaces
            .iter()
            .try_for_each(|namespace| write_namespace(out, namespace))?;
        title(out, "mounts")?;
        mounts
            .iter()
            .try_for_each(|mount| write_mount(out, mount))?;
        write_devices(out, devices.as_ref())?;
        pairs(out, "kernel parameters", sysctls)?;
        list(out, "nothing is seen at", masked_paths)?;
        list(out, "nothing is written below", readonly_paths)?;
        write_cgroups(out, cgroups.as_ref())?;
        write_process(out, process)?;
        write_hooks(out, hooks)?;
        write_filter(out, seccomp.as_ref())?;
        write_placement(out, placement)?;
        pairs(out, "annotations", annotations)?;
        title(out, "stages")?;
        stages.iter().try_for_each(|step| write_step(out, step))
    }
}

fn title(out: &mut impl Write, name: &str) -> fmt::Result {
    writeln!(out, "\n{name}")
}

fn line(out: &mut impl Write, name: &str, value: impl Display) -> fmt::Result {
    writeln!(out, "{name:NAME_COLUMNS$}  {value}")
}

fn row(out: &mut impl Write, name: &str, value: impl Display) -> fmt::Result {
    writeln!(out, "  {name:NAME_COLUMNS$}  {value}")
}

fn list(out: &mut impl Write, name: &str, items: &[String]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    title(out, name)?;
    items.iter().try_for_each(|item| writeln!(out, "  {item}"))
}

fn pairs(
    out: &mut impl Write,
    name: &str,
    items: &std::collections::BTreeMap<String, String>,
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    title(out, name)?;
    let mut items = items.iter();
    items.try_for_each(|(name, value)| writeln!(out, "  {name} = {value}"))
}

fn write_namespace(out: &mut impl Write, namespace: &Namespace) -> fmt::Result {
    let path = namespace.path.as_deref().unwrap_or_default();
    match namespace.how {
        How::New => row(out, namespace.kind, "new"),
        How::Joined => row(out, namespace.kind, format_args!("joins {path}")),
        How::Shared => row(out, namespace.kind, "shared with the caller"),
    }
}

fn write_mount(out: &mut impl Write, mount: &Mount) -> fmt::Result {
    let mut words: Vec<String> = mount.flags.iter().map(|word| (*word).to_owned()).collect();
    words.extend(mount.recursive_flags.iter().map(|word| format!("r{word}")));
    words.extend(mount.propagation.iter().cloned());
    words.extend(mount.copies_up.then(|| "tmpcopyup".to_owned()));
    words.extend(mount.owners.iter().cloned());
    words.extend(mount.data.iter().cloned());
    let words = match words.is_empty() {
        true => String::new(),
        false => format!(" ({})", words.join(",")),
    };
    row(
        out,
        &mount.destination,
        format_args!("{} of {}{words}", mount.kind, mount.source),
    )?;
    row(out, "", format_args!("{}: {}", mount.stage, mount.made_by))
}

fn write_devices(out: &mut impl Write, devices: Option<&Devices>) -> fmt::Result {
    title(out, "devices")?;
    let Some(devices) = devices else {
        return writeln!(out, "  none: /dev is the host's own");
    };
    for node in &devices.nodes {
        let Node {
            path,
            kind,
            major,
            minor,
            mode,
            uid,
            gid,
        } = node;
        row(
            out,
            path,
            format_args!("{kind} {major}:{minor} mode {mode} owner {uid}:{gid}"),
        )?;
    }
    let mut links = devices.links.iter();
    links.try_for_each(|link| row(out, &link.path, format_args!("-> {}", link.target)))
}

fn write_cgroups(out: &mut impl Write, cgroups: Option<&Cgroups>) -> fmt::Result {
    title(out, "cgroups")?;
    let Some(cgroups) = cgroups else {
        return writeln!(out, "  none are made");
    };
    for group in &cgroups.groups {
        let Group {
            version,
            controllers,
            directory,
            enable,
            writes,
        } = group;
        let counts = match controllers.is_empty() {
            true => "no controller".to_owned(),
            false => controllers.join(","),
        };
        writeln!(out, "  {directory} (version {version}: {counts})")?;
        if !enable.is_empty() {
            writeln!(out, "    switched on above it: {}", enable.join(", "))?;
        }
        for write in writes {
            let FileWrite {
                file,
                value,
                field,
                if_refused,
            } = write;
            writeln!(
                out,
                "    {file} = {value:?} ({field}; if refused: {if_refused})"
            )?;
        }
    }
    if let Some(scope) = &cgroups.scope {
        writeln!(
            out,
            "  systemd {} ({}) makes {} with:",
            scope.systemd_version, scope.bus, scope.unit
        )?;
        for property in &scope.properties {
            writeln!(out, "    {property}")?;
        }
    }
    list(out, "device rules, the later wins", &cgroups.device_rules)
}

fn write_process(out: &mut impl Write, process: &Process) -> fmt::Result {
    let Process {
        args,
        env,
        cwd,
        uid,
        gid,
        additional_gids,
        umask,
        capabilities,
        rlimits,
        no_new_privileges,
        oom_score_adj,
        schedule,
        selinux_label,
        apparmor_profile,
        terminal,
    } = process;
    title(out, "process")?;
    row(out, "args", format_args!("{args:?}"))?;
    env.iter()
        .try_for_each(|variable| row(out, "env", variable))?;
    row(out, "cwd", cwd)?;
    row(
        out,
        "user",
        format_args!("{uid}:{gid}, other groups {additional_gids:?}, umask {umask}"),
    )?;
    let sets = [
        ("bounding", &capabilities.bounding),
        ("effective", &capabilities.effective),
        ("permitted", &capabilities.permitted),
        ("inheritable", &capabilities.inheritable),
        ("ambient", &capabilities.ambient),
    ];
    for (name, set) in sets {
        let text = match set.is_empty() {
            true => "no capabilities".to_owned(),
            false => set.join(" "),
        };
        row(out, name, text)?;
    }
    for limit in rlimits {
        row(
            out,
            limit.name,
            format_args!("{} soft, {} hard", limit.soft, limit.hard),
        )?;
    }
    let may = if *no_new_privileges {
        "gains no rights by an exec"
    } else {
        "may gain rights by an exec"
    };
    row(out, "exec", may)?;
    if let Some(score) = oom_score_adj {
        row(out, "OOM score", score)?;
    }
    write_schedule(out, schedule)?;
    for (name, label) in [("SELinux", selinux_label), ("AppArmor", apparmor_profile)] {
        if let Some(label) = label {
            row(out, name, label)?;
        }
    }
    match terminal {
        None => row(out, "terminal", "none"),
        Some(size) => match (size.height, size.width) {
            (Some(height), Some(width)) => row(
                out,
                "terminal",
                format_args!("{height} rows, {width} columns"),
            ),
            _ => row(out, "terminal", "of its caller's size"),
        },
    }
}

fn write_schedule(out: &mut impl Write, schedule: &Schedule) -> fmt::Result {
    let Schedule {
        scheduler,
        io_priority,
        initial_processors,
        final_processors,
    } = schedule;
    if let Some(scheduler) = scheduler {
        row(out, "scheduler", format_args!("{scheduler:?}"))?;
    }
    if let Some(priority) = io_priority {
        row(out, "I/O priority", format_args!("{priority:#x}"))?;
    }
    for (name, set) in [
        ("init runs on", initial_processors),
        ("runs on", final_processors),
    ] {
        if let Some(set) = set {
            row(out, name, format_args!("processors {set:?}"))?;
        }
    }
    Ok(())
}

/// Only what was asked for: few containers do.
fn write_placement(out: &mut impl Write, placement: &Placement) -> fmt::Result {
    let Placement {
        id_mappings,
        clock_offsets,
        mount_label,
        network_devices,
        intel_rdt,
        personality,
        memory_policy,
        extensions,
    } = placement;
    let Extensions {
        keeps_groups,
        pidfd_receiver,
        refuses_unknown_calls,
        raw_filter_instructions,
    } = extensions;
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.extend(id_mappings.iter().map(|range| ("ids", range.clone())));
    rows.extend(clock_offsets.iter().map(|clock| ("clock", clock.clone())));
    rows.extend(mount_label.clone().map(|label| ("mount label", label)));
    rows.extend(network_devices.iter().map(|device| {
        (
            "moves in",
            format!("{} as {}", device.name, device.new_name),
        )
    }));
    rows.extend(
        intel_rdt
            .as_ref()
            .map(|group| ("resctrl", format!("{group:?}"))),
    );
    rows.extend(personality.clone().map(|flags| ("personality", flags)));
    rows.extend(memory_policy.as_ref().map(|policy| {
        (
            "memory policy",
            format!("mode {:#x}, nodes {:?}", policy.mode, policy.nodes),
        )
    }));
    rows.extend(keeps_groups.then(|| ("groups", "the caller's are kept".to_owned())));
    rows.extend(
        pidfd_receiver
            .clone()
            .map(|socket| ("pidfd goes to", socket)),
    );
    rows.extend(refuses_unknown_calls.then(|| ("filter", "unknown calls are an error".to_owned())));
    rows.extend(
        raw_filter_instructions
            .map(|count| ("filter", format!("{count} instructions of the caller's"))),
    );
    if rows.is_empty() {
        return Ok(());
    }
    title(out, "placement and extensions")?;
    rows.iter()
        .try_for_each(|(name, value)| row(out, name, value))
}

fn write_hooks(out: &mut impl Write, hooks: &[Hook]) -> fmt::Result {
    if hooks.is_empty() {
        return Ok(());
    }
    title(out, "hooks, in order")?;
    for hook in hooks {
        let limit = match hook.timeout_seconds {
            Some(seconds) => format!(", at most {seconds} s"),
            None => String::new(),
        };
        let Hook {
            order,
            moment,
            by,
            path,
            args,
            ..
        } = hook;
        writeln!(out, "  {order}. {moment} (by {by}): {path} {args:?}{limit}")?;
    }
    Ok(())
}

fn write_filter(out: &mut impl Write, filter: Option<&Filter>) -> fmt::Result {
    title(out, "seccomp")?;
    let Some(filter) = filter else {
        return writeln!(out, "  no filter: every system call is allowed");
    };
    row(out, "default", &filter.default_action)?;
    for (action, count) in &filter.rules_by_action {
        row(out, "rules", format_args!("{count} of {action}"))?;
    }
    if !filter.architectures.is_empty() {
        row(out, "also for", filter.architectures.join(" "))?;
    }
    if !filter.flags.is_empty() {
        row(out, "flags", filter.flags.join(" "))?;
    }
    row(
        out,
        "program",
        if filter.cached {
            "is kept on disk"
        } else {
            "is compiled by this call"
        },
    )
}

fn write_step(out: &mut impl Write, step: &Step) -> fmt::Result {
    let Step {
        order,
        name,
        actor,
        effect,
        idle,
    } = step;
    match idle {
        None => writeln!(out, "  {order:2}. {name:13}  {actor:7}  {effect}"),
        Some(why) => writeln!(
            out,
            "  {order:2}. {name:13}  {actor:7}  nothing to do: {why}"
        ),
    }
}
