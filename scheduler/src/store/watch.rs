//! One watcher's way through the past: the store's history, the ring, then what comes.
//!
//! ```text
//!   told ....... history (disk, etcd) ....... ring (memory) ....... receiver (live)
//!        \____________ behind _______________/\____ queue ____/
//! ```
//!
//! It is a value that is polled, not a task, so an idle one is a receiver and a timer.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, timeout_at};

use super::hub::{From, Hub, Told, concerns};
use crate::store::{Change, Changes, StoreError};

/// What a watcher asked for.
pub struct Wanted {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only revisions greater than this.
    pub after: u64,
    /// How long nothing may happen until progress is told.
    pub progress: Duration,
}

/// Where changes are found that the ring has forgotten.
#[async_trait]
pub trait Past: Send + Sync + 'static {
    /// Reads changes below a prefix in (`after`, `until`]: at least up to [`Stretch::reached`].
    async fn read(&self, prefix: &str, after: u64, until: u64) -> Result<Stretch, StoreError>;
}

/// A part of the past for one watcher.
pub struct Stretch {
    /// The changes below the prefix.
    pub changes: Vec<Change>,
    /// How far the past was read.
    pub reached: u64,
}

/// Begins a watch.
///
/// # Errors
///
/// Why the hub takes no watches now.
pub fn watch(hub: Arc<Hub>, past: Weak<dyn Past>, wanted: Wanted) -> Result<Changes, StoreError> {
    let subscription = hub.subscribe(&wanted.prefix, From::Revision(wanted.after))?;
    let mut watcher = Watcher {
        hub,
        past,
        told: wanted.after,
        number: None,
        due: Instant::now() + wanted.progress,
        wanted,
        queue: VecDeque::new(),
        behind: None,
        owed: None,
        receiver: subscription.receiver,
    };
    watcher.take_backlog(subscription.at, subscription.backlog);
    let changes = futures::stream::unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(change) => Some((Ok(change), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(changes.boxed())
}

struct Watcher {
    hub: Arc<Hub>,
    /// Weak: the file must close when the store is dropped, though a client still watches.
    past: Weak<dyn Past>,
    wanted: Wanted,
    /// Everything up to this revision was told, but for changes that share it.
    told: u64,
    /// The number in the hub of the last change told, unless it came from the past.
    number: Option<u64>,
    /// When progress is to be told.
    due: Instant,
    /// Changes to tell before anything newer.
    queue: VecDeque<Queued>,
    /// A part of the past, (from, until], to read before anything newer.
    behind: Option<(u64, u64)>,
    /// Progress to tell when the queue is empty.
    owed: Option<u64>,
    receiver: broadcast::Receiver<Told>,
}

/// A change, and its number if the hub told it.
struct Queued(Option<u64>, Arc<Change>);

impl Watcher {
    async fn next(&mut self) -> Result<Change, StoreError> {
        loop {
            if let Some(change) = self.pop() {
                return Ok(change);
            }
            if let Some((from, until)) = self.behind {
                self.read_behind(from, until).await?;
                continue;
            }
            if let Some(revision) = self.owed.take() {
                self.told = self.told.max(revision);
                self.due = Instant::now() + self.wanted.progress;
                return Ok(Change::Progress {
                    revision: self.told,
                });
            }
            match timeout_at(self.due, self.receiver.recv()).await {
                Ok(Ok(told)) => self.queue(told),
                Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => self.rejoin()?,
                Err(_elapsed) => self.owe_progress()?,
            }
        }
    }

    fn queue(&mut self, told: Told) {
        self.queue.push_back(Queued(Some(told.number), told.change));
    }

    /// The next change of the queue that is of this watch and was not told.
    fn pop(&mut self) -> Option<Change> {
        while let Some(Queued(number, change)) = self.queue.pop_front() {
            if change.revision() > self.wanted.after && concerns(&change, &self.wanted.prefix) {
                self.told = change.revision();
                self.number = number;
                self.due = Instant::now() + self.wanted.progress;
                return Some((*change).clone());
            }
        }
        None
    }

    /// Notes how far the hub has come, then takes what arrived up to that point: whatever is
    /// not in the receiver by now is newer than the progress that will be told.
    fn owe_progress(&mut self) -> Result<(), StoreError> {
        let published = self.hub.published();
        loop {
            match self.receiver.try_recv() {
                Ok(told) => self.queue(told),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed | TryRecvError::Lagged(_)) => return self.rejoin(),
            }
        }
        self.owed = Some(published);
        Ok(())
    }

    /// Begins again behind what was told, after the topic ran away or was closed.
    fn rejoin(&mut self) -> Result<(), StoreError> {
        let revision = self.told;
        let from = match self.number {
            Some(number) => From::Told { number, revision },
            None => From::Revision(revision),
        };
        let subscription = self.hub.subscribe(&self.wanted.prefix, from)?;
        self.receiver = subscription.receiver;
        self.queue.clear();
        self.take_backlog(subscription.at, subscription.backlog);
        Ok(())
    }

    fn take_backlog(&mut self, at: u64, backlog: Option<VecDeque<Told>>) {
        match backlog {
            Some(backlog) => backlog.into_iter().for_each(|told| self.queue(told)),
            None => self.behind = Some((self.told, at)),
        }
    }

    async fn read_behind(&mut self, from: u64, until: u64) -> Result<(), StoreError> {
        let past = self.past.upgrade().ok_or_else(closed)?;
        let stretch = past.read(&self.wanted.prefix, from, until).await?;
        self.behind = (stretch.reached < until).then_some((stretch.reached, until));
        let changes = stretch.changes.into_iter();
        self.queue
            .extend(changes.map(|change| Queued(None, Arc::new(change))));
        Ok(())
    }
}

/// What is told when the store goes while somebody waits.
pub fn closed() -> StoreError {
    StoreError::Unavailable("it was closed".to_owned())
}
