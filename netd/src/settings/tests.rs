use crate::links::Ipv6;
use crate::settings::{plan_host_settings, plan_pod_settings};

fn lines(settings: &[crate::settings::Setting]) -> Vec<String> {
    settings
        .iter()
        .map(|setting| format!("{}={}", setting.path, setting.value))
        .collect()
}

#[test]
fn listeners_keep_their_routers_before_forwarding_begins() {
    let plan = lines(&plan_host_settings(
        "b0",
        Ipv6::Present,
        &["wan0".to_owned()],
    ));
    let at = |line: &str| plan.iter().position(|found| found == line).unwrap();
    assert!(at("ipv6/conf/wan0/accept_ra=2") < at("ipv6/conf/all/forwarding=1"));
    assert!(at("ipv4/ip_forward=1") < at("ipv4/conf/b0/route_localnet=1"));
    at("ipv6/conf/b0/accept_ra=0");
}

#[test]
fn a_machine_without_ipv6_has_no_ipv6_settings() {
    let host = lines(&plan_host_settings("b0", Ipv6::Absent, &[]));
    assert!(host.iter().all(|line| line.starts_with("ipv4/")));
    assert!(plan_pod_settings(Ipv6::Absent).is_empty());
}

#[test]
fn a_pod_listens_to_no_router_and_skips_duplicate_detection() {
    let pod = lines(&plan_pod_settings(Ipv6::Present));
    assert!(pod.contains(&"ipv6/conf/default/accept_ra=0".to_owned()));
    assert!(pod.contains(&"ipv6/conf/default/accept_dad=0".to_owned()));
}
