use super::{AttachRequest, HostPort, Protocol};

fn port(text_address: Option<&str>, host_port: u16) -> HostPort {
    HostPort {
        protocol: Protocol::Tcp,
        host_address: text_address.map(|address| address.parse().unwrap()),
        host_port,
        container_port: 80,
    }
}

fn request() -> AttachRequest {
    AttachRequest {
        pod_id: "pod-1".into(),
        netns: "/run/netns/x".into(),
        interface: "eth0".into(),
        host_ports: vec![],
        addresses: vec![],
    }
}

#[test]
fn overlap_is_by_family_and_address() {
    let table: &[(Option<&str>, Option<&str>, bool)] = &[
        (None, None, true),
        (None, Some("::"), true),
        (None, Some("10.0.0.1"), true),
        (Some("0.0.0.0"), Some("::"), false),
        (Some("0.0.0.0"), Some("10.0.0.1"), true),
        (Some("10.0.0.1"), Some("10.0.0.2"), false),
        (Some("10.0.0.1"), Some("10.0.0.1"), true),
        (Some("::"), Some("10.0.0.1"), false),
    ];
    for (a, b, expected) in table {
        assert_eq!(
            port(*a, 80).overlaps(&port(*b, 80)),
            *expected,
            "{a:?} {b:?}"
        );
        assert_eq!(
            port(*b, 80).overlaps(&port(*a, 80)),
            *expected,
            "{b:?} {a:?}"
        );
        assert!(!port(*a, 80).overlaps(&port(*b, 81)));
    }
    assert!(!port(None, 80).overlaps(&HostPort {
        protocol: Protocol::Udp,
        ..port(None, 80)
    }));
}

#[test]
fn each_bad_field_is_named() {
    let v4 = || "10.0.0.5".parse().unwrap();
    let cases: Vec<(AttachRequest, &str)> = vec![
        (
            AttachRequest {
                pod_id: String::new(),
                ..request()
            },
            "pod_id",
        ),
        (
            AttachRequest {
                pod_id: "a/b".into(),
                ..request()
            },
            "pod_id",
        ),
        (
            AttachRequest {
                interface: "lo".into(),
                ..request()
            },
            "interface",
        ),
        (
            AttachRequest {
                interface: "a b".into(),
                ..request()
            },
            "interface",
        ),
        (
            AttachRequest {
                netns: "relative".into(),
                ..request()
            },
            "netns",
        ),
        (
            AttachRequest {
                addresses: vec![v4(), v4()],
                ..request()
            },
            "addresses",
        ),
        (
            AttachRequest {
                host_ports: vec![port(None, 0)],
                ..request()
            },
            "1 to 65535",
        ),
        (
            AttachRequest {
                host_ports: vec![port(Some("::1"), 80)],
                ..request()
            },
            "::1",
        ),
        (
            AttachRequest {
                host_ports: vec![port(Some("224.0.0.1"), 80)],
                ..request()
            },
            "multicast",
        ),
        (
            AttachRequest {
                host_ports: vec![port(None, 80), port(Some("0.0.0.0"), 80)],
                ..request()
            },
            "overlap",
        ),
    ];
    for (request, expected) in cases {
        let text = request.validate().unwrap_err().to_string();
        assert!(
            text.contains(expected),
            "{text:?} should contain {expected:?}"
        );
    }
    request().validate().unwrap();
}
