//! Priority classes: numbers by name.
//!
//! The API resolves a pod's class when the pod is made. A pod that came without
//! (made before the class, or through a server without admission) is resolved
//! here.

use std::collections::HashMap;

use k8s_openapi::api::scheduling::v1::PriorityClass;

/// From this priority on a pod belongs to the cluster itself.
pub const CRITICAL: i32 = 2_000_000_000;

/// The classes that every cluster has.
pub const BUILT_IN: [(&str, i32); 2] = [
    ("system-cluster-critical", CRITICAL),
    ("system-node-critical", 2_000_001_000),
];

/// Priorities by class.
#[derive(Debug, Default)]
pub struct Priorities {
    classes: HashMap<String, PriorityClass>,
}

impl Priorities {
    /// Takes a class in.
    pub fn set(&mut self, class: PriorityClass) {
        if let Some(name) = class.metadata.name.clone() {
            self.classes.insert(name, class);
        }
    }

    /// The class is gone.
    pub fn remove(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// The number of a class; without a name that of the default class.
    pub fn of(&self, name: Option<&str>) -> i32 {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return self
                .classes
                .values()
                .find(|class| class.global_default == Some(true))
                .and_then(|class| class.value)
                .unwrap_or(0);
        };
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        match (self.classes.get(name), built_in) {
            (Some(class), _) => class.value.unwrap_or(0),
            (None, Some((_, value))) => *value,
            (None, None) => 0,
        }
    }
}
