//! Score `ImageLocality`: the node already has the pod's images.
//!
//! By size, from 23 MB a pod to 1 GB a container, and less for an image that few
//! nodes have: else one node with a rare image would draw all of its pods.

use crate::placement::{
    census::Slot,
    facts::PodFacts,
    filter::Place,
    score::{BEST, Prepared, Score, Weigh},
    snapshot::Snapshot,
    symbol::Symbol,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "ImageLocality",
    about: "the node already has the pod's images",
    weight: 1,
    prepare,
};

const SMALLEST_BYTES: i64 = 23 * 1024 * 1024;
const LARGEST_BYTES: i64 = 1000 * 1024 * 1024;

struct Held {
    /// Images with the thousandths of nodes that have them.
    images: Vec<(Symbol, i64)>,
    largest_bytes: i64,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts, _: &'a [Slot]) -> Prepared<'a> {
    let nodes = snapshot.ready().len().max(1);
    let images: Vec<(Symbol, i64)> = pod
        .wishes
        .images
        .iter()
        .map(|image| (*image, snapshot.nodes_with_image(*image)))
        .filter(|(_, holders)| *holders > 0)
        .map(|(image, holders)| (image, i64::try_from(holders * 1000 / nodes).unwrap_or(1000)))
        .collect();
    let containers = i64::try_from(pod.wishes.images.len()).unwrap_or(1);
    (!images.is_empty()).then(|| {
        Box::new(Held {
            images,
            largest_bytes: LARGEST_BYTES * containers,
        }) as Box<dyn Weigh>
    })
}

impl Weigh for Held {
    fn raw(&self, place: &Place<'_>) -> i64 {
        let held: i64 = place
            .object
            .images
            .iter()
            .filter_map(|(image, bytes)| {
                let (_, thousandths) = self.images.iter().find(|(wanted, _)| wanted == image)?;
                Some(bytes / 1000 * thousandths)
            })
            .sum();
        let held = held.clamp(SMALLEST_BYTES, self.largest_bytes);
        (held - SMALLEST_BYTES) * BEST / (self.largest_bytes - SMALLEST_BYTES)
    }
}
