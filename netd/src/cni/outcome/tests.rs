//! What plugins answer, right and wrong.

use proptest::prelude::{Strategy, any, proptest};
use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Outcome, Error> {
    Outcome::read(text.as_bytes(), Version::NEWEST)
}

fn texts<'a>(addresses: impl Iterator<Item = &'a Address>) -> Vec<String> {
    addresses.map(|one| one.address.to_string()).collect()
}

#[test]
fn a_result_of_today_is_read() {
    let outcome = read(
        r#"{"cniVersion":"1.1.0",
            "interfaces":[{"name":"cni0","mac":"aa:aa:aa:aa:aa:aa"},
                          {"name":"eth0","mac":"bb:bb:bb:bb:bb:bb","mtu":1500,"sandbox":"/run/ns"}],
            "ips":[{"address":"fd00::2/64","gateway":"fd00::1","interface":1},
                   {"address":"10.1.0.2/24","interface":1},
                   {"address":"10.9.0.2/24","interface":0}],
            "routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#,
    )
    .unwrap();
    assert_eq!(
        texts(outcome.addresses_of("eth0")),
        ["fd00::2/64", "10.1.0.2/24"]
    );
    assert_eq!(texts(outcome.addresses_of("net1")), Vec::<String>::new());
    let interface = outcome.interface("eth0").unwrap();
    assert_eq!(
        (interface.mtu, interface.mac.as_str()),
        (1500, "bb:bb:bb:bb:bb:bb")
    );
    assert_eq!(outcome.addresses[0].gateway, "fd00::1".parse().ok());
    assert_eq!(outcome.raw["routes"][0]["dst"], "0.0.0.0/0");
}

#[test]
fn results_of_every_age_are_read() {
    for version in ["0.1.0", "0.2.0"] {
        let text = json!({"cniVersion": version,
            "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": []},
            "ip6": {"ip": "fd00::2/64"}});
        let outcome = read(&text.to_string()).unwrap();
        assert_eq!(
            texts(outcome.addresses_of("eth0")),
            ["10.1.0.2/24", "fd00::2/64"]
        );
    }
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let text = json!({"cniVersion": version, "interfaces": null,
            "ips": [{"version": "4", "address": "10.1.0.2/24", "gateway": "", "interface": -1}]});
        let outcome = read(&text.to_string()).unwrap();
        assert_eq!(texts(outcome.addresses_of("eth0")), ["10.1.0.2/24"]);
    }
}

#[test]
fn a_result_without_a_version_is_of_the_one_that_was_asked() {
    let outcome = Outcome::read(br#"{"ip4":{"ip":"10.1.0.2/24"}}"#, Version::FIRST).unwrap();
    assert_eq!(outcome.raw["cniVersion"], "0.1.0");
    assert_eq!(outcome.addresses.len(), 1);
}

#[test]
fn what_is_no_result_is_refused() {
    for (text, names) in [
        ("", "no result was printed"),
        (" \n", "no result was printed"),
        ("{", "not JSON"),
        ("[]", "no object"),
        (r#"{"cniVersion":"7.0.0"}"#, "7.0.0"),
        (r#"{"ips":[{"address":"10.1"}]}"#, "another form"),
        (
            r#"{"ips":[{"address":"10.1.0.2/24","interface":0}]}"#,
            "does not list",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(names), "{text}: {error}");
    }
}

#[test]
fn an_error_is_told_with_its_meaning() {
    let text = br#"{"cniVersion":"1.1.0","code":11,"msg":"busy","details":"wait a bit"}"#;
    let error = PluginError::read(text).unwrap();
    assert_eq!(
        error.to_string(),
        "code 11 (try again later): busy; wait a bit"
    );
    let own = PluginError::read(br#"{"code":100,"msg":"no"}"#).unwrap();
    assert_eq!(own.to_string(), "code 100: no");
    assert_eq!(PluginError::read(b"{}"), None);
    assert_eq!(PluginError::read(b"oops"), None);
}

#[test]
fn versions_of_the_future_are_passed_over() {
    let text = br#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.1.0","next"]}"#;
    let versions = read_versions(text).unwrap();
    assert_eq!(versions, [Version::WITH_CHECK, Version::NEWEST]);
    assert_eq!(read_versions(b"hello"), None);
}

fn address() -> impl Strategy<Value = String> {
    (any::<std::net::IpAddr>(), 0_u8..=32).prop_map(|(ip, length)| format!("{ip}/{length}"))
}

proptest! {
    #[test]
    fn no_output_makes_it_fall_over(bytes in any::<Vec<u8>>()) {
        let _ = Outcome::read(&bytes, Version::NEWEST);
        let _ = PluginError::read(&bytes);
        let _ = read_versions(&bytes);
    }

    #[test]
    fn each_address_is_on_the_interface_that_it_names(
        listed in proptest::collection::vec((address(), proptest::option::of(0_usize..3)), 0..6),
    ) {
        let ips: Vec<Value> = listed
            .iter()
            .map(|(address, interface)| json!({"address": address, "interface": interface}))
            .collect();
        let text = json!({"cniVersion": "1.0.0", "ips": ips, "interfaces": [
            {"name": "eth0"}, {"name": "eth0", "sandbox": "/ns"}, {"name": "net1", "sandbox": "/ns"}]});
        let outcome = read(&text.to_string()).unwrap();
        let expected = listed.iter().filter(|(_, on)| matches!(on, None | Some(1))).count();
        assert_eq!(outcome.addresses_of("eth0").count(), expected);
        // What is handed on is what came.
        assert_eq!(&outcome.raw, &text);
    }
}
