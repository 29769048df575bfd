//! A file that grows, read as it does.
//!
//! `inotify(7)` tells when something was written, so following a quiet log
//! costs nothing. The directory is watched beside the file: a rotation renames
//! the file, and its successor has the same name.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

const BLOCK_BYTES: usize = 64 * 1024;

/// Once in a while the file is looked at without having been told to: inotify
/// says nothing on some network filesystems.
const PATIENCE: Duration = Duration::from_secs(2);

/// A log file from some offset on.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    /// The beginning of an entry whose end has not been written yet.
    rest: Vec<u8>,
    watch: AsyncFd<OwnedFd>,
}

impl Follower {
    /// Begins to watch. The file need not be there yet, its directory must.
    /// Needs the runtime of tokio.
    ///
    /// # Errors
    ///
    /// The directory is not there, or the user has no inotify instance left.
    pub fn new(path: &Path) -> io::Result<Follower> {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let changes = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, directory, changes)?;
        // Its successor `register` is unsafe, for types whose descriptor may change
        // under it. An `OwnedFd` keeps its descriptor, and this crate forbids unsafe.
        #[expect(deprecated)]
        let watch = AsyncFd::new(watch)?;
        Ok(Follower {
            path: path.to_owned(),
            file: None,
            offset: 0,
            rest: Vec::new(),
            watch,
        })
    }

    /// Skips what stands before `offset`.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The entries that are complete and have not been read yet, each without
    /// its newline. Does not wait.
    ///
    /// # Errors
    ///
    /// The file cannot be read. A file that is not there has no entries.
    pub fn read(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut entries = Vec::new();
        loop {
            if self.file.is_none() {
                match File::open(&self.path) {
                    Ok(file) => self.file = Some(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
                    Err(error) => return Err(error),
                }
            }
            self.read_to_end(&mut entries)?;
            if !self.was_replaced()? {
                return Ok(entries);
            }
            self.file = None;
            self.offset = 0;
        }
    }

    fn read_to_end(&mut self, entries: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let count = file.read_at(&mut block, self.offset)?;
            if count == 0 {
                return Ok(());
            }
            self.offset += count as u64;
            let mut lines = block[..count].split(|byte| *byte == b'\n').peekable();
            while let Some(line) = lines.next() {
                self.rest.extend_from_slice(line);
                if lines.peek().is_some() {
                    entries.push(std::mem::take(&mut self.rest));
                }
            }
        }
    }

    /// Whether another file has the name now, and the one that is open has been
    /// read to its end.
    fn was_replaced(&self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        match std::fs::metadata(&self.path) {
            Ok(now) => {
                let open = file.metadata()?;
                let same = (now.dev(), now.ino()) == (open.dev(), open.ino());
                Ok(!same && open.len() <= self.offset)
            }
            // Renamed, and nothing in its place yet: what is open is all there is.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until something may have been written.
    ///
    /// # Errors
    ///
    /// The watch is broken.
    pub async fn changed(&mut self) -> io::Result<()> {
        let Ok(ready) = tokio::time::timeout(PATIENCE, self.watch.readable()).await else {
            return Ok(());
        };
        let mut ready = ready?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
        // What changed does not matter: the file is read to its end anyway.
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(entries: Vec<Vec<u8>>) -> String {
        entries
            .iter()
            .map(|entry| String::from_utf8_lossy(entry).into_owned() + "|")
            .collect()
    }

    #[tokio::test]
    async fn a_file_is_followed_as_it_grows_and_is_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut follower = Follower::new(&path).unwrap();
        assert_eq!(text(follower.read().unwrap()), "");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        follower.changed().await.unwrap();
        assert_eq!(text(follower.read().unwrap()), "one|");
        file.write_all(b"o\nthree\n").unwrap();
        follower.changed().await.unwrap();
        assert_eq!(text(follower.read().unwrap()), "two|three|");
        std::fs::rename(&path, directory.path().join("0.log.old")).unwrap();
        file.write_all(b"four\n").unwrap();
        std::fs::write(&path, b"five\n").unwrap();
        follower.changed().await.unwrap();
        assert_eq!(text(follower.read().unwrap()), "four|five|");
    }

    #[tokio::test]
    async fn what_stands_before_an_offset_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, b"one\ntwo\n").unwrap();
        let mut follower = Follower::new(&path).unwrap();
        follower.seek(4);
        assert_eq!(text(follower.read().unwrap()), "two|");
    }
}
