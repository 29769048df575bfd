//! Bodies by hand: what the grammar allows, and what is refused. That real ones are read as Go
//! means them is judged by the suite `cluster_api`, with Go's own encoder.

use proptest::prelude::{Strategy, any, prop, prop_assert, proptest};
use serde_json::{Value, json};

use super::{VALUES_LIMIT, read_body};

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = varint(content.len() as u64);
    [&varint(field << 3 | 2), &length, content].concat()
}

/// A body: an object in its envelope.
fn body(version: &str, kind: &str, object: &[Vec<u8>]) -> Vec<u8> {
    let meta = [bytes(1, version), bytes(2, kind)].concat();
    [
        b"k8s\0".to_vec(),
        bytes(1, meta),
        bytes(2, object.concat()),
        bytes(3, ""),
        bytes(4, ""),
    ]
    .concat()
}

fn read(version: &str, kind: &str, object: &[Vec<u8>]) -> Value {
    read_body(&body(version, kind, object)).unwrap()
}

fn complaint(version: &str, kind: &str, object: &[Vec<u8>]) -> String {
    read_body(&body(version, kind, object))
        .unwrap_err()
        .to_string()
}

#[test]
fn an_object_has_what_go_would_show() {
    let meta = bytes(1, [bytes(1, "a"), bytes(3, "")].concat());
    assert_eq!(
        read("v1", "ConfigMap", &[meta.clone(), number(4, 0)]),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "immutable": false })
    );
    let spec = bytes(2, number(1, 0));
    let deployment = read("apps/v1", "Deployment", &[meta, spec]);
    assert_eq!(
        deployment["spec"],
        json!({
            "replicas": 0, "selector": null, "strategy": {},
            "template": { "metadata": {}, "spec": { "containers": null } },
        })
    );
    assert_eq!(deployment["status"], json!({}));
}

#[test]
fn options_are_known_under_every_group() {
    let grace = number(1, 0);
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let options = read(version, "DeleteOptions", std::slice::from_ref(&grace));
        assert_eq!(options["gracePeriodSeconds"], 0, "{options}");
    }
    let eviction = read("policy/v1", "Eviction", &[bytes(1, bytes(1, "p"))]);
    assert_eq!(eviction["metadata"]["name"], "p");
    let target = bytes(2, [bytes(1, "Node"), bytes(3, "n")].concat());
    let binding = read("v1", "Binding", &[target]);
    assert_eq!(binding["target"], json!({ "kind": "Node", "name": "n" }));
}

#[test]
fn what_stands_there_twice_is_merged_as_the_encoding_says() {
    let one = bytes(1, [bytes(1, "a"), bytes(14, "x")].concat());
    let two = bytes(1, [bytes(3, "n"), bytes(14, "y"), bytes(1, "b")].concat());
    let read = read("v1", "ConfigMap", &[one, two]);
    assert_eq!(
        read["metadata"],
        json!({ "name": "b", "namespace": "n", "finalizers": ["x", "y"] })
    );
}

#[test]
fn numbers_of_a_list_may_be_packed() {
    let groups = |list: Vec<u8>| {
        let pod = bytes(2, bytes(14, list));
        read("v1", "Pod", &[pod])["spec"]["securityContext"]["supplementalGroups"].clone()
    };
    assert_eq!(groups([number(4, 5), number(4, 6)].concat()), json!([5, 6]));
    assert_eq!(
        groups(bytes(4, [varint(5), varint(u64::MAX)].concat())),
        json!([5, -1])
    );
}

#[test]
fn numbers_that_nobody_knows_are_passed_over() {
    let group = [varint(100 << 3 | 3), number(1, 1), varint(100 << 3 | 4)].concat();
    let eight = [varint(101 << 3 | 1), vec![0; 8]].concat();
    let four = [varint(102 << 3 | 5), vec![0; 4]].concat();
    let unknown = [group, eight, four, bytes(103, "x"), number(104, 1)];
    let read = read("v1", "ConfigMap", &unknown);
    assert_eq!(
        read,
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {} })
    );
}

#[test]
fn a_text_that_is_none_is_mended_as_in_json() {
    let event = read("v1", "Event", &[bytes(4, b"cut \xe2\x9a")]);
    assert_eq!(event["message"], "cut \u{fffd}");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let pod = |container: Vec<u8>| [bytes(2, bytes(2, container))];
    let cases = [
        (
            complaint("v1", "Pod", &pod(vec![0x0a, 0x7f])),
            "spec.containers[0].field 1: its 127 bytes lead beyond the message, which has 0 left",
        ),
        (
            complaint("v1", "Pod", &pod(number(1, 1))),
            "spec.containers[0].name: a length and bytes were expected",
        ),
        (
            complaint("v1", "Pod", &[bytes(2, bytes(4, ""))]),
            "spec.terminationGracePeriodSeconds: a number was expected",
        ),
        (
            complaint("v1", "Pod", &[vec![0x0b]]),
            "field 1: the message ends within a number",
        ),
        (
            complaint("v1", "Pod", &[vec![0x0c]]),
            "field 1: a group ends that did not begin",
        ),
        (
            complaint("v1", "Pod", &[vec![0x0e]]),
            "field 1: there is no wire type 6",
        ),
        (
            complaint("v1", "Pod", &[vec![0x00]]),
            "0 is no field's number",
        ),
        (
            complaint("v1", "Pod", &[[0xff].repeat(11)]),
            "a number is longer than 64 bits",
        ),
        (
            complaint("v1", "Pod", &[[0xfb, 0x01].repeat(40)]),
            "field 31: groups are nested too deep",
        ),
        (
            complaint("v1", "Pods", &[]),
            "no kind \"Pods\" of version \"v1\" is served",
        ),
        (
            complaint(
                "apps/v1",
                "ControllerRevision",
                &[bytes(2, bytes(1, "k8s\0"))],
            ),
            "data: its bytes are not JSON: expected value at line 1 column 1",
        ),
        (
            complaint("v1", "Event", &[bytes(6, number(1, u64::MAX / 2))]),
            "firstTimestamp: 9223372036854775807 seconds are no time of the calendar",
        ),
    ];
    for (told, expected) in cases {
        assert_eq!(told, expected);
    }
    for (body, expected) in [
        (&b""[..], "it does not begin with k8s and a zero byte"),
        (b"{}", "it does not begin with k8s and a zero byte"),
        (b"k8s\0", "no kind \"\" of version \"\" is served"),
        (b"k8s\0\x1a\x04gzip", "contentEncoding: none is known"),
        (
            b"k8s\0\x0a\x09",
            "field 1: its 9 bytes lead beyond the message, which has 0 left",
        ),
        (b"k8s\0\x10\x01", "a length and bytes were expected"),
    ] {
        assert_eq!(read_body(body).unwrap_err().to_string(), expected);
    }
}

#[test]
fn few_bytes_do_not_become_many_values() {
    // Two bytes each, and each would be an object of some fields.
    let containers = bytes(2, [0x12, 0x00].repeat(VALUES_LIMIT));
    let told = complaint("v1", "Pod", &[containers]);
    assert!(told.contains("the body has too many values"), "{told}");
}

proptest! {
    /// Whatever the bytes, there is an answer.
    #[test]
    fn no_body_breaks_the_reader(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        for (version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Event")] {
            drop(read_body(&body(version, kind, std::slice::from_ref(&rest))));
        }
        drop(read_body(&[b"k8s\0", &rest[..]].concat()));
    }

    /// The same for bytes that keep to the grammar, and so come further.
    #[test]
    fn no_message_breaks_the_reader(message in message()) {
        for (version, kind) in [("v1", "Pod"), ("v1", "Node"), ("batch/v1", "CronJob")] {
            drop(read_body(&body(version, kind, std::slice::from_ref(&message))));
        }
    }

    /// A body that ends early is refused or is a shorter one; it never reads on.
    #[test]
    fn no_cut_breaks_the_reader(message in message(), cut in any::<prop::sample::Index>()) {
        let whole = body("v1", "Pod", &[message]);
        let cut = &whole[..cut.index(whole.len())];
        if let Ok(value) = read_body(cut) {
            prop_assert!(value.is_object());
        }
    }
}

/// Messages within messages, of numbers that types have.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let leaf = leaf();
    leaf.prop_recursive(6, 64, 5, |inner| {
        (1..20u64, prop::collection::vec(inner, 0..5))
            .prop_map(|(field, parts)| bytes(field, parts.concat()))
    })
}

fn leaf() -> impl Strategy<Value = Vec<u8>> {
    (1..20u64, any::<u64>(), "[a-z0-9]{0,5}", any::<bool>()).prop_map(
        |(field, value, text, is_number)| {
            if is_number {
                number(field, value)
            } else {
                bytes(field, text)
            }
        },
    )
}
