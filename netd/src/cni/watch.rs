//! The network that counts at this moment: the directory, watched.
//!
//! inotify(7) tells of a change at once. Whoever writes a network's file makes
//! several (create, write, rename), so the directory is read when it has been
//! quiet for a moment. A directory that goes away is looked for again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::directory::{Reading, read_directory};

/// How long it has to be quiet.
const QUIET: Duration = Duration::from_millis(100);
/// Somebody who writes without end must not keep the network from us.
const LONGEST_UNREST: Duration = Duration::from_secs(2);
/// How often a directory that cannot be watched is looked at.
const WITHOUT_WATCH: Duration = Duration::from_secs(1);

/// A directory and what it held last.
#[derive(Debug)]
pub struct Watched {
    reading: Arc<RwLock<Arc<Reading>>>,
    watcher: JoinHandle<()>,
}

impl Watched {
    /// Reads the directory and goes on watching it until this is dropped.
    pub fn start(directory: &Path) -> Self {
        // The watch first: a change between the two is seen by it.
        let watch = watch(directory);
        let first = read_directory(directory);
        tell(directory, &first);
        let reading = Arc::new(RwLock::new(Arc::new(first)));
        let task = follow(directory.to_owned(), watch, reading.clone());
        Self {
            reading,
            watcher: tokio::spawn(task),
        }
    }

    /// What the directory held when it was last quiet.
    pub fn reading(&self) -> Arc<Reading> {
        let reading = self.reading.read();
        reading.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

async fn follow(
    directory: PathBuf,
    mut watch: io::Result<AsyncFd<OwnedFd>>,
    reading: Arc<RwLock<Arc<Reading>>>,
) {
    loop {
        match &watch {
            Ok(descriptor) => {
                if wait_until_quiet(descriptor).await.is_err() {
                    tokio::time::sleep(WITHOUT_WATCH).await;
                }
            }
            Err(_) => tokio::time::sleep(WITHOUT_WATCH).await,
        }
        // Anew each time: folders of networks come and go, and the directory
        // itself may be another one under the same name.
        watch = self::watch(&directory);
        let next = read_directory(&directory);
        let mut current = reading.write().unwrap_or_else(PoisonError::into_inner);
        if **current != next {
            tell(&directory, &next);
            *current = Arc::new(next);
        }
    }
}

/// The directory, and the folders in it that hold plugins of networks.
fn watch(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let changes = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&descriptor, directory, changes)?;
    // A link that is made to lead elsewhere changes nothing where it led.
    for holder in holders_of_links(directory) {
        let _ = inotify::add_watch(&descriptor, holder, changes);
    }
    for entry in std::fs::read_dir(directory)?.flatten() {
        if entry.path().is_dir() {
            // One that went meanwhile is told of by the watch above.
            let _ = inotify::add_watch(&descriptor, entry.path(), changes);
        }
    }
    // Its successor `register` is unsafe, for types whose descriptor may change
    // under it. An `OwnedFd` keeps its descriptor, and this crate forbids unsafe.
    #[expect(deprecated)]
    AsyncFd::new(descriptor)
}

/// The directories in which the links stand that lead to a directory.
fn holders_of_links(directory: &Path) -> Vec<PathBuf> {
    let mut holders = Vec::new();
    let mut place = directory.to_owned();
    // The kernel follows no more than 40 (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&place) else {
            break;
        };
        let holder = place.parent().unwrap_or(Path::new("/")).to_owned();
        place = holder.join(target);
        holders.push(holder);
    }
    holders
}

/// Waits for a change, then until there is none for a while.
async fn wait_until_quiet(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    drain(watch).await?;
    let unrest = async {
        while let Ok(outcome) = tokio::time::timeout(QUIET, drain(watch)).await {
            outcome?;
        }
        Ok(())
    };
    tokio::time::timeout(LONGEST_UNREST, unrest)
        .await
        .unwrap_or(Ok(()))
}

/// Waits for changes and takes them; which they are does not matter.
async fn drain(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = watch.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
        let mut count = 0;
        let end = loop {
            match reader.next() {
                Ok(_) => count += 1,
                Err(errno) => break errno,
            }
        };
        if end != rustix::io::Errno::WOULDBLOCK {
            return Err(end.into());
        }
        ready.clear_ready();
        if count > 0 {
            return Ok(());
        }
    }
}

fn tell(directory: &Path, reading: &Reading) {
    for problem in &reading.problems {
        tracing::warn!("CNI: {problem}");
    }
    for note in &reading.notes {
        tracing::warn!("CNI: {note}");
    }
    match &reading.network {
        Some(network) => tracing::info!(
            network = %network.name,
            version = %network.version,
            file = %network.source.display(),
            "CNI: this network counts"
        ),
        None => tracing::warn!("CNI: {}: no network", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_link_that_is_made_to_lead_elsewhere_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            let directory = folder.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            let text = format!(
                r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "bridge"}}]}}"#
            );
            std::fs::write(directory.join("net.conflist"), text).unwrap();
        }
        let (link, next) = (folder.path().join("net.d"), folder.path().join("next"));
        symlink("one", &link).unwrap();
        let watched = Watched::start(&link);
        let name = || {
            let reading = watched.reading();
            reading.network.as_ref().map(|network| network.name.clone())
        };
        assert_eq!(name().as_deref(), Some("one"));
        symlink("two", &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        let seen = async {
            while name().as_deref() != Some("two") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen)
            .await
            .expect("the other directory is read");
    }
}
