//! Score `TaintToleration`: few taints that the node would rather not see ignored.
//!
//! Counts `PreferNoSchedule` taints that the pod does not tolerate.

use crate::placement::{
    census::Slot,
    facts::PodFacts,
    filter::Place,
    score::{self, BEST, Prepared, Score, Weigh},
    snapshot::Snapshot,
    taint::Toleration,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "TaintToleration",
    about: "few disliked taints that the pod does not tolerate",
    weight: 3,
    prepare,
};

struct Disliked<'a>(Vec<&'a Toleration>);

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts, fits: &'a [Slot]) -> Prepared<'a> {
    // Where no node has such a taint all are equal, and there is nothing to say.
    let tainted = fits.iter().any(|slot| {
        Place::of(snapshot, *slot)
            .is_some_and(|place| place.object.taints.iter().any(|one| !one.effect.repels()))
    });
    tainted.then(|| {
        let about = pod
            .wishes
            .tolerations
            .iter()
            .filter(|toleration| toleration.is_about_preference())
            .collect();
        Box::new(Disliked(about)) as Box<dyn Weigh>
    })
}

impl Weigh for Disliked<'_> {
    fn raw(&self, place: &Place<'_>) -> i64 {
        let against = place.object.taints.iter().filter(|taint| {
            !taint.effect.repels() && !self.0.iter().any(|toleration| toleration.bears(taint))
        });
        i64::try_from(against.count()).unwrap_or(i64::MAX)
    }

    fn normalise(&self, numbers: &mut [i64]) {
        score::stretch(numbers);
        if numbers.iter().all(|number| *number == 0) {
            numbers.fill(BEST);
        } else {
            numbers
                .iter_mut()
                .for_each(|number| *number = BEST - *number);
        }
    }
}
