use oci_spec::runtime::LinuxDeviceCgroup;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::{Access, DeviceKind, DeviceRequest, DeviceRule, check_v1, evaluate, plan_rules};

fn rules(json: &str) -> Result<Vec<DeviceRule>, String> {
    let list: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).expect("good JSON");
    plan_rules(Some(&list)).map_err(|error| error.to_string())
}

fn may(rules: &[DeviceRule], kind: char, numbers: (u32, u32), access: &str) -> bool {
    let request = DeviceRequest {
        kind: if kind == 'b' {
            DeviceKind::Block
        } else {
            DeviceKind::Char
        },
        major: numbers.0,
        minor: numbers.1,
        access: Access::parse(access, "f").expect("letters"),
    };
    evaluate(rules, &request)
}

#[test]
fn without_rules_there_are_the_promised_devices_and_no_others() {
    for list in [
        plan_rules(None).expect("rules"),
        rules(r#"[{"allow": false, "access": "rwm"}]"#).expect("rules"),
    ] {
        for minor in [3, 5, 7, 8, 9] {
            assert!(may(&list, 'c', (1, minor), "rw"), "1:{minor}");
        }
        for numbers in [(5, 0), (5, 1), (5, 2), (136, 0), (136, 77)] {
            assert!(may(&list, 'c', numbers, "rw"), "{numbers:?}");
        }
        // mem, kmsg, sda, and the block device with null's numbers.
        assert!(!may(&list, 'c', (1, 1), "r"));
        assert!(!may(&list, 'c', (1, 11), "r"));
        assert!(!may(&list, 'b', (8, 0), "r"));
        assert!(!may(&list, 'b', (1, 3), "r"));
        assert!(may(&list, 'b', (8, 0), "m"));
        assert!(!may(&list, 'b', (8, 0), "rm"));
    }
}

#[test]
fn a_privileged_container_gets_one_rule() {
    let list = rules(r#"[{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]"#)
        .expect("rules");
    assert_eq!(list.len(), 1);
    assert!(may(&list, 'b', (8, 0), "rwm"));
    let less = rules(r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "rwm"}]"#)
        .expect("rules");
    assert!(!may(&less, 'b', (8, 0), "m"));
    assert!(check_v1(&less).is_ok());
}

#[test]
fn a_narrow_rule_for_all_kinds_stays_narrow() {
    let list =
        rules(r#"[{"allow": true, "type": "a", "major": 10, "access": "r"}]"#).expect("rules");
    let texts: Vec<_> = list.iter().take(3).map(DeviceRule::v1_text).collect();
    assert_eq!(texts, ["a *:* rwm", "b 10:* r", "c 10:* r"]);
}

#[test]
fn bad_rules_are_named() {
    for (json, expected) in [
        (
            r#"[{"allow": true, "access": "rx"}]"#,
            "linux.resources.devices[0].access: expected letters",
        ),
        (
            r#"[{"allow": true, "type": "p"}]"#,
            "linux.resources.devices[0].type: expected",
        ),
        (
            r#"[{"allow": false}, {"allow": true, "major": 4294967296}]"#,
            "linux.resources.devices[1].major: expected at most",
        ),
    ] {
        let error = rules(json).expect_err(json);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn version_1_refuses_what_it_would_forget() {
    let list = rules(
        r#"[{"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "access": "rw"}]"#,
    )
    .expect("rules");
    assert!(!may(&list, 'c', (10, 200), "r"));
    let error = check_v1(&list).expect_err("not expressible").to_string();
    assert!(
        error.contains("cannot deny \"c 10:* rw\" after \"c 10:200 rw\""),
        "{error}"
    );
}

/// What version 1 does with the writes: a default and exceptions.
fn version_1(rules: &[DeviceRule], request: &DeviceRequest) -> bool {
    let mut default = true;
    let mut exceptions: Vec<DeviceRule> = Vec::new();
    for rule in rules {
        if rule.kind.is_none() {
            default = rule.allow;
            exceptions.clear();
            continue;
        }
        let kept = exceptions.iter_mut().find(|kept| kept.same_devices(rule));
        match (rule.allow == default, kept) {
            (false, Some(kept)) => kept.access = kept.access.union(rule.access),
            (false, None) => exceptions.push(*rule),
            (true, Some(kept)) => kept.access = Access(kept.access.0 & !rule.access.0),
            (true, None) => {}
        }
    }
    let matches = |rule: &DeviceRule| {
        rule.access.0 != 0
            && rule.kind == Some(request.kind)
            && rule.major.is_none_or(|major| major == request.major)
            && rule.minor.is_none_or(|minor| minor == request.minor)
    };
    if default {
        !exceptions
            .iter()
            .any(|rule| matches(rule) && rule.access.intersects(request.access))
    } else {
        exceptions
            .iter()
            .any(|rule| matches(rule) && rule.access.contains(request.access))
    }
}

fn some_number() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), (0_u32..3).prop_map(Some)]
}

fn some_rules() -> impl Strategy<Value = Vec<DeviceRule>> {
    let kind = prop_oneof![Just(Some(DeviceKind::Block)), Just(Some(DeviceKind::Char))];
    let narrow = (any::<bool>(), kind, some_number(), some_number(), 1_u8..8).prop_map(
        |(allow, kind, major, minor, access)| DeviceRule {
            allow,
            kind,
            major,
            minor,
            access: Access(access),
        },
    );
    let whole = any::<bool>().prop_map(|allow| DeviceRule {
        allow,
        ..super::DENY_ALL
    });
    let list = proptest::collection::vec(narrow, 0..5);
    (whole, list).prop_map(|(whole, list)| [vec![whole], list].concat())
}

fn some_request() -> impl Strategy<Value = DeviceRequest> {
    let kind = prop_oneof![Just(DeviceKind::Block), Just(DeviceKind::Char)];
    // One right at a time: how rights of several rules add up is where the
    // versions may differ, and then version 2 is the stricter.
    (
        kind,
        0_u32..3,
        0_u32..3,
        prop_oneof![Just(1_u8), Just(2), Just(4)],
    )
        .prop_map(|(kind, major, minor, access)| DeviceRequest {
            kind,
            major,
            minor,
            access: Access(access),
        })
}

proptest! {
    #[test]
    fn version_1_keeps_every_list_that_it_is_given(list in some_rules(), request in some_request()) {
        if check_v1(&list).is_ok() {
            prop_assert_eq!(version_1(&list, &request), evaluate(&list, &request));
        }
    }
}
