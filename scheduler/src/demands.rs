//! What a pod demands of its node, read straight from the API's objects.
//!
//! The controllers and the agent ask it of one pod and one node. Placement asks
//! it of thousands and has the same rules compiled to numbers
//! ([`crate::placement::selector`], [`crate::placement::taint`]); a test holds the
//! two against each other.
//!
//! Read more: "Assigning Pods to Nodes", "Taints and Tolerations" in the
//! Kubernetes documentation.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

#[cfg(test)]
mod tests;

/// A node's labels.
pub type Labels = BTreeMap<String, String>;

/// Whether a pod's `nodeSelector` and required node affinity select a node.
pub fn selects(spec: &PodSpec, node: &str, labels: &Labels) -> bool {
    let mut pairs = spec.node_selector.iter().flatten();
    if !pairs.all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref();
    let required = affinity
        .and_then(|of| of.node_affinity.as_ref())
        .and_then(|of| {
            of.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    required.is_none_or(|required| {
        let mut terms = required.node_selector_terms.iter();
        terms.any(|term| holds(term, node, labels))
    })
}

/// Whether all of a term holds. One that says nothing selects nothing.
fn holds(term: &NodeSelectorTerm, node: &str, labels: &Labels) -> bool {
    let by_label = term.match_expressions.as_deref().unwrap_or_default();
    let by_field = term.match_fields.as_deref().unwrap_or_default();
    !(by_label.is_empty() && by_field.is_empty())
        && by_label
            .iter()
            .all(|of| admits(of, labels.get(&of.key).map(String::as_str)))
        && by_field
            .iter()
            .all(|of| of.key == "metadata.name" && admits(of, Some(node)))
}

/// Whether a value, or none, is what is required.
fn admits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = value.is_some_and(|value| values.iter().any(|of| of == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|bound| number(bound));
    let pair = value.and_then(number).zip(bound);
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => pair.is_some_and(|(value, bound)| value > bound),
        "Lt" => pair.is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether a toleration bears a taint. An operator that nobody knows bears nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any = |wanted: &Option<String>, found: &str| {
        let wanted = wanted.as_deref().unwrap_or_default();
        wanted.is_empty() || wanted == found
    };
    let value = match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    };
    any(&toleration.effect, &taint.effect) && any(&toleration.key, &taint.key) && value
}

/// Whether any of the tolerations bears a taint.
pub fn is_borne(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|of| tolerates(of, taint))
}
