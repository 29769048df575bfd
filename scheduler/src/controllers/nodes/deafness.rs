//! Whether it is us who cannot hear.
//!
//! ```text
//!   somebody was heard just now ─────────────────────▶ a silent node is silent
//!   nobody at all ─▶ write a lease of our own
//!                       ├─ refused: nobody can be heard, ask again later
//!                       └─ taken:   wait a renewal's time ─▶ still nobody: all are silent
//! ```
//!
//! The order matters: leases that could not be renewed while the disk was full are renewed
//! within two seconds after there is room again, and a judgement must not be the first
//! thing that is written then.

use std::sync::{Mutex, PoisonError};
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

/// When a write of our own was taken, while nobody was heard.
#[derive(Debug, Default)]
pub struct Deafness(Mutex<Option<Instant>>);

impl Deafness {
    /// What to do about a silence; `patience` is how long a node may take to be heard once
    /// writes are taken.
    pub fn doubt(&self, others_heard: bool, patience: Duration, now: Instant) -> Doubt {
        let mut answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if others_heard {
            *answered = None;
            return Doubt::None;
        }
        match *answered {
            None => Doubt::Ask,
            Some(at) if now.duration_since(at) < patience => Doubt::Wait,
            // An answer of long ago says nothing of what lies between.
            Some(at) if now.duration_since(at) > patience * 2 => Doubt::Ask,
            Some(_) => Doubt::None,
        }
    }

    /// Notes that a write was taken.
    pub fn answered(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
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
        // Who was heard in between ends the doubt, and the next begins anew.
        deafness.answered(at(20));
        assert_eq!(deafness.doubt(true, patience, at(21)), Doubt::None);
        assert_eq!(deafness.doubt(false, patience, at(22)), Doubt::Ask);
    }
}
