//! Id-mapped mounts: files whose owners are other ids on one mount than on disk.
//!
//! A container in a user namespace is 0 inside and 100000 on the host; an image
//! whose files belong to 0 would be foreign to it, and to change the owner of
//! each file takes seconds. A mount with a mapping shows every owner moved, at
//! no cost, and writes back what it shows.
//!
//! The ids of a mapping are read as for a namespace: `containerID` is the id on
//! disk, `hostID` the one that the mount shows to the host.
//!
//! Read more: mount_setattr(2), config.md#mounts; Linux 5.12.

use oci_spec::runtime::Mount;

use super::SpecError;
use super::mappings::{IdRange, Mappings, check_ranges, outside_of, plan_ranges};
use super::options::OptionPlan;
use crate::sys::mount::Depth;

/// How a mount's owners are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdmapPlan {
    /// The mount alone, or all below it.
    pub depth: Depth,
    /// `None`: as the container's own user namespace has it.
    pub mappings: Option<Mappings>,
}

/// Decides whether a mount is mapped, and how.
///
/// # Errors
///
/// A mapping of users without one of groups, or the reverse; one for something
/// that is no bind mount; none given and no user namespace to take it from.
pub fn plan_idmap(
    field: &dyn Fn(&str) -> String,
    mount: &Mount,
    options: &OptionPlan,
    own: Option<&Mappings>,
) -> Result<Option<IdmapPlan>, SpecError> {
    let uids = mount.uid_mappings().as_deref().unwrap_or(&[]);
    let gids = mount.gid_mappings().as_deref().unwrap_or(&[]);
    let missing = match (uids.is_empty(), gids.is_empty()) {
        (true, false) => Some("uidMappings"),
        (false, true) => Some("gidMappings"),
        _ => None,
    };
    if let Some(name) = missing {
        let reason = "expected with the other of uidMappings and gidMappings: both or none";
        return Err(SpecError::new(field(name), reason));
    }
    let wanted = options.idmap.as_ref();
    if uids.is_empty() && wanted.is_none() {
        return Ok(None);
    }
    // Without a word about it the mapping is the mount's alone, as in runc.
    let (depth, text) = wanted.map_or((Depth::One, None), |(depth, text)| {
        (*depth, text.as_deref())
    });
    let mappings = match (uids.is_empty(), text) {
        (false, _) => Some(Mappings {
            uids: plan_ranges(&field("uidMappings"), uids)?,
            gids: plan_ranges(&field("gidMappings"), gids)?,
        }),
        (true, Some(text)) => Some(parse_text(&field("options"), text, own)?),
        (true, None) if own.is_some() => None,
        (true, None) => {
            let reason = "idmap: expected uidMappings and gidMappings with it, or a user namespace \
                of the container's own to take them from";
            return Err(SpecError::new(field("options"), reason));
        }
    };
    Ok(Some(IdmapPlan { depth, mappings }))
}

/// crun's way to write a mapping, which podman 4 hands on:
/// `uids=DISK-HOST-COUNT#…;gids=…`; with an `@` before the first number HOST is
/// an id of the container's.
fn parse_text(field: &str, text: &str, own: Option<&Mappings>) -> Result<Mappings, SpecError> {
    let refuse = |reason: &str| SpecError::new(field, format!("idmap={text}: {reason}"));
    let mut mappings = Mappings::default();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (list, known, ranges) = if let Some(list) = part.strip_prefix("uids=") {
            (list, own.map(|own| &own.uids), &mut mappings.uids)
        } else if let Some(list) = part.strip_prefix("gids=") {
            (list, own.map(|own| &own.gids), &mut mappings.gids)
        } else {
            return Err(refuse("expected uids= and gids="));
        };
        for triple in list.split('#').filter(|triple| !triple.is_empty()) {
            let (triple, relative) = match triple.strip_prefix('@') {
                Some(rest) => (rest, true),
                None => (triple, false),
            };
            let mut range = parse_triple(triple)
                .ok_or_else(|| refuse("expected DISK-HOST-COUNT in numbers"))?;
            if relative {
                let known = known.ok_or_else(|| refuse("@ needs a user namespace"))?;
                range.outside = outside_of(known, range.outside)
                    .ok_or_else(|| refuse("the id after @ is not the container's"))?;
            }
            ranges.push(range);
        }
    }
    if mappings.uids.is_empty() || mappings.gids.is_empty() {
        return Err(refuse("expected uids= and gids="));
    }
    check_ranges(field, &mappings.uids)?;
    check_ranges(field, &mappings.gids)?;
    Ok(mappings)
}

fn parse_triple(text: &str) -> Option<IdRange> {
    let mut numbers = text.split('-').map(str::parse);
    let range = IdRange {
        inside: numbers.next()?.ok()?,
        outside: numbers.next()?.ok()?,
        count: numbers.next()?.ok()?,
    };
    numbers.next().is_none().then_some(range)
}

#[cfg(test)]
mod tests {
    use super::super::mappings::{IdRange, Mappings};
    use super::parse_text;

    #[test]
    fn cruns_text_is_read() {
        let own = IdRange {
            inside: 0,
            outside: 5000,
            count: 100,
        };
        let own = Mappings {
            uids: vec![own],
            gids: vec![own],
        };
        let read = parse_text("o", "uids=0-1-10#@10-7-2;gids=3-4-5", Some(&own)).expect("sound");
        let range = |inside, outside, count| IdRange {
            inside,
            outside,
            count,
        };
        assert_eq!(read.uids, [range(0, 1, 10), range(10, 5007, 2)]);
        assert_eq!(read.gids, [range(3, 4, 5)]);
        for bad in [
            "uids=0-1-1",
            "uids=0-1;gids=0-1-1",
            "uids=@0-200-1;gids=0-0-1",
            "x",
        ] {
            parse_text("o", bad, Some(&own)).expect_err(bad);
        }
    }
}
