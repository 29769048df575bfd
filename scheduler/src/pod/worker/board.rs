//! The one place where what is known of a pod is kept, and told to whoever watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::status::{self, End, Known, KnownContainer};
use crate::pod::events::{EventKind, PodEvent, PodIdentity, PodObserver};

/// What is known of a pod, shared by the tasks that keep its containers.
pub struct Board {
    identity: PodIdentity,
    observer: Arc<dyn PodObserver>,
    written: Mutex<Written>,
}

struct Written {
    known: Known,
    status: PodStatus,
}

impl Board {
    /// A board that shows the first status at once.
    ///
    /// Times of conditions that hold as they did are those of `before`.
    pub fn new(
        identity: PodIdentity,
        observer: Arc<dyn PodObserver>,
        known: Known,
        before: &PodStatus,
    ) -> Board {
        let status = status::compose(&known, before, Timestamp::now());
        observer.status(&identity, &status);
        Board {
            identity,
            observer,
            written: Mutex::new(Written { known, status }),
        }
    }

    /// Changes what is known of the pod; observers hear of it if it shows.
    pub fn update(&self, change: impl FnOnce(&mut Known)) {
        let mut written = self.lock();
        change(&mut written.known);
        let status = status::compose(&written.known, &written.status, Timestamp::now());
        if status != written.status {
            written.status = status;
            // Under the lock, so that observers see statuses in their order.
            self.observer.status(&self.identity, &written.status);
        }
    }

    /// Changes what is known of one container.
    pub fn update_container(&self, name: &str, change: impl FnOnce(&mut KnownContainer)) {
        self.update(|known| {
            if let Some(container) = known.container(name) {
                change(container);
            }
        });
    }

    /// Tells that the pod is over, before its sandbox is stopped.
    pub fn settle(&self, end: &End) {
        let written = self.lock();
        let mut known = written.known.clone();
        known.sandbox_ready = false;
        known.end = Some(end.clone());
        let status = status::compose(&known, &written.status, Timestamp::now());
        self.observer.settled(&self.identity, &status);
    }

    /// Reads what is known.
    pub fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.lock().known)
    }

    /// The status as it was told last.
    pub fn status(&self) -> PodStatus {
        self.lock().status.clone()
    }

    /// Tells of something normal.
    pub fn normal(&self, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.event(EventKind::Normal, container, reason, message.into());
    }

    /// Tells of something that somebody should look at.
    pub fn warning(&self, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.event(EventKind::Warning, container, reason, message.into());
    }

    fn event(&self, kind: EventKind, container: Option<&str>, reason: &str, message: String) {
        self.observer.event(&PodEvent {
            at: Timestamp::now(),
            pod: self.identity.clone(),
            container: container.map(str::to_owned),
            kind,
            reason: reason.to_owned(),
            message,
        });
    }

    /// A task that panicked while it held the lock leaves values that are whole:
    /// each is replaced in one assignment.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
