//! The label that SELinux sees on a container's own filesystems (`linux.mountLabel`).
//!
//! A filesystem without labels of its own takes one for all its files as an option
//! of its mount: `context="…"` (mount(8), selinux(8)). procfs, sysfs, cgroups and
//! message queues are labelled by the policy and take none.

use std::collections::HashMap;

use super::SpecError;
use super::mounts::{MountKind, MountPlan};

/// crun's annotation for another option than `context`.
const OPTION_ANNOTATION: &str = "run.oci.mount_context_type";
const OPTIONS: &[&str] = &["context", "fscontext", "defcontext", "rootcontext"];

/// Filesystems whose labels are the policy's.
const UNLABELLED: &[&str] = &["proc", "sysfs", "mqueue"];

/// One option of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLabel {
    /// `context` or one of its kin.
    pub option: String,
    /// The label.
    pub label: String,
}

/// Plans `linux.mountLabel`.
///
/// # Errors
///
/// An annotation that names no option of SELinux.
pub fn plan_mount_label(
    label: Option<&str>,
    annotations: &HashMap<String, String>,
) -> Result<Option<MountLabel>, SpecError> {
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    let option = annotations
        .get(OPTION_ANNOTATION)
        .map_or(OPTIONS[0], String::as_str);
    if !OPTIONS.contains(&option) {
        let reason = format!("expected one of {}, found {option:?}", OPTIONS.join(", "));
        let field = format!("annotations[{OPTION_ANNOTATION:?}]");
        return Err(SpecError::new(field, reason));
    }
    Ok(Some(MountLabel {
        option: option.to_owned(),
        label: label.to_owned(),
    }))
}

impl MountLabel {
    /// The option as a filesystem takes it.
    pub fn as_option(&self) -> (String, Option<String>) {
        (self.option.clone(), Some(self.label.clone()))
    }
}

/// Adds the label to every mount that takes one.
pub fn label_mounts(mounts: &mut [MountPlan], label: &MountLabel) {
    for mount in mounts {
        if let MountKind::Filesystem { kind, .. } = &mount.kind
            && !UNLABELLED.contains(&kind.as_str())
        {
            mount.options.filesystem.push(label.as_option());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::{MountLabel, label_mounts, plan_mount_label};
    use crate::plan::mounts::plan_mounts;

    #[test]
    fn own_filesystems_are_labelled_and_the_kernels_are_not() {
        let mounts = serde_json::json!([
            {"destination": "/proc", "type": "proc"},
            {"destination": "/dev", "type": "tmpfs", "options": ["mode=755"]},
            {"destination": "/host", "type": "bind", "source": "/"},
        ]);
        let mounts: Vec<_> = serde_json::from_value(mounts).expect("mounts");
        let mut plans = plan_mounts(Path::new("/b"), &mounts, None).expect("sound");
        let label = plan_mount_label(Some("u:r:t:s0:c1,c2"), &HashMap::new());
        label_mounts(&mut plans, &label.expect("sound").expect("a label"));
        let options: Vec<_> = plans.iter().map(|plan| &plan.options.filesystem).collect();
        assert!(options[0].is_empty() && options[2].is_empty());
        let labelled = ("context".to_owned(), Some("u:r:t:s0:c1,c2".to_owned()));
        assert_eq!(options[1].last(), Some(&labelled));
    }

    #[test]
    fn the_option_may_be_another() {
        let asked = |word: &str| {
            let annotation = ("run.oci.mount_context_type".to_owned(), word.to_owned());
            plan_mount_label(Some("l"), &HashMap::from([annotation]))
        };
        let label = MountLabel {
            option: "fscontext".to_owned(),
            label: "l".to_owned(),
        };
        assert_eq!(asked("fscontext").expect("known"), Some(label));
        assert!(asked("context=x").is_err());
        assert_eq!(plan_mount_label(Some(""), &HashMap::new()), Ok(None));
    }
}
