//! One watcher's way through history: the log's stretches, the ring, then what comes.
//!
//! ```text
//!   told ......... log (file) ......... ring (memory) ......... receiver (live)
//!        \__________ behind ___________/\____ queue ____/
//! ```
//!
//! It is a value that is polled, not a task, so an idle one is a receiver and a timer.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use redb::Database;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, timeout_at};

use super::hub::{Hub, concerns};
use super::reader;
use crate::store::{Change, Changes, StoreError};

/// Begins a watch.
pub fn watch(hub: Arc<Hub>, database: &Arc<Database>, wanted: Wanted) -> Changes {
    let subscription = hub.subscribe(&wanted.prefix, wanted.after);
    let mut watcher = Watcher {
        hub,
        // The file must close when the store is dropped, though a client still watches.
        database: Arc::downgrade(database),
        told: wanted.after,
        due: Instant::now() + wanted.progress,
        wanted,
        queue: VecDeque::new(),
        behind: None,
        owed: None,
        receiver: subscription.receiver,
    };
    watcher.take_backlog(subscription.at, subscription.backlog);
    futures::stream::unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(change) => Some((Ok(change), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// What a watcher asked for.
pub struct Wanted {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only revisions greater than this.
    pub after: u64,
    /// How long nothing may happen until progress is told.
    pub progress: Duration,
}

struct Watcher {
    hub: Arc<Hub>,
    database: Weak<Database>,
    wanted: Wanted,
    /// Everything up to this revision was told.
    told: u64,
    /// When progress is to be told.
    due: Instant,
    /// Changes to tell before anything newer.
    queue: VecDeque<Arc<Change>>,
    /// A part of the log, (from, until], to read before anything newer.
    behind: Option<(u64, u64)>,
    /// Progress to tell when the queue is empty.
    owed: Option<u64>,
    receiver: broadcast::Receiver<Arc<Change>>,
}

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
                Ok(Ok(change)) => self.queue.push_back(change),
                Ok(Err(RecvError::Lagged(_))) => self.rejoin(),
                Ok(Err(RecvError::Closed)) => return Err(closed()),
                Err(_elapsed) => self.owe_progress()?,
            }
        }
    }

    /// The next change of the queue that is of this watch and was not told.
    fn pop(&mut self) -> Option<Change> {
        while let Some(change) = self.queue.pop_front() {
            if change.revision() > self.told && concerns(&change, &self.wanted.prefix) {
                self.told = change.revision();
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
                Ok(change) => self.queue.push_back(change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed) => return Err(closed()),
                Err(TryRecvError::Lagged(_)) => {
                    self.rejoin();
                    return Ok(());
                }
            }
        }
        self.owed = Some(published);
        Ok(())
    }

    /// Begins again behind what was told, after the topic ran away.
    fn rejoin(&mut self) {
        let subscription = self.hub.subscribe(&self.wanted.prefix, self.told);
        self.receiver = subscription.receiver;
        self.queue.clear();
        self.take_backlog(subscription.at, subscription.backlog);
    }

    fn take_backlog(&mut self, at: u64, backlog: Option<VecDeque<Arc<Change>>>) {
        match backlog {
            Some(backlog) => self.queue = backlog,
            None => self.behind = Some((self.told, at)),
        }
    }

    async fn read_behind(&mut self, from: u64, until: u64) -> Result<(), StoreError> {
        let database = self.database.upgrade().ok_or_else(closed)?;
        let prefix = self.wanted.prefix.clone();
        let read = move || reader::read_log(&database, &prefix, from, until);
        let stretch = tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| closed())??;
        self.behind = (stretch.reached < until).then_some((stretch.reached, until));
        self.queue.extend(stretch.changes.into_iter().map(Arc::new));
        Ok(())
    }
}

/// What is told when the store goes while somebody waits.
pub fn closed() -> StoreError {
    StoreError::Unavailable("it was closed".to_owned())
}
