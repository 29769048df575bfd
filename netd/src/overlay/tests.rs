use super::*;

fn node(address: &str, range: &str) -> Node {
    Node {
        addresses: vec![address.parse().unwrap()],
        pod_ranges: vec![range.parse().unwrap()],
    }
}

fn model() -> Model {
    let mut model = Model::default();
    for (name, address, range) in [
        ("a", "10.99.0.1", "10.210.1.0/24"),
        ("b", "10.99.0.2", "10.210.2.0/24"),
    ] {
        model.nodes.insert(name.to_owned(), node(address, range));
    }
    model
}

fn place() -> Place<'static> {
    Place {
        node: "a",
        underlay_mtu: 1500,
        ipv6: Ipv6::Absent,
    }
}

fn wanted(model: &Model) -> Desired {
    desired(&OverlayConfig::default(), model, &place()).unwrap()
}

#[test]
fn a_peer_is_a_forwarding_entry_a_neighbour_and_two_routes() {
    let steps = plan(&wanted(&model()), &Observed::default());
    let text: Vec<String> = steps.iter().map(Step::to_string).collect();
    assert_eq!(
        text[0],
        "link add berth-vx address 0a:58:0a:d2:01:00 mtu 1450 type vxlan id 1 dstport 8472 \
         local 10.99.0.1 nolearning"
    );
    for line in [
        "bridge fdb add 0a:58:0a:d2:02:00 dev berth-vx dst 10.99.0.2",
        "neigh add 10.210.2.0 lladdr 0a:58:0a:d2:02:00 dev berth-vx nud permanent",
        "route add 10.210.2.0/24 via 10.210.2.0 dev berth-vx onlink table 254 src 10.99.0.1",
        "route add 10.99.0.2/32 via 10.210.2.0 dev berth-vx onlink table 6263",
        "rule add fwmark 0x10000000/0x10000000 lookup 6262 priority 6262",
        "rule add iif berth0 lookup 6263 priority 6263",
    ] {
        assert!(text.iter().any(|step| step == line), "{line} in {text:#?}");
    }
}

#[test]
fn what_stands_is_left_alone() {
    let desired = wanted(&model());
    let observed = Observed {
        device: Some(desired.device.clone()),
        is_up: true,
        entries: desired.entries.clone(),
    };
    assert_eq!(
        plan(&desired, &observed),
        vec![Step::Set(desired.settings.clone())]
    );
}

#[test]
fn a_peer_that_leaves_takes_its_entries_and_no_others() {
    let mut model = model();
    let before = wanted(&model);
    model.nodes.remove("b");
    let observed = Observed {
        device: Some(before.device.clone()),
        is_up: true,
        entries: before.entries,
    };
    let steps = plan(&wanted(&model), &observed);
    assert_eq!(steps.len(), 1 + 4, "{steps:#?}");
    assert!(
        steps[1..]
            .iter()
            .all(|step| matches!(step, Step::Remove(entry) if !matches!(entry, Entry::Rule(_))))
    );
}

#[test]
fn another_address_of_the_node_makes_the_interface_anew() {
    let before = wanted(&model());
    let mut model = model();
    model
        .nodes
        .insert("a".to_owned(), node("10.99.0.9", "10.210.1.0/24"));
    let observed = Observed {
        device: Some(before.device.clone()),
        is_up: true,
        entries: before.entries.clone(),
    };
    let after = wanted(&model);
    let steps = plan(&after, &observed);
    assert_eq!(steps[0], Step::RemoveDevice);
    assert_eq!(steps[1], Step::AddDevice(after.device.clone()));
    let added = steps.iter().filter(|s| matches!(s, Step::Add(_))).count();
    let rules = 2;
    assert_eq!(added, after.entries.len() - rules, "rules outlive it");
}

#[test]
fn a_node_without_a_range_has_no_overlay_yet() {
    let mut model = model();
    model.nodes.insert("a".to_owned(), Node::default());
    assert_eq!(desired(&OverlayConfig::default(), &model, &place()), None);
}
