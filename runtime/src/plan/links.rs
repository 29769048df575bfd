//! Network devices that the container takes over from the runtime's network
//! namespace (`linux.netDevices`).

use std::collections::HashMap;

use nix::sched::CloneFlags;
use oci_spec::runtime::LinuxNetDevice;

use super::SpecError;
use super::namespaces::NamespacePlan;

/// A device that moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// Its name here.
    pub name: String,
    /// Its name there; with `%d` the kernel chooses the number.
    pub new_name: String,
}

/// The longest name: `IFNAMSIZ` less the zero at its end.
const NAME_LIMIT_BYTES: usize = 15;

/// Plans `linux.netDevices`, in the order of the names, for a JSON object has none.
///
/// # Errors
///
/// A name that the kernel would not take, two devices of one name, or no
/// network namespace to move them to.
pub fn plan_links(
    devices: Option<&HashMap<String, LinuxNetDevice>>,
    namespaces: &NamespacePlan,
) -> Result<Vec<LinkPlan>, SpecError> {
    let mut plans = Vec::new();
    for (name, device) in devices.into_iter().flatten() {
        let field = format!("linux.netDevices[{name:?}]");
        check_name(&field, name)?;
        let asked = device.name().as_deref().filter(|name| !name.is_empty());
        let new_name = asked.unwrap_or(name);
        check_name(&format!("{field}.name"), new_name)?;
        plans.push(LinkPlan {
            name: name.clone(),
            new_name: new_name.to_owned(),
        });
    }
    plans.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(plan) = plans.first()
        && !namespaces.has_own(CloneFlags::CLONE_NEWNET)
    {
        let reason = "a network namespace is needed for it, else the device stays where it is";
        let field = format!("linux.netDevices[{:?}]", plan.name);
        return Err(SpecError::new(field, reason));
    }
    for (index, plan) in plans.iter().enumerate() {
        let is_template = plan.new_name.contains("%d");
        let others = &plans[..index];
        if !is_template && others.iter().any(|other| other.new_name == plan.new_name) {
            let field = format!("linux.netDevices[{:?}].name", plan.name);
            let reason = format!("{:?} is the name of two devices", plan.new_name);
            return Err(SpecError::new(field, reason));
        }
    }
    Ok(plans)
}

/// The kernel's own rules: `dev_valid_name` in net/core/dev.c.
fn check_name(field: &str, name: &str) -> Result<(), SpecError> {
    let wrong = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0;
    let length = 1..=NAME_LIMIT_BYTES;
    let only_d = name.matches('%').count() == name.matches("%d").count();
    if length.contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(wrong)
        && only_d
        && name.matches('%').count() <= 1
    {
        return Ok(());
    }
    let reason = format!(
        "expected a device's name, 1 to {NAME_LIMIT_BYTES} bytes without white space, / or :, found {name:?}"
    );
    Err(SpecError::new(field, reason))
}

#[cfg(test)]
mod tests {
    use super::plan_links;
    use crate::plan::namespaces::plan_namespaces;
    use serde_json::{Value, json};

    fn plan(devices: Value, namespaces: Value) -> Result<Vec<(String, String)>, String> {
        let devices = serde_json::from_value(devices).expect("devices");
        let namespaces: Vec<_> = serde_json::from_value(namespaces).expect("namespaces");
        let namespaces = plan_namespaces(&namespaces).expect("sound");
        let plans = plan_links(Some(&devices), &namespaces).map_err(|error| error.to_string())?;
        let pairs = plans.into_iter().map(|plan| (plan.name, plan.new_name));
        Ok(pairs.collect())
    }

    fn own() -> Value {
        json!([{"type": "mount"}, {"type": "network"}])
    }

    #[test]
    fn names_stay_unless_others_are_asked_for() {
        let plans = plan(json!({"b": {"name": "eth0"}, "a": {}}), own()).expect("sound");
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(plans, [pair("a", "a"), pair("b", "eth0")]);
    }

    #[test]
    fn mistakes_name_their_device() {
        let long = "x".repeat(16);
        for (devices, namespaces, words) in [
            (
                json!({"a": {}}),
                json!([{"type": "mount"}]),
                "[\"a\"]: a network namespace is needed",
            ),
            (
                json!({"a": {"name": "b/c"}}),
                own(),
                "[\"a\"].name: expected a device's name",
            ),
            (
                json!({"a": {"name": "e%s"}}),
                own(),
                "[\"a\"].name: expected",
            ),
            (json!({ long: {}}), own(), "expected a device's name"),
            (
                json!({"a": {}, "b": {"name": "a"}}),
                own(),
                "the name of two devices",
            ),
        ] {
            let error = plan(devices, namespaces).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
        plan(json!({"a": {"name": "e%d"}, "b": {"name": "e%d"}}), own()).expect("templates");
    }
}
