//! Files of networks, right and wrong.

use proptest::prelude::{any, proptest};
use serde_json::json;

use super::*;

fn list(text: &str) -> Result<ReadList, Error> {
    read_list(text.as_bytes(), Path::new("/etc/cni/net.d/10-x.conflist"))
}

fn refused(text: &str) -> String {
    list(text).unwrap_err().to_string()
}

#[test]
fn a_list_is_read_with_its_switches() {
    let read = list(
        r#"{"cniVersion":"1.1.0","name":"pods","disableCheck":true,"disableGC":"True",
            "loadOnlyInlinedPlugins":true,
            "plugins":[{"type":"bridge","bridge":"cni0"},
                       {"type":"portmap","capabilities":{"portMappings":true,"ips":false}}]}"#,
    )
    .unwrap();
    assert_eq!(read.more, MorePlugins::None);
    let network = read.network;
    assert_eq!(
        (network.name.as_str(), network.version),
        ("pods", Version::NEWEST)
    );
    assert!(network.disable_check && network.disable_gc);
    assert_eq!(network.plugins[0].raw["bridge"], "cni0");
    let capabilities: Vec<&String> = network.plugins[1].capabilities.iter().collect();
    assert_eq!(capabilities, ["portMappings"]);
}

#[test]
fn a_list_that_says_little_has_defaults() {
    let read = list(r#"{"name":"a"}"#).unwrap();
    assert_eq!(read.more, MorePlugins::InFolder);
    assert_eq!(read.network.version, Version::FIRST);
    assert!(!read.network.disable_gc);
    let error = check_not_empty(&read.network).unwrap_err();
    assert!(error.to_string().contains("plugins: expected at least one"));
}

#[test]
fn the_newest_version_that_is_spoken_is_chosen() {
    let chosen = |text: &str| list(text).unwrap().network.version.to_string();
    assert_eq!(
        chosen(r#"{"name":"a","cniVersions":["0.4.0","1.0.0","9.0.0"]}"#),
        "1.0.0"
    );
    assert_eq!(
        chosen(r#"{"name":"a","cniVersion":"0.3.1","cniVersions":["1.1.0"]}"#),
        "1.1.0"
    );
    let error = refused(r#"{"name":"a","cniVersion":"2.0.0"}"#);
    assert!(
        error.contains("cniVersion: 2.0.0") && error.contains("1.1.0"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (text, names) in [
        ("", "expected an object of JSON"),
        ("[]", "expected an object of JSON"),
        (r#"{"plugins":[]}"#, "name: is missing"),
        (r#"{"name":"../etc"}"#, "name: \"../etc\""),
        (r#"{"name":"-a"}"#, "name: \"-a\""),
        (r#"{"name":"a","plugins":{}}"#, "plugins: expected a list"),
        (
            r#"{"name":"a","plugins":[1]}"#,
            "plugins[0]: expected an object",
        ),
        (
            r#"{"name":"a","plugins":[{}]}"#,
            "plugins[0].type: is missing",
        ),
        (
            r#"{"name":"a","plugins":[{"type":7}]}"#,
            "plugins[0].type: expected the name",
        ),
        (
            r#"{"name":"a","plugins":[{"type":"../sh"}]}"#,
            "without a path",
        ),
        (
            r#"{"name":"a","plugins":[{"type":".."}]}"#,
            "without a path",
        ),
        (r#"{"name":"a","plugins":[{"type":""}]}"#, "without a path"),
        (
            r#"{"name":"a","plugins":[{"type":"x","capabilities":{"ips":1}}]}"#,
            "plugins[0].capabilities.ips",
        ),
        (
            r#"{"name":"a","disableGC":3}"#,
            "disableGC: expected true or false",
        ),
        (
            r#"{"name":"a","cniVersion":1}"#,
            "cniVersion: expected a text",
        ),
        (
            r#"{"name":"a","cniVersions":"1.0.0"}"#,
            "cniVersions: expected a list",
        ),
        (r#"{"name":"a","cniVersion":"1.0"}"#, "cniVersion: \"1.0\""),
    ] {
        let error = refused(text);
        assert!(error.contains(names), "{text}: {error}");
    }
}

#[test]
fn the_older_form_is_one_plugin() {
    let source = Path::new("10.conf");
    let read = read_single(br#"{"name":"a","type":"ptp","mtu":1}"#, source).unwrap();
    assert_eq!(read.plugins.len(), 1);
    assert_eq!(read.plugins[0].raw["mtu"], json!(1));
    let error = read_single(br#"{"name":"a","plugins":[]}"#, source).unwrap_err();
    assert!(error.to_string().contains("*.conflist"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_it_fall_over(text in any::<String>()) {
        let _ = list(&text);
    }

    #[test]
    fn no_program_is_outside_the_directories(name in any::<String>()) {
        let object = json!({ "name": "a", "plugins": [{ "type": name }] }).to_string();
        if let Ok(read) = list(&object) {
            let program = Path::new(&read.network.plugins[0].program);
            assert_eq!(program.components().count(), 1);
            assert_eq!(Path::new("/opt").join(program).parent(), Some(Path::new("/opt")));
        }
    }

    #[test]
    fn a_network_is_recorded_as_it_was_read(names in proptest::collection::vec("[a-z]{1,8}", 1..5)) {
        let plugins: Vec<Value> = names
            .iter()
            .map(|name| json!({ "type": name, "capabilities": { (name.as_str()): true } }))
            .collect();
        let text = json!({ "name": "a", "cniVersion": "1.0.0", "plugins": plugins }).to_string();
        let network = list(&text).unwrap().network;
        let again: NetworkList =
            serde_json::from_value(serde_json::to_value(&network).unwrap()).unwrap();
        assert_eq!(again, network);
    }
}
