use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

use super::{Comparison, FilterPlan, Rule, Unknown, Verdict, plan_filter};

fn plan(json: &str) -> Result<FilterPlan, String> {
    let profile: LinuxSeccomp = serde_json::from_str(json).expect("good JSON");
    plan_filter(&profile).map_err(|error| error.to_string())
}

#[test]
fn verdicts_carry_their_numbers() {
    let made = plan(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["b"], "action": "SCMP_ACT_TRACE"},
            {"names": ["c", "d"], "action": "SCMP_ACT_KILL"}]}"#,
    )
    .expect("a plan");
    assert_eq!(made.default, Verdict::Errno(1));
    let verdicts: Vec<_> = made
        .rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule.verdict))
        .collect();
    assert_eq!(
        verdicts,
        [
            ("a", Verdict::Errno(38)),
            ("b", Verdict::Trace(1)),
            ("c", Verdict::KillThread),
            ("d", Verdict::KillThread),
        ]
    );
}

#[test]
fn what_happens_anyway_has_no_rule() {
    let made = plan(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(made.expect("a plan").rules, []);
}

#[test]
fn two_values_of_one_argument_are_alternatives() {
    let made = plan(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["personality"],
            "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
    )
    .expect("a plan");
    assert_eq!(
        made.rules
            .iter()
            .map(|rule| rule.conditions.len())
            .collect::<Vec<_>>(),
        [1, 1]
    );
}

#[test]
fn a_mask_comes_before_its_value() {
    let made = plan(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["clone"],
            "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 7, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    )
    .expect("a plan");
    let condition = made.rules[0].conditions[0];
    assert_eq!(
        (condition.comparison, condition.value),
        (Comparison::MaskedEqual(7), 3)
    );
}

#[test]
fn bad_fields_are_named() {
    let cases = [
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "linux.seccomp.syscalls[0].args[0].index: expected 0 to 5",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#,
            "linux.seccomp.syscalls[0].names: expected at least one",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#,
            "linux.seccomp.defaultErrnoRet: expected nothing",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}"#,
            "linux.seccomp.defaultErrnoRet: expected at most 65535, found 70000",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "linux.seccomp.listenerPath: expected a socket's path",
        ),
    ];
    for (json, expected) in cases {
        let error = plan(json).expect_err(json);
        assert!(error.starts_with(expected), "{error}");
    }
}

fn some_plan() -> impl Strategy<Value = FilterPlan> {
    let rule = ("[a-z]{1,4}", any::<bool>()).prop_map(|(name, log)| Rule {
        name,
        verdict: if log { Verdict::Log } else { Verdict::Allow },
        conditions: Vec::new(),
        entry: 0,
    });
    proptest::collection::vec(rule, 0..4).prop_map(|rules| FilterPlan {
        unknown: Unknown::default(),
        default: Verdict::Errno(1),
        architectures: Vec::new(),
        rules,
        flags: super::FilterFlags::default(),
    })
}

proptest! {
    #[test]
    fn digests_are_equal_exactly_when_plans_are(one in some_plan(), other in some_plan()) {
        prop_assert_eq!(one == other, one.digest() == other.digest());
        prop_assert_eq!(one.clone().digest(), one.digest());
    }
}

#[test]
fn a_listener_sets_the_flags_that_go_with_it() {
    let flags = |action: &str, more: &str| {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a.sock", "flags": [{more}],
                "syscalls": [{{"names": ["a"], "action": "{action}"}}]}}"#
        );
        plan(&json).expect("sound").flags.0
    };
    let killable = r#""SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV""#;
    assert_eq!(flags("SCMP_ACT_NOTIFY", ""), 8);
    assert_eq!(flags("SCMP_ACT_NOTIFY", killable), 8 | 32);
    // Without a listener the kernel refuses it.
    assert_eq!(flags("SCMP_ACT_LOG", killable), 0);
    let synced = flags("SCMP_ACT_NOTIFY", r#""SECCOMP_FILTER_FLAG_TSYNC""#);
    assert_eq!(synced, 1 | 8 | 16);
}

#[test]
fn what_would_wait_for_ever_is_refused() {
    for (json, words) in [
        (
            r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}"#,
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a",
                "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY cannot be used for write",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#,
            "linux.seccomp.listenerMetadata: expected none",
        ),
    ] {
        let error = plan(json).expect_err(words);
        assert!(error.contains(words), "{error}");
    }
}
