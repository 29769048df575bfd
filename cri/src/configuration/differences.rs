//! What differs between two configurations, and when it becomes true.

use std::collections::BTreeSet;

use super::Configuration;
use super::keys::HANDLERS;

/// The keys whose values differ, by when a change of them becomes true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// With a reload.
    pub reload: BTreeSet<&'static str>,
    /// With a restart.
    pub restart: BTreeSet<&'static str>,
}

impl Configuration {
    /// What is in force after a reload of `new`.
    #[must_use]
    pub fn reloaded(&self, new: Configuration) -> Configuration {
        let mut now = self.clone();
        now.log.level = new.log.level;
        now.runtime.default_handler = new.runtime.default_handler;
        now.handlers = new.handlers;
        now.image.registries = new.image.registries;
        now
    }

    /// What a reload would change, and what only a restart would.
    pub fn differences(&self, new: &Configuration) -> Differences {
        let live = [
            ("log.level", self.log.level != new.log.level),
            (
                "runtime.default_handler",
                self.runtime.default_handler != new.runtime.default_handler,
            ),
            (HANDLERS, self.handlers != new.handlers),
            (
                "image.registries",
                self.image.registries != new.image.registries,
            ),
        ];
        let at_start = [
            ("socket", self.socket != new.socket),
            ("streaming", self.streaming != new.streaming),
            ("log.format", self.log.format != new.log.format),
            (
                "runtime.cgroup_driver",
                self.runtime.cgroup_driver != new.runtime.cgroup_driver,
            ),
            (
                "image.layers_at_once",
                self.image.layers_at_once != new.image.layers_at_once,
            ),
            ("network", self.network != new.network),
            ("cni", self.cni != new.cni),
            ("defaults", self.defaults != new.defaults),
            ("metrics", self.metrics != new.metrics),
            ("traces", self.traces != new.traces),
        ];
        let changed = |list: &[(&'static str, bool)]| {
            let changed = list.iter().filter(|(_, differs)| *differs);
            changed.map(|(name, _)| *name).collect()
        };
        Differences {
            reload: changed(&live),
            restart: changed(&at_start),
        }
    }
}
