//! What all services together want, kept so that one service's change costs
//! what that service has and no more. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::request::Protocol;
use crate::services::{Elements, Key, Pick, Value};

/// All elements, and whose they are.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    by_service: HashMap<String, Elements>,
    all: BTreeMap<Key, Held>,
}

/// An element, and how many services want it: a pod may serve in several.
#[derive(Debug, Clone, Copy)]
struct Held {
    value: Value,
    services: usize,
}

/// What must happen to the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Elements that go, with what they were.
    pub removed: Vec<(Key, Value)>,
    /// Elements that come.
    pub added: Vec<(Key, Value)>,
}

impl Wanted {
    /// Puts a service's elements in place of those it had. With none, the
    /// service is forgotten.
    ///
    /// Of two services that claim one door the first holds it until it goes.
    pub fn replace(&mut self, service: &str, elements: Elements) -> Change {
        let before = self.by_service.remove(service).unwrap_or_default();
        let mut change = Change::default();
        for (key, value) in &before {
            if elements.get(key) != Some(value) {
                self.give_up(*key, *value, &mut change);
            }
        }
        for (key, value) in &elements {
            if before.get(key) != Some(value) {
                self.claim(*key, *value, &mut change);
            }
        }
        if !elements.is_empty() {
            self.by_service.insert(service.to_owned(), elements);
        }
        change
    }

    /// The elements of one service.
    pub fn of(&self, service: &str) -> Elements {
        self.by_service.get(service).cloned().unwrap_or_default()
    }

    /// All elements.
    pub fn elements(&self) -> impl Iterator<Item = (Key, Value)> + '_ {
        self.all.iter().map(|(key, held)| (*key, held.value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The services that are known.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.by_service.keys().map(String::as_str)
    }

    fn give_up(&mut self, key: Key, value: Value, change: &mut Change) {
        let Some(held) = self.all.get_mut(&key) else {
            return;
        };
        if held.value != value {
            return;
        }
        held.services -= 1;
        if held.services == 0 {
            self.all.remove(&key);
            change.removed.push((key, value));
        }
    }

    fn claim(&mut self, key: Key, value: Value, change: &mut Change) {
        match self.all.get_mut(&key) {
            None => {
                self.all.insert(key, Held { value, services: 1 });
                change.added.push((key, value));
            }
            Some(held) if held.value == value => held.services += 1,
            Some(_) => tracing::warn!(%key, "two services claim one door; the first keeps it"),
        }
    }
}

impl Change {
    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    /// Adds another change, of another service.
    pub fn extend(&mut self, other: Change) {
        self.removed.extend(other.removed);
        self.added.extend(other.added);
    }

    /// The chains that the new elements lead to.
    pub fn picks(&self) -> BTreeSet<Pick> {
        picks(self.added.iter().map(|(_, value)| *value))
    }

    /// Endpoints that serve less than before: datagrams that were on their way
    /// to them must be decided on again.
    pub fn endpoints_gone(&self) -> BTreeSet<(Protocol, IpAddr, u16)> {
        let targets = |list: &[(Key, Value)]| -> BTreeSet<(Protocol, IpAddr, u16)> {
            let pairs = list.iter().filter_map(|(key, value)| match value {
                Value::Target(address, port) => Some((key.protocol()?, *address, *port)),
                _ => None,
            });
            pairs.collect()
        };
        let after = targets(&self.added);
        let mut gone = targets(&self.removed);
        gone.retain(|target| !after.contains(target));
        gone
    }
}

/// The chains that some elements lead to.
pub fn picks(values: impl Iterator<Item = Value>) -> BTreeSet<Pick> {
    values
        .filter_map(|value| match value {
            Value::Pick(pick) => Some(pick),
            _ => None,
        })
        .collect()
}
