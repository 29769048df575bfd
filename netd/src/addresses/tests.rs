use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use super::{check_fixed_address, plan_address};
use crate::error::ErrorKind;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn network_gateway_and_broadcast_are_never_given() {
    let mut taken = BTreeSet::new();
    for expected in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"] {
        let address = plan_address(&net("10.0.0.0/29"), &taken, None).unwrap();
        assert_eq!(address, ip(expected));
        taken.insert(address);
    }
    let error = plan_address(&net("10.0.0.0/29"), &taken, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("has 5 addresses"), "{error}");
}

#[test]
fn a_returned_address_is_the_last_to_be_reused() {
    let subnet = net("10.0.0.0/29");
    let taken: BTreeSet<IpAddr> = [ip("10.0.0.2"), ip("10.0.0.4")].into();
    // .3 was just given back: .5 and .6 come first.
    assert_eq!(
        plan_address(&subnet, &taken, Some(ip("10.0.0.4"))).unwrap(),
        ip("10.0.0.5")
    );
    assert_eq!(
        plan_address(&subnet, &taken, Some(ip("10.0.0.6"))).unwrap(),
        ip("10.0.0.3")
    );
}

#[test]
fn ipv6_has_no_broadcast_and_no_walk() {
    assert_eq!(
        plan_address(&net("fd00::/126"), &BTreeSet::new(), None).unwrap(),
        ip("fd00::2")
    );
    let taken: BTreeSet<IpAddr> = [ip("fd00::2")].into();
    assert_eq!(
        plan_address(&net("fd00::/126"), &taken, None).unwrap(),
        ip("fd00::3")
    );
    assert_eq!(
        plan_address(&net("fd00::/8"), &taken, None).unwrap(),
        ip("fd00::3")
    );
}

#[test]
fn a_fixed_address_is_checked_against_subnet_reservation_and_holder() {
    let subnets = [net("10.0.0.0/24"), net("fd00::/64")];
    let holders: BTreeMap<IpAddr, String> = [(ip("10.0.0.9"), "web".to_owned())].into();
    let check = |address| check_fixed_address(ip(address), &subnets, &holders);
    check("10.0.0.8").unwrap();
    check("fd00::8").unwrap();
    assert!(
        check("10.0.1.8")
            .unwrap_err()
            .to_string()
            .contains("no subnet")
    );
    for reserved in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "fd00::", "fd00::1"] {
        assert!(
            check(reserved)
                .unwrap_err()
                .to_string()
                .contains("reserved"),
            "{reserved}"
        );
    }
    let held = check("10.0.0.9").unwrap_err();
    assert_eq!(held.kind(), ErrorKind::Conflict);
    assert!(held.to_string().contains("pod web"));
}

/// What a caller does over time: take one, or give back the n-th held.
#[derive(Debug, Clone)]
enum Step {
    Take,
    Give(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<bool>(), any::<usize>())
        .prop_map(|(take, n)| if take { Step::Take } else { Step::Give(n) });
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Against the dullest model there is: a queue of free addresses in order
    /// after the one given last.
    #[test]
    fn the_allocator_agrees_with_a_walk_over_every_address(
        prefix in 24u8..=30,
        steps in steps(),
    ) {
        let subnet = IpNet::new(ip("10.9.8.0"), prefix).unwrap();
        let all: Vec<IpAddr> = subnet.hosts().skip(1).collect();
        let (mut taken, mut last) = (BTreeSet::new(), None);
        for step in steps {
            match step {
                Step::Give(n) => {
                    if let Some(address) = taken.iter().nth(n % taken.len().max(1)).copied() {
                        taken.remove(&address);
                    }
                }
                Step::Take => {
                    let after = last.and_then(|last| all.iter().position(|a| *a == last));
                    let start = after.map_or(0, |position| position + 1);
                    let model = all[start..].iter().chain(&all[..start]).find(|a| !taken.contains(*a));
                    match plan_address(&subnet, &taken, last) {
                        Ok(address) => {
                            prop_assert_eq!(Some(&address), model);
                            prop_assert!(taken.insert(address));
                            last = Some(address);
                        }
                        Err(error) => {
                            prop_assert_eq!(error.kind(), ErrorKind::Exhausted);
                            prop_assert_eq!(taken.len(), all.len());
                        }
                    }
                }
            }
        }
    }
}
