use oci_spec::runtime::LinuxCpu;
use proptest::prelude::{prop_assert, proptest};

use super::{ceiling, check_list, weight_from_shares};
use crate::cgroup::plan::Change;

#[test]
fn normal_shares_are_a_normal_weight() {
    for (shares, weight) in [
        (0, 1),
        (2, 1),
        (1_024, 100),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight_from_shares(shares), weight, "{shares}");
    }
}

#[test]
fn a_ceiling_keeps_what_is_not_asked() {
    let text = |json: &str, change: &Change| {
        let cpu: LinuxCpu = serde_json::from_str(json).expect("good JSON");
        ceiling(&cpu, change).map(|(text, _)| text)
    };
    let update = Change::Update {
        quota: Some("4000".to_owned()),
        memory: None,
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(text(r#"{"quota": 5}"#, &Change::Create), some("5 100000"));
    assert_eq!(text(r#"{"quota": 5}"#, &update), some("5"));
    assert_eq!(
        text(r#"{"quota": -1, "period": 7}"#, &update),
        some("max 7")
    );
    assert_eq!(text(r#"{"period": 7}"#, &Change::Create), some("max 7"));
    assert_eq!(text(r#"{"period": 7}"#, &update), some("4000 7"));
    assert_eq!(text(r#"{"shares": 7}"#, &update), None);
}

#[test]
fn lists_are_numbers_and_ranges() {
    for good in ["0", "0-3", "0,2-4,9", "7-7"] {
        assert!(check_list(good, "f").is_ok(), "{good}");
    }
    for bad in ["a", "1-", "-1", "3-1", "1,,2", "0 1", "1\n2"] {
        assert!(check_list(bad, "f").is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn more_shares_are_never_less_weight(one in 2_u64..300_000, more in 0_u64..300_000) {
        let (low, high) = (weight_from_shares(one), weight_from_shares(one + more));
        prop_assert!(1 <= low && low <= high && high <= 10_000);
    }
}
