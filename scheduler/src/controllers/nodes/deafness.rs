//! Whether it is us who cannot hear.
//!
//! ```text
//!   somebody was heard just now ─────────────────────▶ a silent node is silent
//!   nobody at all ─▶ write a lease of our own
//!                       ├─ refused: nobody can be heard, ask again later
//!                       └─ taken:   wait a renewal's time ─▶ who is silent still is silent
//! ```
//!
//! The order matters: leases that could not be renewed while the disk was full are renewed
//! within two seconds after there is room again, and a judgement must not be the first
//! thing that is written then. Nor the second: the first node that is heard again shows that
//! writes are taken, not that the others have had their time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use crate::controllers::cluster::{Cluster, WriteError};

/// What to do about a silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Believe it.
    None,
    /// Write something first, and note when it was taken.
    Ask,
    /// Something was written only just.
    Wait,
}

/// Whether nobody was heard, and since when somebody could be.
#[derive(Debug, Default)]
pub struct Deafness(Mutex<State>);

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Hearing,
    /// Nobody was heard at this time, and no write of ours was taken since.
    Deaf(Instant),
    /// Writes are taken again since then.
    Waiting(Instant),
}

impl Deafness {
    /// What to do about a silence; `patience` is how long a node may take to be heard once
    /// writes are taken.
    pub fn doubt(&self, others_heard: bool, patience: Duration, now: Instant) -> Doubt {
        let mut state = self.lock();
        // What was found long ago says nothing of what lies between.
        let fresh = |at: Instant| now.duration_since(at) <= patience * 2;
        let (next, doubt) = match *state {
            State::Waiting(since) if now.duration_since(since) < patience => (*state, Doubt::Wait),
            State::Deaf(at) if others_heard && fresh(at) => (State::Waiting(now), Doubt::Wait),
            _ if others_heard => (State::Hearing, Doubt::None),
            State::Waiting(since) if fresh(since) => (*state, Doubt::None),
            _ => (State::Deaf(now), Doubt::Ask),
        };
        *state = next;
        doubt
    }

    /// Notes that a write was taken.
    pub fn answered(&self, now: Instant) {
        *self.lock() = State::Waiting(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A plain value is whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a lease of our own.
///
/// # Errors
///
/// The API does not take it.
pub async fn ask(cluster: &Cluster) -> Result<(), WriteError> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-system");
    let name = "berth-nodes";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": "nobody-is-heard", "renewTime": format!("{:.6}", Timestamp::now())},
    });
    let by = PatchParams::apply("berth-controllers").force();
    let written = leases.patch(name, &by, &Patch::Apply(&lease)).await;
    written.map(drop).map_err(WriteError::of)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Deafness, Doubt};

    #[test]
    fn a_silence_of_all_is_believed_a_while_after_a_write_was_taken() {
        let (deafness, start) = (Deafness::default(), Instant::now());
        let patience = Duration::from_secs(2);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(deafness.doubt(true, patience, at(0)), Doubt::None);
        assert_eq!(deafness.doubt(false, patience, at(8)), Doubt::Ask);
        // It was refused, so it is asked again.
        assert_eq!(deafness.doubt(false, patience, at(9)), Doubt::Ask);
        deafness.answered(at(9));
        assert_eq!(deafness.doubt(false, patience, at(10)), Doubt::Wait);
        assert_eq!(deafness.doubt(false, patience, at(11)), Doubt::None);
        assert_eq!(deafness.doubt(false, patience, at(20)), Doubt::Ask);
        // The first that is heard again does not make the others silent.
        deafness.answered(at(20));
        assert_eq!(deafness.doubt(true, patience, at(21)), Doubt::Wait);
        assert_eq!(deafness.doubt(true, patience, at(22)), Doubt::None);
    }

    #[test]
    fn who_is_heard_before_we_could_write_gives_the_others_their_time() {
        let (deafness, start) = (Deafness::default(), Instant::now());
        let patience = Duration::from_secs(2);
        let at = |seconds| start + Duration::from_secs(seconds);
        // Refused, and then a node was quicker than our next try.
        assert_eq!(deafness.doubt(false, patience, at(0)), Doubt::Ask);
        assert_eq!(deafness.doubt(true, patience, at(1)), Doubt::Wait);
        assert_eq!(deafness.doubt(true, patience, at(2)), Doubt::Wait);
        assert_eq!(deafness.doubt(true, patience, at(3)), Doubt::None);
        // A deafness of long ago is over.
        assert_eq!(deafness.doubt(false, patience, at(10)), Doubt::Ask);
        assert_eq!(deafness.doubt(true, patience, at(90)), Doubt::None);
    }
}
