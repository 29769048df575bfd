use proptest::{prelude::Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;

use super::{LabelSelector, Requirement, Test, parse_fields, parse_labels};
use crate::api::kind::by_plural;

fn web() -> serde_json::Value {
    json!({"metadata": {"name": "a", "namespace": "n", "labels": {"app": "web", "tier": "front", "empty": "", "n": "7"}}})
}

#[test]
fn each_operator_selects_as_documented() {
    let table = [
        ("", true),
        ("app", true),
        ("!app", false),
        ("!none", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web , tier=front", true),
        ("app!=web", false),
        ("none!=web", true),
        ("app in (web, db)", true),
        ("app in(db)", false),
        ("app notin (db)", true),
        ("none notin (db)", true),
        ("empty=", true),
        ("empty in (,x)", true),
        ("n>6", true),
        ("n<7", false),
        ("app>1", false),
        ("in", false),
        ("in in (in)", false),
        ("example.com/a-b!=x", true),
    ];
    for (text, expected) in table {
        let selector = parse_labels(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(&web()), expected, "{text}");
    }
}

#[test]
fn a_text_that_is_no_selector_says_where() {
    let table = [
        (
            "app=web tier=front",
            "found 'tier', expected: ',' or 'end of string'",
        ),
        ("app in web", "found 'web', expected: '('"),
        ("app in (web", "found 'end of string', expected: ',' or ')'"),
        (
            "app is web",
            "found 'is', expected: in, notin, =, ==, !=, <, >",
        ),
        ("=web", "found '=', expected: identifier"),
        ("a,", "found 'end of string', expected: identifier"),
        ("a b", "found 'b', expected: in, notin"),
        ("n>x", "the value must be an integer"),
        ("-a=x", "Invalid value"),
        ("a=-x", "Invalid value"),
    ];
    for (text, expected) in table {
        let error = parse_labels(text).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains(expected), "{text}: {error}");
    }
}

#[test]
fn the_selector_of_an_object_means_the_same() {
    let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
        {"key": "tier", "operator": "NotIn", "values": ["back"]},
        {"key": "none", "operator": "DoesNotExist"},
    ]});
    let selector = LabelSelector::from_object(&selector).unwrap();
    assert!(selector.matches(&web()));
    assert_eq!(selector.to_string(), "app=web,tier!=back,!none");
    assert_eq!(
        LabelSelector::from_object(
            &json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})
        ),
        None
    );
}

#[test]
fn fields_select_pods_and_events() {
    let pods = by_plural("", "pods").unwrap();
    let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "one"}, "status": {"phase": "Running"}});
    let table = [
        ("spec.nodeName=one", true),
        ("spec.nodeName==one,status.phase!=Running", false),
        ("spec.nodeName!=", true),
        ("status.nominatedNodeName=", true),
        ("metadata.name=a,metadata.namespace=n", true),
        ("spec.hostNetwork=false", true),
        ("", true),
    ];
    for (text, expected) in table {
        let selector = parse_fields(pods, text).unwrap();
        assert_eq!(selector.matches(&pod), expected, "{text}");
    }
    let error = parse_fields(pods, "spec.nodename=one").unwrap_err();
    assert_eq!(error.message, "field label not supported: spec.nodename");
    assert!(parse_fields(pods, "spec.nodeName").is_err());
    assert_eq!(
        parse_fields(pods, "metadata.name=a")
            .unwrap()
            .required("metadata.name"),
        Some("a")
    );

    let events = by_plural("", "events").unwrap();
    let event = json!({"involvedObject": {"name": "a", "uid": "u"}, "type": "Normal", "source": {"component": "agent"}});
    for text in [
        "involvedObject.uid=u,type=Normal",
        "source=agent",
        "reason=",
    ] {
        assert!(
            parse_fields(events, text).unwrap().matches(&event),
            "{text}"
        );
    }
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let value = "([a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?)?";
    let values =
        || proptest::collection::btree_set(value, 1..4).prop_map(|set| set.into_iter().collect());
    let test = prop_oneof![
        proptest::strategy::Just(Test::Exists),
        proptest::strategy::Just(Test::DoesNotExist),
        values().prop_map(Test::In),
        values().prop_map(Test::NotIn),
        proptest::num::i64::ANY.prop_map(Test::GreaterThan),
        proptest::num::i64::ANY.prop_map(Test::LessThan),
    ];
    ("([a-z]{1,8}/)?[a-z]{1,8}", test).prop_map(|(key, test)| Requirement { key, test })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(requirements in proptest::collection::vec(requirement(), 0..4)) {
        let selector = LabelSelector { requirements };
        prop_assert_eq!(parse_labels(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn no_text_panics(text in "[a-c=!<>(), in\\\\/.-]{0,30}") {
        let pods = by_plural("", "pods").unwrap();
        let _ = parse_fields(pods, &text);
        if let Ok(selector) = parse_labels(&text) {
            prop_assert!(parse_labels(&selector.to_string()).is_ok(), "{}", selector);
        }
    }
}
