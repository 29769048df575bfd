//! A layer's archive becomes a directory, in one pass over the stream.
//!
//! ```text
//! download ─▶ sha256 ─▶ inflate ─▶ [queue] ─▶ sha256 ─▶ tar ─▶ files
//!             digest    gzip,                 diff id
//!             of blob   zstd, plain
//! └────────── caller's thread ───┘           └── second thread ──┘
//! ```
//!
//! Two names are checked: the manifest gives the digest of the compressed blob,
//! the configuration that of the archive inside. Both are known only at the
//! end, so the files are written into a directory that has no name yet, and the
//! caller renames it only when this returned.
//!
//! Inflating costs most (about 3 ns a byte), hashing and writing less; two
//! threads keep two processors busy even for an image of one layer.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;

use crate::images::digest::{Digest, HashingReader};
use crate::images::error::{Context, Error, ErrorKind};

/// What a layer needs from those below it.
pub(crate) mod below;
/// The archive's entries, as plain data.
pub(crate) mod entry;
/// Lookups that stay in a directory.
pub(crate) mod lookup;
/// Owner, mode, attributes, times.
pub(crate) mod metadata;
/// The directory that no entry leaves.
pub(crate) mod tree;
/// Marks that hide what is below.
pub(crate) mod whiteout;

use tree::{Tree, Written};

/// What a layer must turn out to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Of the blob as it comes.
    pub(crate) digest: Digest,
    /// Of the archive inside.
    pub(crate) diff_id: Digest,
}

/// How much the queue between the threads holds: 8 chunks of this size.
const CHUNK_BYTES: usize = 256 * 1024;
const QUEUED_CHUNKS: usize = 8;

/// Unpacks a layer into `directory`, which must be there and empty.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`]: a digest does not match, or the stream is no archive
/// of this kind, or an entry leads out of the directory. The caller deletes the
/// directory.
pub(crate) fn unpack<R: Read + Send>(
    blob: R,
    expected: &Expected,
    directory: &Path,
) -> Result<Written, Error> {
    let mut blob = HashingReader::new(blob);
    let (sender, receiver) = sync_channel(QUEUED_CHUNKS);
    let written = std::thread::scope(|scope| {
        let writer = std::thread::Builder::new()
            .name("b:unpack".to_owned())
            .spawn_scoped(scope, || write_archive(receiver, expected, directory))
            .context(|| "no thread to unpack with")?;
        inflate_into(&mut blob, sender);
        writer
            .join()
            .map_err(|_| Error::new(ErrorKind::Os, "the thread that unpacks panicked"))?
    });
    // The blob's own digest is the better explanation of a damaged archive, so
    // it is looked at first, whatever the archive's reader said.
    let (digest, _, _) = match blob.finish() {
        Ok(read) => read,
        Err(error) => return Err(error).context(|| "the layer was not read to its end"),
    };
    match (expected.digest.verify(&digest, "the layer"), written) {
        // A full disk is no fault of the blob's.
        (_, Err(error)) if error.kind() != ErrorKind::Corrupt => Err(error),
        (Err(error), _) => Err(error),
        (Ok(()), written) => written,
    }
}

fn write_archive(
    receiver: Receiver<io::Result<Bytes>>,
    expected: &Expected,
    directory: &Path,
) -> Result<Written, Error> {
    let chunks = Chunks::new(move || receiver.recv().ok());
    let mut archive = tar::Archive::new(HashingReader::new(chunks));
    let mut tree = Tree::open(directory)?;
    let entries = archive.entries().map_err(damaged)?;
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let change = entry::plan_change(&mut entry)?;
        tree.apply(change, &mut entry)?;
    }
    let (diff_id, _, _) = archive.into_inner().finish().map_err(damaged)?;
    expected.diff_id.verify(&diff_id, "the layer's archive")?;
    tree.finish()
}

/// An error of the archive's reader: the archive's fault unless the system's.
pub(crate) fn damaged(error: io::Error) -> Error {
    let carried = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .map(Error::kind);
    let kind = carried.unwrap_or(ErrorKind::Corrupt);
    Error::caused(kind, "the layer's archive cannot be read", error)
}

/// Inflates the blob into the queue until it ends, fails, or nobody listens.
fn inflate_into<R: Read>(blob: &mut HashingReader<R>, sender: SyncSender<io::Result<Bytes>>) {
    let outcome = inflater(blob).and_then(|mut plain| {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = read_full(&mut plain, &mut chunk)?;
            chunk.truncate(count);
            // The other side went: it has an error of its own to tell.
            if count == 0 || sender.send(Ok(Bytes::from(chunk))).is_err() {
                return Ok(());
            }
        }
    });
    if let Err(error) = outcome {
        // As above.
        let _ = sender.send(Err(error));
    }
}

/// Recognises the compression by its first bytes. Media types are not to be
/// trusted here: registries hold many layers that lie about it, and the digest
/// has the last word anyway.
fn inflater<'a, R: Read>(blob: &'a mut HashingReader<R>) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = [0; 4];
    let count = read_full(blob, &mut head)?;
    let start = io::Cursor::new(head).take(count as u64);
    let whole = io::BufReader::with_capacity(CHUNK_BYTES, start.chain(blob));
    Ok(match head {
        // pigz and eStargz write several members one after the other.
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// A reader over chunks that come from elsewhere, a queue or a socket.
pub(crate) struct Chunks<F> {
    next: F,
    current: Bytes,
}

impl<F: FnMut() -> Option<io::Result<Bytes>>> Chunks<F> {
    pub(crate) fn new(next: F) -> Chunks<F> {
        Chunks {
            next,
            current: Bytes::new(),
        }
    }
}

impl<F: FnMut() -> Option<io::Result<Bytes>>> BufRead for Chunks<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match (self.next)() {
                Some(chunk) => self.current = chunk?,
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        bytes::Buf::advance(&mut self.current, count);
    }
}

impl<F: FnMut() -> Option<io::Result<Bytes>>> Read for Chunks<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
