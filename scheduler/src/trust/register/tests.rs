use super::*;

fn record(node: &str, uid: Option<&str>) -> Record {
    Record {
        node: node.to_owned(),
        expires: Timestamp::from_second(2_000).unwrap(),
        uid: uid.map(str::to_owned),
        revoked: None,
    }
}

fn plan(
    records: &[(&str, Record)],
    here: &[(&str, &str)],
    now: i64,
) -> Vec<(String, Option<Record>)> {
    let records = records
        .iter()
        .map(|(serial, record)| ((*serial).to_owned(), record.clone()));
    let here = here
        .iter()
        .map(|(name, uid)| ((*name).to_owned(), (*uid).to_owned()))
        .collect();
    plan_changes(records, &here, Timestamp::from_second(now).unwrap())
}

#[test]
fn a_node_that_was_never_seen_keeps_its_certificate() {
    assert_eq!(plan(&[("1", record("a", None))], &[], 1_000), []);
}

#[test]
fn a_node_that_is_seen_is_written_down_once() {
    let seen = record("a", Some("u"));
    let changes = plan(&[("1", record("a", None))], &[("a", "u")], 1_000);
    assert_eq!(changes, [("1".to_owned(), Some(seen.clone()))]);
    assert_eq!(plan(&[("1", seen)], &[("a", "u")], 1_000), []);
}

#[test]
fn a_node_that_went_or_came_anew_is_refused() {
    for here in [&[][..], &[("a", "other")][..]] {
        let changes = plan(&[("1", record("a", Some("u")))], here, 1_000);
        let revoked = changes[0].1.as_ref().unwrap().revoked;
        assert_eq!(revoked, Some(Timestamp::from_second(1_000).unwrap()));
    }
}

#[test]
fn what_is_out_of_date_is_forgotten() {
    let changes = plan(&[("1", record("a", Some("u")))], &[("a", "u")], 3_000);
    assert_eq!(changes, [("1".to_owned(), None)]);
}

#[test]
fn only_what_is_written_as_revoked_is_refused() {
    let register = Register::default();
    let mut map = ConfigMap::default();
    let text = |record: Record| serde_json::to_string(&record).unwrap();
    let revoked = Record {
        revoked: Some(Timestamp::UNIX_EPOCH),
        ..record("a", None)
    };
    let data = [
        ("1".to_owned(), text(revoked)),
        ("2".to_owned(), text(record("a", None))),
        ("3".to_owned(), "nonsense".to_owned()),
    ];
    map.data = Some(data.into());
    register.take(&map);
    let refused: Vec<bool> = ["1", "2", "3", "4"]
        .iter()
        .map(|serial| register.is_revoked(serial))
        .collect();
    assert_eq!(refused, [true, false, false, false]);
}
