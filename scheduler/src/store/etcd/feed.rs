//! The one watch that feeds the hub, and short ones into the past.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Event, EventType, PutOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::calls::{ANSWER_LIMIT_BYTES, Calls, unavailable, within};
use super::{EtcdConfig, entry_of, revision_of};
use crate::store::hub::{Hub, concerns};
use crate::store::watch::{Past, Stretch, closed};
use crate::store::{Change, StoreError};

/// A key that is written only so that something comes along the watch.
const PULSE: &str = "/pulse";

/// How many changes are read from the past at a time.
const STRETCH_CHANGES: usize = 2000;

/// Watches over everything below the prefix.
pub struct Watches {
    calls: Calls,
    prefix: String,
    progress: Duration,
}

/// One watch, and the changes of its next transactions.
struct Line {
    stream: WatchStream,
    prefix: String,
    /// Changes of a message that may be continued by the next one.
    partial: Vec<Change>,
}

impl Watches {
    /// Watches by a connection.
    pub fn new(calls: Calls, config: &EtcdConfig) -> Self {
        Self {
            calls,
            prefix: config.prefix.clone(),
            progress: config.progress,
        }
    }

    /// Refuses a revision that is compacted, if only etcd can tell.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`].
    pub async fn check(&self, after: u64, hub: &Hub) -> Result<(), StoreError> {
        if hub.remembers(after) {
            return Ok(());
        }
        self.open(after).await.map(drop)
    }

    /// Opens a watch behind a revision.
    async fn open(&self, after: u64) -> Result<Line, StoreError> {
        let from = i64::try_from(after + 1).unwrap_or(i64::MAX);
        let options = WatchOptions::new()
            .with_prefix()
            .with_prev_key()
            .with_fragment()
            .with_start_revision(from);
        let client = self.calls.client().watch_client();
        let mut client = client.max_decoding_message_size(ANSWER_LIMIT_BYTES);
        let open = client.watch(format!("{}/", self.prefix), Some(options));
        let stream = within(self.calls.attempt(), open).await?;
        let mut line = Line {
            stream,
            prefix: self.prefix.clone(),
            partial: Vec::new(),
        };
        // etcd first says that the watch stands, and then at once if its start is compacted.
        loop {
            let message = line.message(self.calls.attempt()).await?;
            refuse(&message, after)?;
            if message.created() {
                return line.settle(after).await;
            }
        }
    }
}

impl Line {
    async fn message(&mut self, patience: Duration) -> Result<WatchResponse, StoreError> {
        let message = within(patience, self.stream.message()).await?;
        message.ok_or_else(|| StoreError::Unavailable("etcd ended a watch".to_owned()))
    }

    /// Waits a moment for the refusal of a compacted start, which comes behind the confirmation.
    async fn settle(mut self, after: u64) -> Result<Self, StoreError> {
        if let Ok(message) = timeout(Duration::from_millis(50), self.stream.message()).await {
            let ended = || StoreError::Unavailable("etcd ended a watch".to_owned());
            let message = message.map_err(unavailable)?.ok_or_else(ended)?;
            refuse(&message, after)?;
            self.partial = self.read(&message)?;
        }
        Ok(self)
    }

    /// The changes of the next whole transactions; none if nothing came in time.
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>, StoreError> {
        if !self.partial.is_empty() {
            return Ok(std::mem::take(&mut self.partial));
        }
        let Ok(message) = timeout(wait, self.stream.message()).await else {
            return Ok(Vec::new());
        };
        let ended = || StoreError::Unavailable("etcd ended a watch".to_owned());
        let message = message.map_err(unavailable)?.ok_or_else(ended)?;
        refuse(&message, 0)?;
        self.read(&message)
    }

    fn read(&self, message: &WatchResponse) -> Result<Vec<Change>, StoreError> {
        message
            .events()
            .iter()
            .filter_map(|event| change_of(&self.prefix, event).transpose())
            .collect()
    }
}

#[async_trait]
impl Past for Watches {
    async fn read(&self, prefix: &str, after: u64, until: u64) -> Result<Stretch, StoreError> {
        let mut line = self.open(after).await?;
        let mut stretch = Stretch {
            changes: Vec::new(),
            reached: after,
        };
        while stretch.reached < until && stretch.changes.len() < STRETCH_CHANGES {
            let changes = line.next(self.calls.patience()).await?;
            let Some(last) = changes.last() else {
                return Err(StoreError::Unavailable("etcd tells no history".to_owned()));
            };
            stretch.reached = last.revision();
            let wanted = |change: &Change| change.revision() <= until && concerns(change, prefix);
            stretch.changes.extend(changes.into_iter().filter(wanted));
        }
        stretch.reached = stretch.reached.min(until);
        Ok(stretch)
    }
}

/// Follows everything below the prefix until `shutdown`.
pub async fn run(watches: Arc<Watches>, hub: Arc<Hub>, shutdown: CancellationToken) {
    tokio::select! {
        () = follow(&watches, &hub) => {}
        () = shutdown.cancelled() => {}
    }
    hub.interrupt(closed());
}

async fn follow(watches: &Watches, hub: &Hub) {
    let mut since = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let error = match watches.open(hub.published()).await {
            Ok(line) => {
                hub.restore();
                let error = feed(watches, hub, line).await;
                since = Instant::now();
                pause = Duration::from_millis(20);
                error
            }
            Err(error) => error,
        };
        if let StoreError::Compacted { .. } = error {
            // Cut off for longer than history is kept: watchers have to list again.
            if let Ok(revision) = watches.calls.revision().await {
                hub.skip_to(revision);
            }
            continue;
        }
        tracing::debug!("the watch of etcd is opened again: {error}");
        if since.elapsed() > watches.calls.patience() && hub.broken().is_none() {
            tracing::warn!("no member of etcd can be watched: {error}");
            hub.interrupt(error);
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Publishes what comes, until the watch ends.
async fn feed(watches: &Watches, hub: &Hub, mut line: Line) -> StoreError {
    loop {
        match line.next(watches.progress / 2).await {
            Ok(changes) if changes.is_empty() => {
                if let Err(error) = pulse(watches, hub).await {
                    return error;
                }
            }
            Ok(changes) => hub.publish(changes),
            Err(error) => return error,
        }
    }
}

/// Sees to it that the hub does not stay behind etcd's revision when others write beside us.
///
/// etcd counts all keys with one counter, and a watch of ours tells nothing of foreign keys. A
/// client that listed at such a revision would wait for progress to it for ever. (etcd's own
/// progress messages could overtake changes before 3.4.25 and 3.5.8.)
async fn pulse(watches: &Watches, hub: &Hub) -> Result<(), StoreError> {
    if watches.calls.revision().await? > hub.published() {
        let key = format!("{}{PULSE}", watches.prefix);
        let mut client = watches.calls.client();
        within(
            watches.calls.attempt(),
            client.put(key, "", None::<PutOptions>),
        )
        .await?;
    }
    Ok(())
}

/// A watch that etcd has ended.
fn refuse(message: &WatchResponse, after: u64) -> Result<(), StoreError> {
    if !message.canceled() {
        return Ok(());
    }
    if message.compact_revision() > 0 {
        let oldest = revision_of(message.compact_revision());
        return Err(StoreError::Compacted {
            asked: after,
            oldest,
        });
    }
    Err(StoreError::Unavailable(format!(
        "etcd ended a watch: {}",
        message.cancel_reason()
    )))
}

/// An event as a change. Our own bookkeeping below the prefix is a change too: it carries the
/// revision, and no client's prefix begins outside of `/registry/`.
fn change_of(prefix: &str, event: &Event) -> Result<Option<Change>, StoreError> {
    let Some(found) = event.kv() else {
        return Ok(None);
    };
    let before = event
        .prev_kv()
        .map(|before| entry_of(prefix, before))
        .transpose()?;
    let revision = revision_of(found.mod_revision());
    let lost = StoreError::Compacted {
        asked: revision.saturating_sub(1),
        oldest: revision,
    };
    match event.event_type() {
        // What was there before can be compacted away between the change and this message.
        EventType::Put if before.is_none() && found.version() > 1 => Err(lost),
        EventType::Put => Ok(Some(Change::Put {
            entry: entry_of(prefix, found)?,
            before,
        })),
        EventType::Delete => {
            let before = before.ok_or(lost)?;
            Ok(Some(Change::Deleted { before, revision }))
        }
    }
}
