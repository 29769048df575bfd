//! Events have two shapes, one in the core group and one in `events.k8s.io`, of the same objects.
//!
//! The core group's is stored. The other differs in the names of a few fields only.

use serde_json::Value;

use crate::api::kind::Kind;

/// Old name, new name.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Whether a kind is the newer shape of events.
#[must_use]
pub fn is_newer(kind: &Kind) -> bool {
    kind.group == "events.k8s.io"
}

/// A stored object in the shape of a kind.
#[must_use]
pub fn shape(kind: &Kind, mut value: Value) -> Value {
    if is_newer(kind) {
        rename(&mut value, &kind.api_version(), |(old, new)| (old, new));
    }
    value
}

/// An object of a kind in the shape that is stored.
#[must_use]
pub fn stored(kind: &Kind, mut value: Value) -> Value {
    if is_newer(kind) {
        rename(&mut value, "v1", |(old, new)| (new, old));
    }
    value
}

fn rename(
    value: &mut Value,
    api_version: &str,
    order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    for names in RENAMED {
        let (from, to) = order(*names);
        if let Some(field) = object.remove(from) {
            object.insert(to.to_owned(), field);
        }
    }
    object.insert("apiVersion".into(), api_version.into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::kind::by_plural;

    #[test]
    fn both_shapes_lead_to_each_other() {
        let newer = by_plural("events.k8s.io", "events").unwrap();
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": "a" }, "reason": "Killing",
            "involvedObject": { "name": "p" }, "message": "m", "count": 2,
        });
        let shaped = super::shape(newer, event.clone());
        assert_eq!(shaped["regarding"]["name"], "p");
        assert_eq!(shaped["note"], "m");
        assert_eq!(shaped["apiVersion"], "events.k8s.io/v1");
        assert_eq!(super::stored(newer, shaped), event);
    }
}
