//! From a configuration to facts: which lists are sets, which are maps, which
//! values say only what holds anyway.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

/// One thing that a configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The path with empty brackets, for tables: `process.env[]`.
    pub pattern: String,
    /// What stood in the last brackets.
    pub key: String,
    /// What it says.
    pub value: Value,
}

/// The form of a list.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Order and repetition mean nothing.
    Set,
    /// Texts `KEY=value`; the last of a key wins.
    Variables,
    /// Objects that these fields tell apart; their order means nothing.
    Keyed(&'static [&'static str]),
    /// The same, but the order counts.
    Ordered(&'static str),
    /// `linux.namespaces`.
    Namespaces,
    /// `linux.seccomp.syscalls`.
    Syscalls,
    /// Words of mount options: a later one wins over its opposite.
    Options,
}

/// The lists that are no plain sequence.
const FORMS: &[(&str, Form)] = &[
    ("process.env", Form::Variables),
    ("process.capabilities.bounding", Form::Set),
    ("process.capabilities.effective", Form::Set),
    ("process.capabilities.permitted", Form::Set),
    ("process.capabilities.inheritable", Form::Set),
    ("process.capabilities.ambient", Form::Set),
    ("process.user.additionalGids", Form::Set),
    ("process.rlimits", Form::Keyed(&["type"])),
    ("process.scheduler.flags", Form::Set),
    ("mounts", Form::Ordered("destination")),
    ("mounts[].options", Form::Options),
    ("mounts[].uidMappings", Form::Keyed(&["containerID"])),
    ("mounts[].gidMappings", Form::Keyed(&["containerID"])),
    ("linux.namespaces", Form::Namespaces),
    ("linux.devices", Form::Keyed(&["path"])),
    ("linux.uidMappings", Form::Keyed(&["containerID"])),
    ("linux.gidMappings", Form::Keyed(&["containerID"])),
    ("linux.maskedPaths", Form::Set),
    ("linux.readonlyPaths", Form::Set),
    ("linux.intelRdt.schemata", Form::Set),
    ("linux.memoryPolicy.flags", Form::Set),
    ("linux.seccomp.architectures", Form::Set),
    ("linux.seccomp.flags", Form::Set),
    ("linux.seccomp.syscalls", Form::Syscalls),
    ("linux.resources.hugepageLimits", Form::Keyed(&["pageSize"])),
    ("linux.resources.network.priorities", Form::Keyed(&["name"])),
    (
        "linux.resources.blockIO.weightDevice",
        Form::Keyed(&["major", "minor"]),
    ),
    (
        "linux.resources.blockIO.throttleReadBpsDevice",
        Form::Keyed(&["major", "minor"]),
    ),
    (
        "linux.resources.blockIO.throttleWriteBpsDevice",
        Form::Keyed(&["major", "minor"]),
    ),
    (
        "linux.resources.blockIO.throttleReadIOPSDevice",
        Form::Keyed(&["major", "minor"]),
    ),
    (
        "linux.resources.blockIO.throttleWriteIOPSDevice",
        Form::Keyed(&["major", "minor"]),
    ),
];

/// Objects whose keys are the caller's own words.
const MAPS: &[&str] = &[
    "annotations",
    "linux.sysctl",
    "linux.resources.unified",
    "linux.resources.rdma",
    "linux.timeOffsets",
    "linux.netDevices",
];

/// Values that hold anyway when nothing is said. Empty lists, objects and
/// texts and `null` are the same as nothing without being named here.
fn holds_anyway(pattern: &str, value: &Value) -> bool {
    match pattern {
        "process.terminal" | "process.noNewPrivileges" | "root.readonly" => *value == json!(false),
        "process.user.uid" | "process.user.gid" => *value == json!(0),
        "process.user.umask" => *value == json!(0o022),
        "linux.rootfsPropagation" => *value == json!("slave") || *value == json!("rslave"),
        // The kernel's word for "as much as there is".
        "linux.resources.memory.limit"
        | "linux.resources.memory.swap"
        | "linux.resources.memory.reservation" => *value == json!(-1),
        "linux.resources.pids.limit" => value.as_i64().is_some_and(|limit| limit <= 0),
        "linux.resources.cpu.shares" => *value == json!(0) || *value == json!(1024),
        _ => false,
    }
}

/// Texts that are different from none even when they are empty.
fn may_be_empty(pattern: &str) -> bool {
    pattern == "process.env[]"
        || MAPS
            .iter()
            .any(|map| pattern.strip_suffix("[]") == Some(map))
}

/// Takes a configuration apart.
pub fn facts_of(config: &Value) -> BTreeMap<String, Fact> {
    let mut facts = Facts::default();
    facts.read(&Place::default(), config);
    facts.0
}

/// Where in a configuration.
#[derive(Debug, Clone, Default)]
struct Place {
    path: String,
    pattern: String,
    key: String,
}

impl Place {
    fn field(&self, name: &str) -> Place {
        let join = |left: &str| match left {
            "" => name.to_owned(),
            left => format!("{left}.{name}"),
        };
        Place {
            path: join(&self.path),
            pattern: join(&self.pattern),
            key: self.key.clone(),
        }
    }

    fn item(&self, key: &str) -> Place {
        Place {
            path: format!("{}[{key}]", self.path),
            pattern: format!("{}[]", self.pattern),
            key: key.to_owned(),
        }
    }
}

#[derive(Default)]
struct Facts(BTreeMap<String, Fact>);

impl Facts {
    fn read(&mut self, place: &Place, value: &Value) {
        match value {
            Value::Object(fields) if MAPS.contains(&&*place.pattern) => {
                for (key, value) in fields {
                    self.tell(&place.item(key), value.clone());
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.read(&place.field(name), value);
                }
            }
            Value::Array(items) => self.read_list(place, items),
            value => self.tell(place, value.clone()),
        }
    }

    fn tell(&mut self, place: &Place, value: Value) {
        let nothing = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty() && !may_be_empty(&place.pattern),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if nothing || holds_anyway(&place.pattern, &value) {
            return;
        }
        let fact = Fact {
            pattern: place.pattern.clone(),
            key: place.key.clone(),
            value,
        };
        self.0.insert(place.path.clone(), fact);
    }

    fn read_list(&mut self, place: &Place, items: &[Value]) {
        let form = FORMS.iter().find(|(pattern, _)| *pattern == place.pattern);
        match form.map(|(_, form)| *form) {
            None => self.tell(place, Value::Array(items.to_vec())),
            Some(Form::Set) => {
                for item in items {
                    self.tell(&place.item(&plain(item)), json!(true));
                }
            }
            Some(Form::Variables) => {
                for item in items {
                    let text = plain(item);
                    let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                    self.tell(&place.item(name), json!(value));
                }
            }
            Some(Form::Keyed(fields)) => {
                for item in items {
                    let key: Vec<String> = fields.iter().map(|name| plain(&item[*name])).collect();
                    self.read_fields(&place.item(&key.join(":")), item, fields);
                }
            }
            Some(Form::Ordered(field)) => self.read_ordered(place, items, field),
            Some(Form::Namespaces) => {
                for item in items {
                    let path = item["path"].as_str().filter(|path| !path.is_empty());
                    self.tell(
                        &place.item(&plain(&item["type"])),
                        json!(path.unwrap_or("new")),
                    );
                }
            }
            Some(Form::Syscalls) => self.read_syscalls(place, items),
            Some(Form::Options) => {
                for (name, value) in options(items) {
                    self.tell(&place.item(&name), value.map_or(json!(true), Value::String));
                }
            }
        }
    }

    /// An object's fields but those that are in its name already. One that has
    /// no others is told by its name alone.
    fn read_fields(&mut self, place: &Place, item: &Value, named: &[&str]) {
        let before = self.0.len();
        for (name, value) in item.as_object().into_iter().flatten() {
            if !named.contains(&&**name) {
                self.read(&place.field(name), value);
            }
        }
        if self.0.len() == before {
            self.tell(place, json!(true));
        }
    }

    /// What is mounted later covers what was mounted before, so that the order
    /// is a fact as well. The second mount at a place is `/place#2`.
    fn read_ordered(&mut self, place: &Place, items: &[Value], field: &'static str) {
        let mut seen: HashMap<String, u32> = HashMap::new();
        let mut order = Vec::with_capacity(items.len());
        for item in items {
            let name = plain(&item[field]);
            let count = seen.entry(name.clone()).or_default();
            *count += 1;
            let key = match count {
                1 => name,
                count => format!("{name}#{count}"),
            };
            self.read_fields(&place.item(&key), item, &[field]);
            order.push(json!(key));
        }
        // Of a list whose members differ the members are told; the order is
        // what is left: see `meaning` for how the two are compared.
        let order_place = Place {
            path: format!("{}.order", place.path),
            pattern: format!("{}.order", place.pattern),
            key: String::new(),
        };
        self.tell(&order_place, Value::Array(order));
    }

    /// By call: entries are cut into names, as the kernel sees them.
    fn read_syscalls(&mut self, place: &Place, items: &[Value]) {
        let mut calls: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for item in items {
            let mut rule = item.clone();
            if let Some(fields) = rule.as_object_mut() {
                fields.retain(|name, value| {
                    !matches!(&**name, "names" | "comment")
                        && !value.is_null()
                        && *value != json!([])
                });
            }
            for name in item["names"].as_array().into_iter().flatten() {
                calls.entry(plain(name)).or_default().push(rule.clone());
            }
        }
        for (name, mut rules) in calls {
            let value = match rules.len() {
                1 => simple_rule(rules.remove(0)),
                _ => {
                    rules.sort_by_key(Value::to_string);
                    rules.dedup();
                    Value::Array(rules)
                }
            };
            self.tell(&place.item(&name), value);
        }
    }
}

/// A rule that is nothing but its action is told as that word.
fn simple_rule(rule: Value) -> Value {
    match rule.as_object() {
        Some(fields) if fields.len() == 1 => fields.get("action").cloned().unwrap_or(rule),
        _ => rule,
    }
}

/// A text without its quotes; anything else as JSON.
pub fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Words that are each other's opposite, without and with an `r` in front.
const OPPOSITES: &[(&str, &str)] = &[
    ("ro", "rw"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("noexec", "exec"),
    ("nodiratime", "diratime"),
    ("nosymfollow", "symfollow"),
    ("sync", "async"),
];

/// Option words in their effect: the last of two opposites, the last value of a key.
fn options(items: &[Value]) -> BTreeMap<String, Option<String>> {
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    for item in items {
        let word = plain(item);
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        for (one, other) in OPPOSITES {
            for deep in ["", "r"] {
                let (one, other) = (format!("{deep}{one}"), format!("{deep}{other}"));
                if name == one {
                    found.remove(&other);
                } else if name == other {
                    found.remove(&one);
                }
            }
        }
        if !matches!(&*name, "defaults" | "async" | "loud") {
            found.insert(name, value);
        }
    }
    found
}
