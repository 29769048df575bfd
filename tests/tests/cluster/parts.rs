//! A node's parts, each a process of its own, so that one can be killed alone.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::world::Cluster;

/// A part, by the command that is it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `berth server`.
    Server,
    /// `berth cri`.
    Runtime,
    /// `berth netd`.
    Network,
    /// `berth agent`.
    Agent,
}

impl Part {
    fn command(self) -> &'static str {
        match self {
            Part::Server => "server",
            Part::Runtime => "cri",
            Part::Network => "netd",
            Part::Agent => "agent",
        }
    }
}

/// The parts of one host that run; all are killed when this is dropped.
pub struct Parts<'a> {
    cluster: &'a Cluster,
    index: usize,
    running: BTreeMap<Part, Child>,
}

impl<'a> Parts<'a> {
    /// Kills a host's one process and starts its parts in its place.
    pub fn take_apart(cluster: &'a Cluster, index: usize) -> Parts<'a> {
        cluster.kill(index);
        let mut parts = Parts {
            cluster,
            index,
            running: BTreeMap::new(),
        };
        if cluster.kubeconfig(index).exists() {
            parts.start(Part::Server);
        }
        for part in [Part::Runtime, Part::Network, Part::Agent] {
            parts.start(part);
        }
        parts
    }

    /// Starts a part; what it says goes where the node's process says it.
    pub fn start(&mut self, part: Part) {
        let path = self.cluster.host(self.index).data_dir();
        let log = OpenOptions::new()
            .append(true)
            .open(path.join("node/berth.log"))
            .unwrap();
        let child = self
            .cluster
            .command(self.index, &[part.command()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let before = self.running.insert(part, child);
        assert!(before.is_none(), "{part:?} runs twice");
    }

    /// Kills a part by SIGKILL; it is gone afterwards.
    pub fn kill(&mut self, part: Part) {
        let mut child = self.running.remove(&part).expect("it runs");
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{part:?} ended by itself: {ended:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Kills a part and starts it again after a while.
    pub fn kill_for(&mut self, part: Part, pause: Duration) {
        self.kill(part);
        std::thread::sleep(pause);
        self.start(part);
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        for (_, mut child) in std::mem::take(&mut self.running) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
