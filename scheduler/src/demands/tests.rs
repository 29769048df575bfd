//! The two readings of a pod's demands say the same.

use k8s_openapi::api::core::v1 as api;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{Labels, admits, selects, tolerates};
use crate::placement::selector::Requirement;
use crate::placement::symbol::Symbols;
use crate::placement::taint;

fn words() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b", "3", "7", "-1"]).prop_map(str::to_owned)
}

fn effects() -> impl Strategy<Value = String> {
    select(vec!["NoSchedule", "PreferNoSchedule", "NoExecute"]).prop_map(str::to_owned)
}

fn maybe<S: Strategy>(of: S) -> impl Strategy<Value = Option<S::Value>>
where
    S::Value: Clone,
{
    prop::option::of(of)
}

proptest! {
    #[test]
    fn requirements_are_read_alike(
        operator in select(vec!["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Near"]),
        values in maybe(prop::collection::vec(words(), 0..3)),
        value in maybe(words()),
    ) {
        let requirement = api::NodeSelectorRequirement {
            key: "k".to_owned(),
            operator: operator.to_owned(),
            values,
        };
        let mut symbols = Symbols::default();
        let compiled = Requirement::of_node(&mut symbols, &requirement);
        let number = value.as_deref().map(|value| symbols.intern(value));
        prop_assert_eq!(
            admits(&requirement, value.as_deref()),
            compiled.admits(number, &symbols)
        );
    }

    #[test]
    fn tolerations_are_read_alike(
        key in maybe(words()),
        operator in maybe(select(vec!["", "Equal", "Exists", "Near"]).prop_map(str::to_owned)),
        value in maybe(words()),
        effect in maybe(effects()),
        tainted in (words(), maybe(words()), effects()),
    ) {
        let toleration = api::Toleration { key, operator, value, effect, ..api::Toleration::default() };
        let (key, value, effect) = tainted;
        let found = api::Taint { key, value, effect, time_added: None };
        let mut symbols = Symbols::default();
        let compiled = taint::Toleration::read(&mut symbols, &toleration);
        let taint = taint::Taint::read(&mut symbols, &found).unwrap();
        prop_assert_eq!(tolerates(&toleration, &found), compiled.bears(&taint));
    }
}

#[test]
fn a_term_needs_all_and_one_term_is_enough() {
    let labels = Labels::from([("disk".to_owned(), "ssd".to_owned())]);
    let chosen = |terms: Value| {
        let spec: api::PodSpec = serde_json::from_value(json!({"containers": [],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}}}}))
        .unwrap();
        selects(&spec, "n1", &labels)
    };
    let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
    let named = |name: &str| json!({"key": "metadata.name", "operator": "In", "values": [name]});
    assert!(chosen(json!([{"matchExpressions": [ssd]}])));
    assert!(chosen(
        json!([{"matchExpressions": [ssd], "matchFields": [named("n1")]}])
    ));
    assert!(!chosen(
        json!([{"matchExpressions": [ssd], "matchFields": [named("n2")]}])
    ));
    assert!(chosen(
        json!([{"matchFields": [named("n2")]}, {"matchExpressions": [ssd]}])
    ));
    assert!(!chosen(json!([{}])), "a term that says nothing");
    assert!(!chosen(
        json!([{"matchFields": [{"key": "metadata.uid", "operator": "Exists"}]}])
    ));
}
