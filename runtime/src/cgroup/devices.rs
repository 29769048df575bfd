//! Device rules: which device nodes a container may read, write or make.
//!
//! A device node is only a pair of numbers on a file. Whoever may `mknod` can
//! name the host's disk, so what protects the disk is the check at `open(2)`
//! and `mknod(2)`, and cgroups hold that check. The specification's list is
//! read from top to bottom and the later rule wins. We always begin with
//! "deny everything" and always end with the handful of devices that the
//! specification's runtime section promises to every container.
//!
//! Version 1 keeps the result as a default and a set of exceptions
//! (`devices.deny`, `devices.allow`); version 2 asks an eBPF program, see
//! [`super::device_program`].
//!
//! See the kernel's `admin-guide/cgroup-v1/devices.rst` and, for the list,
//! `config-linux.md#default-devices`.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::plan::HierarchyPlan;
use super::tree::CgroupVersion;

const FIELD: &str = "linux.resources.devices";

/// The two kinds of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// Rights on a device: a set of the three below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Access(u8);

impl Access {
    // The bits are the kernel's BPF_DEVCG_ACC_*, so a program can use them as they are.
    /// The node may be made.
    pub const MAKE: Self = Self(1);
    /// The device may be opened for reading.
    pub const READ: Self = Self(2);
    /// The device may be opened for writing.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// The rights in both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every right of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any right is in both sets.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits as the kernel's eBPF interface has them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    fn parse(text: &str, field: &str) -> Result<Self, CgroupError> {
        let mut access = Self(0);
        for letter in text.chars() {
            access = access.union(match letter {
                'm' => Self::MAKE,
                'r' => Self::READ,
                'w' => Self::WRITE,
                _ => {
                    return Err(CgroupError::invalid(
                        field,
                        format!("expected letters of \"rwm\", found {text:?}"),
                    ));
                }
            });
        }
        Ok(access)
    }

    /// The rights as the files of version 1 have them.
    pub fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MAKE, 'm')]
            .into_iter()
            .filter(|(right, _)| self.contains(*right))
            .map(|(_, letter)| letter)
            .collect()
    }
}

/// One rule. A missing kind or number stands for every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Block or character; none for both, and then the numbers are none too.
    pub kind: Option<DeviceKind>,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
    /// The rights that are given or taken.
    pub access: Access,
}

/// What a process asks for when it opens or makes a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceRequest {
    /// Block or character.
    pub kind: DeviceKind,
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The rights that are asked for, all at once.
    pub access: Access,
}

const DENY_ALL: DeviceRule = DeviceRule {
    allow: false,
    kind: None,
    major: None,
    minor: None,
    access: Access::ALL,
};

/// What every container may use: kind, major, minor, rights.
const DEFAULTS: [(DeviceKind, Option<u32>, Option<u32>, Access); 11] = [
    // Making any node is harmless as long as opening it is not allowed, and
    // package managers and `tar` do it.
    (DeviceKind::Char, None, None, Access::MAKE),
    (DeviceKind::Block, None, None, Access::MAKE),
    // null, zero, full, random, urandom
    (DeviceKind::Char, Some(1), Some(3), Access::ALL),
    (DeviceKind::Char, Some(1), Some(5), Access::ALL),
    (DeviceKind::Char, Some(1), Some(7), Access::ALL),
    (DeviceKind::Char, Some(1), Some(8), Access::ALL),
    (DeviceKind::Char, Some(1), Some(9), Access::ALL),
    // tty, console, ptmx, and every pseudo-terminal
    (DeviceKind::Char, Some(5), Some(0), Access::ALL),
    (DeviceKind::Char, Some(5), Some(1), Access::ALL),
    (DeviceKind::Char, Some(5), Some(2), Access::ALL),
    (DeviceKind::Char, Some(136), None, Access::ALL),
];

/// Turns the specification's list into rules: "deny all", the list, the defaults.
///
/// # Errors
///
/// [`CgroupError::Invalid`] naming the rule by its index.
pub fn plan_rules(asked: Option<&Vec<LinuxDeviceCgroup>>) -> Result<Vec<DeviceRule>, CgroupError> {
    let mut rules = vec![DENY_ALL];
    for (index, device) in asked.into_iter().flatten().enumerate() {
        add_rules(device, &format!("{FIELD}[{index}]"), &mut rules)?;
    }
    let open = rules
        .iter()
        .rev()
        .find(|rule| rule.kind.is_none())
        .is_some_and(|rule| rule.allow);
    for (kind, major, minor, access) in DEFAULTS {
        let promised = DeviceRule {
            allow: true,
            kind: Some(kind),
            major,
            minor,
            access,
        };
        // In a container that may use all devices (a "privileged" one) only
        // what a rule took away has to be given back, and making nodes is no
        // promise that would override "no block devices".
        if !open
            || (major.is_some()
                && rules
                    .iter()
                    .any(|rule| !rule.allow && rule.meets(&promised)))
        {
            rules.push(promised);
        }
    }
    Ok(rules)
}

fn add_rules(
    device: &LinuxDeviceCgroup,
    field: &str,
    rules: &mut Vec<DeviceRule>,
) -> Result<(), CgroupError> {
    let access = match device.access().as_deref() {
        None | Some("") => Access::ALL,
        Some(letters) => Access::parse(letters, &format!("{field}.access"))?,
    };
    let major = number(device.major(), &format!("{field}.major"))?;
    let minor = number(device.minor(), &format!("{field}.minor"))?;
    let kinds: &[DeviceKind] = match device.typ() {
        None | Some(LinuxDeviceType::A) => &[DeviceKind::Block, DeviceKind::Char],
        Some(LinuxDeviceType::B) => &[DeviceKind::Block],
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => &[DeviceKind::Char],
        Some(LinuxDeviceType::P) => {
            return Err(CgroupError::invalid(
                format!("{field}.type"),
                "expected \"a\", \"b\" or \"c\", found \"p\": a fifo is no device and has no rule",
            ));
        }
    };
    let whole = kinds.len() == 2 && major.is_none() && minor.is_none() && access == Access::ALL;
    if whole {
        // Nothing before this rule matters any more.
        rules.clear();
        rules.push(DeviceRule {
            allow: device.allow(),
            ..DENY_ALL
        });
        return Ok(());
    }
    // Version 1 takes any rule of type "a" for "everything", whatever numbers
    // and rights stand beside it: a narrow rule has to be said for each kind.
    rules.extend(kinds.iter().map(|kind| DeviceRule {
        allow: device.allow(),
        kind: Some(*kind),
        major,
        minor,
        access,
    }));
    Ok(())
}

/// A device number; none and negative ones stand for all.
fn number(value: Option<i64>, field: &str) -> Result<Option<u32>, CgroupError> {
    match value {
        None => Ok(None),
        Some(value) if value < 0 => Ok(None),
        // Linux has 12 bits for majors and 20 for minors; the program that
        // compares them takes 31.
        Some(value) if value > i64::from(i32::MAX) => Err(CgroupError::invalid(
            field,
            format!("expected at most {}, found {value}", i32::MAX),
        )),
        Some(value) => Ok(Some(value as u32)),
    }
}

/// What the rules say about a request: the meaning that both kernels' forms must keep.
///
/// The last rule that decides wins. An allowing rule decides when it covers all
/// that is asked, a denying one as soon as it covers a part.
pub fn evaluate(rules: &[DeviceRule], request: &DeviceRequest) -> bool {
    rules
        .iter()
        .rev()
        .find(|rule| rule.decides(request))
        .is_some_and(|rule| rule.allow)
}

impl DeviceRule {
    fn decides(&self, request: &DeviceRequest) -> bool {
        let rights = if self.allow {
            self.access.contains(request.access)
        } else {
            self.access.intersects(request.access)
        };
        rights
            && self.kind.is_none_or(|kind| kind == request.kind)
            && self.major.is_none_or(|major| major == request.major)
            && self.minor.is_none_or(|minor| minor == request.minor)
    }

    /// Whether both rules can speak about one device.
    fn meets(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            match (one, other) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            }
        }
        same(self.kind, other.kind)
            && same(self.major, other.major)
            && same(self.minor, other.minor)
            && self.access.intersects(other.access)
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// The rule as version 1's files take it: `c 1:3 rwm`.
    fn v1_text(&self) -> String {
        let kind = match self.kind {
            None => 'a',
            Some(DeviceKind::Block) => 'b',
            Some(DeviceKind::Char) => 'c',
        };
        let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access.letters()
        )
    }
}

/// Adds the writes of version 1. In version 2 the program is made when the group is.
pub(crate) fn plan_devices(
    hierarchies: &mut [HierarchyPlan],
    rules: &[DeviceRule],
) -> Result<(), CgroupError> {
    let v1 = hierarchies
        .iter_mut()
        .find(|plan| plan.version == CgroupVersion::V1 && plan.has("devices"));
    if let Some(home) = v1 {
        check_v1(rules)?;
        for rule in rules {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            home.write(file, rule.v1_text(), FIELD);
        }
        return Ok(());
    }
    if hierarchies
        .iter()
        .any(|plan| plan.version == CgroupVersion::V2)
    {
        return Ok(());
    }
    Err(CgroupError::NoController {
        field: FIELD.to_owned(),
        controller: "devices".to_owned(),
    })
}

/// Refuses lists that version 1 would take and then not keep.
///
/// The kernel keeps one set of exceptions and only removes those that are
/// written exactly as they were added. After `allow c 8:0`, a `deny c 8:*` is
/// accepted and takes nothing away: the disk stays open.
fn check_v1(rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let mut default_allow = false;
    let mut exceptions: Vec<&DeviceRule> = Vec::new();
    for rule in rules {
        if rule.kind.is_none() {
            default_allow = rule.allow;
            exceptions.clear();
        } else if rule.allow != default_allow {
            exceptions.push(rule);
        } else if let Some(kept) = exceptions
            .iter()
            .find(|exception| rule.meets(exception) && !rule.same_devices(exception))
        {
            return Err(CgroupError::invalid(
                FIELD,
                format!(
                    "cgroup version 1 cannot {} {:?} after {:?}, which covers other devices",
                    if rule.allow { "allow" } else { "deny" },
                    rule.v1_text(),
                    kept.v1_text()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
