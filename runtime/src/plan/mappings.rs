//! Which ids of the host stand behind the ids of a user namespace.
//!
//! A user namespace has ids of its own, 0 among them; each line of
//! `/proc/PID/uid_map` says that `count` of them, from `inside` on, are those
//! from `outside` on in the namespace around it. Whoever is 0 inside has every
//! capability over what the namespace owns, and on the host is nobody.
//!
//! Read more: user_namespaces(7), config-linux.md#user-namespace-mappings. Try
//! `unshare -Ur cat /proc/self/uid_map`.

use std::fmt::Write as _;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxIdMapping};
use serde::{Deserialize, Serialize};

use super::SpecError;
use super::namespaces::NamespacePlan;

/// As many lines as the kernel takes (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15).
const COUNT_LIMIT: usize = 340;

/// The kernel takes a map in one write, which must be shorter than a page.
const TEXT_LIMIT_BYTES: usize = 4096;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// Its first id in the namespace.
    pub inside: u32,
    /// The id on the host that stands behind it.
    pub outside: u32,
    /// How many follow, itself included.
    pub count: u32,
}

/// The two maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mappings {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

impl Mappings {
    /// The user that sets the container up from within: 0, or the first that there is.
    pub fn root_uid(&self) -> u32 {
        root_of(&self.uids)
    }

    /// The group that sets the container up from within.
    pub fn root_gid(&self) -> u32 {
        root_of(&self.gids)
    }
}

/// What stands behind an id on the host; `None` where it is not mapped.
pub fn outside_of(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let step = inside.checked_sub(range.inside)?;
        (step < range.count).then_some(range.outside.checked_add(step)?)
    })
}

/// The text that `/proc/PID/uid_map` takes, and the one that it shows but for blanks.
pub fn text_of(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        // A String has room for everything.
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
    }
    text
}

/// Reads what [`text_of`] writes, or what the kernel shows.
pub fn parse(text: &str) -> Option<Vec<IdRange>> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        Some(IdRange {
            inside: numbers.next()?.ok()?,
            outside: numbers.next()?.ok()?,
            count: numbers.next()?.ok()?,
        })
    };
    text.lines().map(range).collect()
}

/// The container's own maps: there where it has a user namespace, and only there.
/// One that is joined has its maps already; the configuration may repeat them.
///
/// # Errors
///
/// Maps without a namespace, a new namespace without maps, and as [`plan_ranges`].
pub fn plan_mappings(
    linux: &Linux,
    namespaces: &NamespacePlan,
) -> Result<Option<Mappings>, SpecError> {
    let given = [
        ("linux.uidMappings", linux.uid_mappings()),
        ("linux.gidMappings", linux.gid_mappings()),
    ];
    let filled = |list: &Option<Vec<LinuxIdMapping>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if !namespaces.has_own(CloneFlags::CLONE_NEWUSER) {
        return match given.iter().find(|(_, list)| filled(list)) {
            Some((field, _)) => {
                let reason = "there is no user namespace in linux.namespaces to have them";
                Err(SpecError::new(*field, reason))
            }
            None => Ok(None),
        };
    }
    let is_new = namespaces.new.contains(CloneFlags::CLONE_NEWUSER);
    let mut planned = given.iter().map(|(field, list)| {
        if is_new && !filled(list) {
            let reason = "expected at least one, for linux.namespaces asks for a new user \
                namespace, and nobody could be root in it";
            return Err(SpecError::new(*field, reason));
        }
        plan_ranges(field, list.as_deref().unwrap_or(&[]))
    });
    let mut next = || planned.next().expect("there are two");
    Ok(Some(Mappings {
        uids: next()?,
        gids: next()?,
    }))
}

/// Checks one list.
///
/// # Errors
///
/// More than the kernel takes, a range of none, one that runs past the last id,
/// and two that meet on either side.
pub fn plan_ranges(field: &str, list: &[LinuxIdMapping]) -> Result<Vec<IdRange>, SpecError> {
    let ranges: Vec<IdRange> = list
        .iter()
        .map(|mapping| IdRange {
            inside: mapping.container_id(),
            outside: mapping.host_id(),
            count: mapping.size(),
        })
        .collect();
    check_ranges(field, &ranges)?;
    Ok(ranges)
}

/// What [`plan_ranges`] checks.
///
/// # Errors
///
/// As there.
pub fn check_ranges(field: &str, ranges: &[IdRange]) -> Result<(), SpecError> {
    if ranges.len() > COUNT_LIMIT || text_of(ranges).len() >= TEXT_LIMIT_BYTES {
        let reason = format!(
            "expected at most {COUNT_LIMIT} ranges in less than {TEXT_LIMIT_BYTES} bytes, \
             which is what the kernel takes; found {}",
            ranges.len()
        );
        return Err(SpecError::new(field, reason));
    }
    for (index, range) in ranges.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if range.count == 0 {
            let reason = "expected 1 or more ids, found 0";
            return Err(SpecError::new(format!("{field}.size"), reason));
        }
        // 4294967295 is (uid_t)-1, which means "no id" to every call.
        let fits = |first: u32| u64::from(first) + u64::from(range.count) <= u64::from(u32::MAX);
        for (name, first) in [("containerID", range.inside), ("hostID", range.outside)] {
            if !fits(first) {
                let reason = format!("{first} and {} ids run past 4294967294", range.count);
                return Err(SpecError::new(format!("{field}.{name}"), reason));
            }
        }
        for (other_index, other) in ranges[..index].iter().enumerate() {
            if let Some(name) = meeting(range, other) {
                let reason = format!("its ids meet those of [{other_index}]");
                return Err(SpecError::new(format!("{field}.{name}"), reason));
            }
        }
    }
    Ok(())
}

/// On which side two ranges have an id in common.
fn meeting(one: &IdRange, other: &IdRange) -> Option<&'static str> {
    let meet = |a: u32, b: u32| {
        let (a, b) = (u64::from(a), u64::from(b));
        a < b + u64::from(other.count) && b < a + u64::from(one.count)
    };
    if meet(one.inside, other.inside) {
        Some("containerID")
    } else if meet(one.outside, other.outside) {
        Some("hostID")
    } else {
        None
    }
}

fn root_of(ranges: &[IdRange]) -> u32 {
    // Of a joined namespace nothing may be known; 0 is what nearly all have.
    match (outside_of(ranges, 0), ranges.first()) {
        (None, Some(first)) => first.inside,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{IdRange, check_ranges, outside_of, parse, text_of};

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    fn refusal(ranges: &[IdRange]) -> String {
        check_ranges("linux.uidMappings", ranges)
            .expect_err("it is refused")
            .to_string()
    }

    #[test]
    fn what_the_kernel_would_refuse_is_told_by_field() {
        assert_eq!(
            refusal(&[range(0, 1000, 0)]),
            "config.json: linux.uidMappings[0].size: expected 1 or more ids, found 0"
        );
        assert_eq!(
            refusal(&[range(0, 1000, 10), range(9, 5000, 1)]),
            "config.json: linux.uidMappings[1].containerID: its ids meet those of [0]"
        );
        assert_eq!(
            refusal(&[range(0, 1000, 10), range(10, 1005, 1)]),
            "config.json: linux.uidMappings[1].hostID: its ids meet those of [0]"
        );
        assert!(
            refusal(&[range(0, u32::MAX, 1)]).contains("hostID: 4294967295 and 1 ids run past")
        );
        let many: Vec<IdRange> = (0..341).map(|id| range(id, id, 1)).collect();
        assert!(refusal(&many).contains("at most 340"));
        assert!(check_ranges("f", &many[..340]).is_ok());
        assert!(check_ranges("f", &[range(0, 0, u32::MAX)]).is_ok());
    }

    #[test]
    fn ids_are_found_on_the_other_side() {
        let ranges = [range(0, 1000, 1), range(1, 100_000, 65_535)];
        assert_eq!(outside_of(&ranges, 0), Some(1000));
        assert_eq!(outside_of(&ranges, 1), Some(100_000));
        assert_eq!(outside_of(&ranges, 65_535), Some(165_534));
        assert_eq!(outside_of(&ranges, 65_536), None);
        assert_eq!(text_of(&ranges), "0 1000 1\n1 100000 65535\n");
        let shown = "         0       1000          1\n         1     100000      65535\n";
        assert_eq!(parse(shown).as_deref(), Some(ranges.as_slice()));
    }
}
