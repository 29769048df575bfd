//! What needs no etcd: addresses, ranges.

use super::{EtcdConfig, end_of};

#[test]
fn an_address_names_each_member() {
    let config = EtcdConfig::parse("etcd://a:2379,[::1]:2380").unwrap();
    assert_eq!(config.endpoints, ["a:2379", "[::1]:2380"]);
    for wrong in [
        "redb://x",
        "etcd://",
        "etcd://a",
        "etcd://a:b",
        "etcd://a:1,",
        "etcd://:1",
    ] {
        let error = EtcdConfig::parse(wrong).unwrap_err().to_string();
        assert!(error.contains("expected etcd://HOST:PORT"), "{error}");
    }
}

#[test]
fn a_range_ends_behind_all_that_has_the_prefix() {
    assert_eq!(end_of("/berth/"), b"/berth0");
    assert_eq!(end_of("a"), b"b");
    assert_eq!(end_of(""), [0]);
}
