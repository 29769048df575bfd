//! A container's log file.
//!
//! It is opened for appending, so that a rotation by copying and truncating
//! works as well as one by renaming and [`LogFile::reopen`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::log_lines::{LineCutter, Stream};

/// Where a container's output goes line by line.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    cutter: LineCutter,
    /// The file was not there before.
    is_new: bool,
    /// Bytes that could not be written, for example to a full disk.
    lost_bytes: u64,
}

/// The most that is gathered for one write.
const WRITE_BYTES: usize = 16 * 1024;

impl LogFile {
    /// Opens or makes the file; its folder must exist.
    ///
    /// # Errors
    ///
    /// As `open(2)`.
    pub fn open(path: &Path) -> io::Result<LogFile> {
        let is_new = !path.exists();
        Ok(LogFile {
            path: path.to_owned(),
            file: open_to_append(path)?,
            cutter: LineCutter::default(),
            is_new,
            lost_bytes: 0,
        })
    }

    /// Opens the path again, where a rotation has made room. A line that
    /// waits for its end goes to the new file, whole.
    ///
    /// # Errors
    ///
    /// As `open(2)`; then the old file stays in use.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open_to_append(&self.path)?;
        Ok(())
    }

    /// Takes output of the container.
    pub fn take(&mut self, stream: Stream, bytes: &[u8], at_nanoseconds: i64) {
        let mut lines = Vec::new();
        // In small pieces: a piece of nothing but line ends grows fortyfold.
        for piece in bytes.chunks(256) {
            self.cutter.cut(stream, piece, at_nanoseconds, &mut lines);
            if lines.len() >= WRITE_BYTES {
                self.write(&lines);
                lines.clear();
            }
        }
        self.write(&lines);
    }

    /// Removes the file of a container that came to nothing, unless others
    /// have put something into it.
    pub fn discard(self) {
        let is_empty = self.file.metadata().is_ok_and(|found| found.len() == 0);
        if self.is_new && is_empty {
            // An empty file too many: nobody is helped by a message.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Writes what waits of a stream that has ended.
    pub fn finish(&mut self, stream: Stream, at_nanoseconds: i64) {
        let mut lines = Vec::new();
        self.cutter.finish(stream, at_nanoseconds, &mut lines);
        self.write(&lines);
    }

    /// A log that cannot be written must not stop the container; what was lost
    /// is counted and told on standard error when writing works again.
    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.file.write_all(lines) {
            if self.lost_bytes == 0 {
                eprintln!("cannot write {}: {error}", self.path.display());
            }
            self.lost_bytes += lines.len() as u64;
        } else if self.lost_bytes > 0 {
            eprintln!("{}: lost {} bytes", self.path.display(), self.lost_bytes);
            self.lost_bytes = 0;
        }
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}
