//! Containers that the OCI runtime still makes while whoever asked has his answer.
//!
//! ```text
//! create ─▶ record made ─▶ answer           start ─┐ waits here
//!                └▶ OCI runtime at work ──▶ outcome ◀┘
//! ```
//!
//! So many at once and no more: whoever asks for one more waits for the runtime, as one does
//! who has nothing else to do, and nobody starts a thousand runtimes by a thousand calls.
//!
//! Only this process knows the outcome before it is in the record. Should it be killed
//! before that, the monitor knows the container, or knows that there is none: then the
//! start asks the OCI runtime again.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::engine::error::{Error, ErrorKind};

/// How it went, once that is known; an error as its kind and its words.
type Outcome = Option<Result<(), (ErrorKind, String)>>;

/// So many may be under way on any machine.
const FEWEST: usize = 4;

/// What is under way, by container.
#[derive(Debug)]
pub(in crate::engine) struct UnderWay {
    containers: Mutex<HashMap<String, watch::Receiver<Outcome>>>,
    limit: usize,
}

impl Default for UnderWay {
    fn default() -> Self {
        // One works, another waits for the disk.
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::of((2 * processors).max(FEWEST))
    }
}

/// Tells how it went; dropped without that, nobody knows and nobody waits any more.
#[derive(Debug)]
pub(super) struct Teller(watch::Sender<Outcome>);

impl UnderWay {
    fn of(limit: usize) -> Self {
        Self {
            containers: Mutex::default(),
            limit,
        }
    }

    /// From now on others wait for the outcome; none where there are too many already.
    pub(super) fn begin(&self, id: &str) -> Option<Teller> {
        let mut containers = self.containers();
        // Of one whose teller is gone nobody will hear.
        containers.retain(|_, receiver| receiver.has_changed().is_ok());
        if containers.len() >= self.limit {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        containers.insert(id.to_owned(), receiver);
        Some(Teller(sender))
    }

    /// The outcome is in the record, or in nobody's interest.
    pub(super) fn end(&self, id: &str, teller: Teller, outcome: &Result<(), Error>) {
        let told = match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err((error.kind(), error.chain())),
        };
        teller.0.send_replace(Some(told));
        self.containers().remove(id);
    }

    /// Waits until nothing is under way for a container.
    ///
    /// # Errors
    ///
    /// Why it was not made.
    pub(in crate::engine) async fn outcome(&self, id: &str) -> Result<(), Error> {
        let Some(mut receiver) = self.containers().get(id).cloned() else {
            return Ok(());
        };
        // An error is a teller that is gone: then the monitor is to be asked.
        match receiver.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err((kind, message)))) => Err(Error::new(*kind, message.clone())),
            _ => Ok(()),
        }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Outcome>>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_hears_the_outcome_and_who_comes_later_does_not_wait() {
        let under_way = UnderWay::of(1);
        under_way.outcome("c").await.unwrap();
        for outcome in [Ok(()), Err(Error::new(ErrorKind::Runtime, "no such file"))] {
            let teller = under_way.begin("c").unwrap();
            assert!(under_way.begin("d").is_none());
            let (heard, ()) = tokio::join!(under_way.outcome("c"), async {
                tokio::task::yield_now().await;
                under_way.end("c", teller, &outcome);
            });
            let words = |outcome: Result<(), Error>| outcome.map_err(|error| error.chain());
            assert_eq!(words(heard), words(outcome));
            under_way.outcome("c").await.unwrap();
        }
        drop(under_way.begin("c").unwrap());
        under_way.outcome("c").await.unwrap();
    }
}
