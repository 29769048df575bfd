//! ConfigMaps, Secrets, accounts, events: what has few columns.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Layout, NAME, age, count, integer, list, name, since, string, text_or, wide};

pub(super) const ANYTHING: Layout = Layout {
    columns: &[NAME, AGE],
    row: |object, now| vec![name(object), age(object, now)],
};

pub(super) const CONFIG_MAPS: Layout = Layout {
    columns: &[NAME, integer("Data", "How many entries there are."), AGE],
    row: |object, now| {
        let entries = entries(&object["data"]) + entries(&object["binaryData"]);
        vec![name(object), json!(entries), age(object, now)]
    },
};

pub(super) const SECRETS: Layout = Layout {
    columns: &[
        NAME,
        string("Type", "What programs may take the secret for."),
        integer("Data", "How many entries there are."),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            object["type"].clone(),
            json!(entries(&object["data"])),
            age(object, now),
        ]
    },
};

pub(super) const SERVICE_ACCOUNTS: Layout = Layout {
    columns: &[NAME, integer("Secrets", "How many secrets are named."), AGE],
    row: |object, now| {
        let secrets = list(&object["secrets"]).len();
        vec![name(object), json!(secrets), age(object, now)]
    },
};

pub(super) const BUDGETS: Layout = Layout {
    columns: &[
        NAME,
        string("Min Available", "How many pods must stay."),
        string("Max Unavailable", "How many pods may be missing."),
        integer("Allowed Disruptions", "How many pods may be evicted now."),
        AGE,
    ],
    row: |object, now| {
        let bound = |field: &str| match &object["spec"][field] {
            Value::Null => json!("N/A"),
            Value::Number(number) => json!(number.to_string()),
            other => other.clone(),
        };
        vec![
            name(object),
            bound("minAvailable"),
            bound("maxUnavailable"),
            json!(count(&object["status"]["disruptionsAllowed"])),
            age(object, now),
        ]
    },
};

pub(super) const EVENTS: Layout = Layout {
    columns: &[
        string("Last Seen", "The time since it happened last."),
        string("Type", "Normal or Warning."),
        string("Reason", "What happened, in one word for programs."),
        string("Object", "To what it happened."),
        wide("Subobject", "To which part of it."),
        wide("Source", "Who says so."),
        string("Message", "What happened, for people."),
        wide("First Seen", "The time since it happened first."),
        super::Column {
            priority: 1,
            ..integer("Count", "How often it happened.")
        },
        super::Column {
            priority: 1,
            ..NAME
        },
    ],
    row: event,
};

/// An event of either group: both are stored as the same object.
fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |fields: [&str; 2]| {
        let [one, other] = fields.map(|field| &event[field]);
        if one.is_null() { other } else { one }
    };
    let first = match either(["firstTimestamp", "deprecatedFirstTimestamp"]) {
        Value::Null => since(&event["eventTime"], now),
        time => since(time, now),
    };
    let series = &event["series"];
    let last = match either(["lastTimestamp", "deprecatedLastTimestamp"]) {
        _ if series.is_object() => since(&series["lastObservedTime"], now),
        Value::Null => first.clone(),
        time => since(time, now),
    };
    let counted = match either(["count", "deprecatedCount"]) {
        _ if series.is_object() => count(&series["count"]),
        number => count(number).max(1),
    };
    let about = either(["involvedObject", "regarding"]);
    let about_kind = text_or(&about["kind"], "").to_lowercase();
    let target = match text_or(&about["name"], "") {
        name if name.is_empty() => about_kind,
        name => format!("{about_kind}/{name}"),
    };
    vec![
        last,
        json!(text_or(&event["type"], "")),
        json!(text_or(&event["reason"], "")),
        json!(target),
        json!(text_or(&about["fieldPath"], "")),
        json!(source(event)),
        json!(text_or(either(["message", "note"]), "").trim()),
        first,
        json!(counted),
        name(event),
    ]
}

fn source(event: &Value) -> String {
    let source = match &event["source"] {
        Value::Null => &event["deprecatedSource"],
        source => source,
    };
    let reporter = match &event["reportingComponent"] {
        Value::Null => &event["reportingController"],
        reporter => reporter,
    };
    let component = text_or(&source["component"], "");
    let (component, host) = match component.is_empty() {
        false => (component, text_or(&source["host"], "")),
        true => (
            text_or(reporter, ""),
            text_or(&event["reportingInstance"], ""),
        ),
    };
    match host.is_empty() {
        true => component,
        false => format!("{component}, {host}"),
    }
}

fn entries(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}
