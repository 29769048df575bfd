//! Filter `NodePorts`: the host's ports that the pod wants are free.
//!
//! Two pods may have the same port on different addresses of the host; a pod
//! that names no address wants the port on all of them.

use crate::placement::{
    facts::{HostPort, PodFacts},
    filter::{Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "NodePorts",
    about: "the ports that the pod wants of the host are free",
    prepare,
    helps,
};

struct Free<'a>(&'a [HostPort]);

fn prepare<'a>(_: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    (!pod.ports.is_empty()).then(|| Box::new(Free(&pod.ports)) as Box<dyn Check>)
}

impl Check for Free<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        let taken = self
            .0
            .iter()
            .find(|wanted| place.node.ports.iter().any(|other| other.collides(wanted)));
        if let Some(reason) = taken.map(|wanted| Reason::PortTaken { port: wanted.port }) {
            found(reason);
        }
    }
}

fn helps(_: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    match occasion {
        Occasion::Node { change, .. } => change.added,
        Occasion::PodLeft(gone, _) => pod
            .ports
            .iter()
            .any(|wanted| gone.ports.iter().any(|freed| freed.collides(wanted))),
        Occasion::PodCame(_) | Occasion::PodChanged(_) | Occasion::Namespace => false,
    }
}
