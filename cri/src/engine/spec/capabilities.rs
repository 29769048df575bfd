//! Which capabilities a program keeps.
//!
//! Linux splits root's power into 41 capabilities (capabilities(7)). A program
//! in a container gets 14 of them unless the request adds or drops some.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::Privilege;
use crate::engine::error::Error;
use crate::v1;

/// What a program in a container keeps when nothing else is asked for: the set
/// that every engine grants, so that images work alike on all of them.
pub const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All capabilities in the order of their numbers (`linux/capability.h`).
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The capabilities of a mask as `/proc/PID/status` prints it (`CapBnd`).
pub fn from_mask(mask: u64) -> HashSet<Capability> {
    BY_NUMBER
        .iter()
        .enumerate()
        .filter(|(number, _)| mask & (1 << number) != 0)
        .map(|(_, capability)| *capability)
        .collect()
}

/// The five sets of a program.
///
/// `held` is what this process could give away: `ALL` means all of those,
/// because a container cannot have more than its maker. A request adds to
/// `usual` and drops from it.
///
/// # Errors
///
/// `Invalid` for a name that is no capability.
pub fn plan_capabilities(
    requested: &v1::Capability,
    usual: &HashSet<Capability>,
    held: &HashSet<Capability>,
    privilege: Privilege,
) -> Result<LinuxCapabilities, Error> {
    let kept = match privilege {
        Privilege::Privileged => held.clone(),
        Privilege::Confined => add_and_drop(requested, usual, held)?,
    };
    let mut ambient = HashSet::new();
    for name in &requested.add_ambient_capabilities {
        let capability = parse("add_ambient_capabilities", name)?;
        // The kernel takes only what is permitted and inheritable too.
        ambient.insert(capability);
    }
    let kept: HashSet<Capability> = kept.union(&ambient).copied().collect();
    let mut sets = LinuxCapabilitiesBuilder::default()
        .bounding(kept.clone())
        .effective(kept.clone())
        .permitted(kept)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?;
    // Inheritable stays empty otherwise: a program with file capabilities
    // would gain from it what was meant for another (CVE-2022-24769).
    sets.set_inheritable(Some(ambient.clone()));
    sets.set_ambient(Some(ambient));
    Ok(sets)
}

/// `ALL` first, then single names; what is dropped stays dropped.
fn add_and_drop(
    requested: &v1::Capability,
    usual: &HashSet<Capability>,
    held: &HashSet<Capability>,
) -> Result<HashSet<Capability>, Error> {
    let mut kept = usual.clone();
    if requested.add_capabilities.iter().any(|name| is_all(name)) {
        kept.clone_from(held);
    }
    if requested.drop_capabilities.iter().any(|name| is_all(name)) {
        kept.clear();
    }
    for name in requested
        .add_capabilities
        .iter()
        .filter(|name| !is_all(name))
    {
        kept.insert(parse("add_capabilities", name)?);
    }
    for name in requested
        .drop_capabilities
        .iter()
        .filter(|name| !is_all(name))
    {
        kept.remove(&parse("drop_capabilities", name)?);
    }
    Ok(kept)
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// `NET_ADMIN`, `CAP_NET_ADMIN`, either case.
pub fn read_name(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(short).ok()
}

fn parse(field: &str, name: &str) -> Result<Capability, Error> {
    read_name(name).ok_or_else(|| {
        Error::invalid(format!(
            "linux.security_context.capabilities.{field}: {name:?} is not a capability"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> HashSet<Capability> {
        DEFAULT.into_iter().collect()
    }

    fn held() -> HashSet<Capability> {
        from_mask((1 << 41) - 1)
    }

    fn request(add: &[&str], drop: &[&str], ambient: &[&str]) -> v1::Capability {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        v1::Capability {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            add_ambient_capabilities: owned(ambient),
        }
    }

    fn bounding(request: &v1::Capability) -> HashSet<Capability> {
        plan_capabilities(request, &usual(), &held(), Privilege::Confined)
            .unwrap()
            .bounding()
            .clone()
            .unwrap()
    }

    #[test]
    fn without_a_wish_there_are_fourteen_and_none_is_inherited() {
        let sets = plan_capabilities(
            &request(&[], &[], &[]),
            &usual(),
            &held(),
            Privilege::Confined,
        )
        .unwrap();
        assert_eq!(sets.effective().as_ref().unwrap().len(), 14);
        assert!(sets.inheritable().as_ref().unwrap().is_empty());
        assert!(sets.ambient().as_ref().unwrap().is_empty());
    }

    #[test]
    fn all_and_single_names_combine() {
        let all_but = bounding(&request(&["ALL"], &["CAP_SYS_ADMIN"], &[]));
        assert_eq!(all_but.len(), 40);
        assert!(!all_but.contains(&Capability::SysAdmin));
        let only = bounding(&request(&["net_bind_service"], &["ALL"], &[]));
        assert_eq!(only, HashSet::from([Capability::NetBindService]));
        let both = bounding(&request(&["NET_ADMIN"], &["net_admin"], &[]));
        assert!(!both.contains(&Capability::NetAdmin));
    }

    #[test]
    fn all_is_what_this_process_has() {
        let few = HashSet::from([Capability::Chown]);
        let sets = plan_capabilities(
            &request(&[], &[], &[]),
            &usual(),
            &few,
            Privilege::Privileged,
        )
        .unwrap();
        assert_eq!(sets.bounding().as_ref(), Some(&few));
    }

    #[test]
    fn an_ambient_capability_is_in_every_set() {
        let sets = plan_capabilities(
            &request(&[], &["ALL"], &["CAP_NET_BIND_SERVICE"]),
            &usual(),
            &held(),
            Privilege::Confined,
        )
        .unwrap();
        let one = Some(HashSet::from([Capability::NetBindService]));
        for set in [
            sets.bounding(),
            sets.effective(),
            sets.permitted(),
            sets.inheritable(),
            sets.ambient(),
        ] {
            assert_eq!(set, &one);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_field() {
        let error = plan_capabilities(
            &request(&[], &["CAP_FLY"], &[]),
            &usual(),
            &held(),
            Privilege::Confined,
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("drop_capabilities: \"CAP_FLY\""),
            "{error}"
        );
    }
}
