//! The words of mount options: which are attributes, which propagation, and
//! which are for the filesystem itself.
//!
//! The same word means different things to `mount(8)`, to the kernel's
//! `mount(2)` and to `mount_setattr(2)`; this table is the one place that knows.

use super::SpecError;
use crate::sys::mount::{AttributeChange, Depth};

/// What a list of options comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionPlan {
    /// A bind mount, and how deep.
    pub bind: Option<Depth>,
    /// Attributes of the mount itself.
    pub attributes: AttributeChange,
    /// Attributes of the mount and all below it (`rro` and its like).
    pub recursive: AttributeChange,
    /// Propagation types to set, in order.
    pub propagation: Vec<(Depth, u64)>,
    /// A tmpfs begins with a copy of what it covers (`tmpcopyup`).
    pub copies_up: bool,
    /// Owners are shown moved (`idmap`, `ridmap`), and by crun's text after it, if any.
    pub idmap: Option<(Depth, Option<String>)>,
    /// The rest, for the filesystem: key and value.
    pub filesystem: Vec<(String, Option<String>)>,
}

/// A value that `fsconfig(2)` does not take: 256 bytes with the zero at its end.
pub const VALUE_LIMIT_BYTES: usize = 256;

impl OptionPlan {
    /// Whether `fsconfig(2)` has no room for one of the filesystem's options.
    pub fn has_long_value(&self) -> bool {
        let mut values = self
            .filesystem
            .iter()
            .filter_map(|(_, value)| value.as_ref());
        values.any(|value| value.len() >= VALUE_LIMIT_BYTES)
    }
}

/// What one word does to the attributes.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Set(u64),
    Clear(u64),
    /// Access times are one field of several values.
    Atime(u64),
}

const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Words of attributes; each may also stand with an `r` in front: recursively.
const ATTRIBUTES: &[(&str, Effect)] = &[
    ("ro", Effect::Set(libc::MOUNT_ATTR_RDONLY)),
    ("rw", Effect::Clear(libc::MOUNT_ATTR_RDONLY)),
    ("nosuid", Effect::Set(libc::MOUNT_ATTR_NOSUID)),
    ("suid", Effect::Clear(libc::MOUNT_ATTR_NOSUID)),
    ("nodev", Effect::Set(libc::MOUNT_ATTR_NODEV)),
    ("dev", Effect::Clear(libc::MOUNT_ATTR_NODEV)),
    ("noexec", Effect::Set(libc::MOUNT_ATTR_NOEXEC)),
    ("exec", Effect::Clear(libc::MOUNT_ATTR_NOEXEC)),
    ("nodiratime", Effect::Set(libc::MOUNT_ATTR_NODIRATIME)),
    ("diratime", Effect::Clear(libc::MOUNT_ATTR_NODIRATIME)),
    ("nosymfollow", Effect::Set(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", Effect::Clear(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("relatime", Effect::Atime(libc::MOUNT_ATTR_RELATIME)),
    ("norelatime", Effect::Atime(libc::MOUNT_ATTR_RELATIME)),
    ("noatime", Effect::Atime(libc::MOUNT_ATTR_NOATIME)),
    ("atime", Effect::Atime(libc::MOUNT_ATTR_RELATIME)),
    ("strictatime", Effect::Atime(libc::MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", Effect::Atime(libc::MOUNT_ATTR_RELATIME)),
];

/// Words of propagation: mount_namespaces(7).
const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words that say what holds anyway.
const SILENT: &[&str] = &[
    "defaults",
    "async",
    "loud",
    "nomand",
    "nolazytime",
    "norelatime",
    "silent",
];

/// Words that fsconfig(2) knows for every filesystem, and turns into flags of
/// its superblock.
const OF_SUPERBLOCKS: &[&str] = &["dirsync", "lazytime", "mand", "sync"];

/// Words that are refused until they are honoured.
const UNSUPPORTED: &[&str] = &["remount"];

/// Every word with a meaning of its own, for `features`.
pub fn known_words() -> Vec<String> {
    let mut words: Vec<String> = ["bind", "rbind", "tmpcopyup", "idmap", "ridmap"]
        .map(str::to_owned)
        .to_vec();
    for (word, _) in ATTRIBUTES {
        words.push((*word).to_owned());
        words.push(format!("r{word}"));
    }
    for (word, _) in PROPAGATION {
        words.push((*word).to_owned());
        words.push(format!("r{word}"));
    }
    let others = SILENT.iter().chain(OF_SUPERBLOCKS);
    words.extend(others.map(|word| (*word).to_owned()));
    words.sort();
    words.dedup();
    words
}

/// Sorts a list of options.
///
/// # Errors
///
/// A word that is known but not yet honoured.
pub fn plan_options(field: &str, options: &[String]) -> Result<OptionPlan, SpecError> {
    let mut plan = OptionPlan::default();
    for word in options {
        sort_word(field, word, &mut plan)?;
    }
    Ok(plan)
}

fn sort_word(field: &str, word: &str, plan: &mut OptionPlan) -> Result<(), SpecError> {
    let exact = |name: &str| ATTRIBUTES.iter().find(|(known, _)| *known == name);
    let propagation = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name);
    let deep = word.strip_prefix('r').unwrap_or("");
    if word == "bind" {
        plan.bind = plan.bind.or(Some(Depth::One));
    } else if word == "rbind" {
        plan.bind = Some(Depth::Recursive);
    } else if word == "tmpcopyup" {
        plan.copies_up = true;
    } else if let Some(idmap) = idmap_word(word) {
        plan.idmap = Some(idmap);
    } else if UNSUPPORTED.contains(&word) {
        return Err(SpecError::new(
            field,
            format!("{word:?} is not supported yet"),
        ));
    } else if let Some((_, effect)) = exact(word) {
        apply(*effect, &mut plan.attributes);
    } else if let Some((_, kind)) = propagation(word) {
        plan.propagation.push((Depth::One, *kind));
    } else if let Some((_, effect)) = exact(deep) {
        apply(*effect, &mut plan.recursive);
    } else if let Some((_, kind)) = propagation(deep) {
        plan.propagation.push((Depth::Recursive, *kind));
    } else if !SILENT.contains(&word) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word, None),
        };
        plan.filesystem.push((key.to_owned(), value));
    }
    Ok(())
}

/// `idmap` and `ridmap`, alone or with a mapping after `=`.
fn idmap_word(word: &str) -> Option<(Depth, Option<String>)> {
    let (name, text) = match word.split_once('=') {
        Some((name, text)) => (name, Some(text.to_owned())),
        None => (word, None),
    };
    match name {
        "idmap" => Some((Depth::One, text)),
        "ridmap" => Some((Depth::Recursive, text)),
        _ => None,
    }
}

/// A later word wins over an earlier one, as for `mount(8)`.
fn apply(effect: Effect, change: &mut AttributeChange) {
    match effect {
        Effect::Set(bit) => {
            change.set |= bit;
            change.clear &= !bit;
        }
        Effect::Clear(bit) => {
            change.clear |= bit;
            change.set &= !bit;
        }
        Effect::Atime(value) => {
            // mount_setattr(2) wants the whole field cleared before one value is set.
            change.set = (change.set & !ATIME) | value;
            change.clear |= ATIME;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Depth, plan_options};

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_later_word_wins() {
        let plan = plan_options(
            "m",
            &words(&["ro", "nosuid", "rw", "noatime", "strictatime"]),
        )
        .expect("all are known");
        assert_eq!(
            plan.attributes.set,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(
            plan.attributes.clear,
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME
        );
    }

    #[test]
    fn recursion_is_kept_apart() {
        let plan = plan_options("m", &words(&["rbind", "rro", "rslave", "ro"])).expect("known");
        assert_eq!(plan.bind, Some(Depth::Recursive));
        assert_eq!(plan.recursive.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(plan.attributes.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(plan.propagation, vec![(Depth::Recursive, libc::MS_SLAVE)]);
    }

    #[test]
    fn the_rest_is_the_filesystems() {
        let plan =
            plan_options("m", &words(&["mode=755", "newinstance", "defaults"])).expect("known");
        let rest = vec![
            ("mode".to_owned(), Some("755".to_owned())),
            ("newinstance".to_owned(), None),
        ];
        assert_eq!(plan.filesystem, rest);
    }

    #[test]
    fn what_is_not_honoured_is_refused() {
        let error = plan_options("mounts[0].options", &words(&["remount"])).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "config.json: mounts[0].options: \"remount\" is not supported yet"
        );
    }
}
