//! What a container wrote: its log files, the rotated ones too.
//!
//! A rotation renames `0.log` to `0.log.TIME` and a new `0.log` begins, so a log is the
//! files of one start in the order of their names, and then the one that is written.

use std::{
    fs::File,
    io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use berth_cri::{service::CriService, v1};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Refusal,
    place::{ContainerPlace, find_containers},
};
use crate::{
    agent::pods::Shared,
    pod::logs::{follow::Follower, read_entry, tail},
};

/// Pieces that wait for a slow client.
const BACKLOG: usize = 16;
/// The size of a piece.
const PIECE_BYTES: usize = 32 * 1024;
/// How often it is asked whether a container that is followed still runs.
const LOOK: Duration = Duration::from_secs(1);

/// What is asked for, in the API's words.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    follow: Flag,
    previous: Flag,
    timestamps: Flag,
    tail_lines: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
    limit_bytes: Option<usize>,
}

/// `true`, `1`, or nothing at all.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(from = "String")]
struct Flag(bool);

impl From<String> for Flag {
    fn from(text: String) -> Flag {
        Flag(matches!(text.as_str(), "true" | "1" | "True" | "t"))
    }
}

/// `/containerLogs`.
pub async fn answer(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<ContainerPlace>,
    Query(options): Query<Options>,
) -> Result<Response, Refusal> {
    let log = find_log(&shared.service, &place, options.previous.0).await?;
    let (pieces, reader) = mpsc::channel(BACKLOG);
    let service = Arc::clone(&shared.service);
    tokio::spawn(async move {
        let writer = Writer::new(&options, pieces);
        // A client that went away is no trouble, and a log that cannot be read any more
        // ends here: its beginning was sent.
        let _ = send(&service, &log, &options, writer).await;
    });
    let body = Body::from_stream(ReceiverStream::new(reader));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

/// A log that was chosen.
struct Log {
    container: String,
    path: PathBuf,
}

async fn find_log(
    service: &Arc<dyn CriService>,
    place: &ContainerPlace,
    previous: bool,
) -> Result<Log, Refusal> {
    let ContainerPlace { pod, container, .. } = place;
    let mut found = find_containers(service, place).await?;
    if previous {
        found.pop();
    }
    let Some(chosen) = found.pop() else {
        let text = match previous {
            true => format!("previous terminated container {container:?} in pod {pod:?} not found"),
            false => format!("container {container:?} in pod {pod:?} is waiting to start"),
        };
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    };
    let request = v1::ContainerStatusRequest {
        container_id: chosen.id.clone(),
        verbose: false,
    };
    let status = service.container_status(request).await?.status;
    Ok(Log {
        container: chosen.id,
        path: PathBuf::from(status.unwrap_or_default().log_path),
    })
}

/// Sends a log, and what is written meanwhile if it is followed.
async fn send(
    service: &Arc<dyn CriService>,
    log: &Log,
    options: &Options,
    mut writer: Writer,
) -> Result<(), Ended> {
    let mut files = rotated(&log.path)?;
    files.push(log.path.clone());
    let (first, mut offset) = match options.tail_lines {
        Some(lines) => begin_of_tail(&files, lines)?,
        None => (0, 0),
    };
    let last = files.len() - 1;
    for path in &files[first..last] {
        // Gone by a rotation between the look and this: the oldest goes first.
        if let Ok(file) = File::open(path) {
            writer.write_file(file, offset).await?;
        }
        offset = 0;
    }
    let mut follower = Follower::new(&log.path)?;
    follower.seek(offset);
    loop {
        // Asked before the file is read: what it wrote before its end is read then.
        let running = options.follow.0 && is_running(service, &log.container).await;
        for entry in follower.read()? {
            writer.write(&entry).await?;
        }
        writer.flush().await?;
        if !running {
            return Ok(());
        }
        tokio::select! {
            changed = follower.changed() => changed?,
            () = tokio::time::sleep(LOOK) => {}
            () = writer.pieces.closed() => return Ok(()),
        }
    }
}

async fn is_running(service: &Arc<dyn CriService>, id: &str) -> bool {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    match service.container_status(request).await {
        Ok(reply) => reply
            .status
            .is_some_and(|status| status.state() == v1::ContainerState::ContainerRunning),
        // A runtime that is away says nothing of its containers.
        Err(status) => status.code() != tonic::Code::NotFound,
    }
}

/// Earlier files of a log, the oldest first.
///
/// # Errors
///
/// The directory cannot be read.
pub fn rotated(path: &FilePath) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.");
    let directory = path.parent().unwrap_or(FilePath::new("."));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Compressed by somebody else, or half written.
        let plain = !name.ends_with(".gz") && !name.ends_with(".tmp");
        if name.starts_with(&prefix) && plain {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The file and the offset at which the last lines begin.
fn begin_of_tail(files: &[PathBuf], lines: usize) -> io::Result<(usize, u64)> {
    let mut wanted = lines;
    for (index, path) in files.iter().enumerate().rev() {
        let Ok(file) = File::open(path) else {
            continue;
        };
        let offset = tail::find_tail(&file, wanted)?;
        if offset > 0 || wanted == 0 {
            return Ok((index, offset));
        }
        wanted = wanted.saturating_sub(tail::count_lines(&file)?);
        if wanted == 0 {
            return Ok((index, 0));
        }
    }
    Ok((0, 0))
}

/// Why nothing more is sent.
enum Ended {
    /// The client has all that it asked for, or went away.
    Enough,
    /// The log cannot be read.
    Broken,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Ended {
        Ended::Broken
    }
}

/// Turns entries of the CRI's format into what the container wrote.
struct Writer {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    since: Option<Timestamp>,
    timestamps: bool,
    /// What may still be sent.
    left: usize,
    /// Whether the next entry begins a line.
    at_start: bool,
}

impl Writer {
    fn new(options: &Options, pieces: mpsc::Sender<io::Result<Bytes>>) -> Writer {
        let ago = options.since_seconds.map(SignedDuration::from_secs);
        let ago = ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok());
        Writer {
            pieces,
            piece: Vec::new(),
            since: options.since_time.or(ago),
            timestamps: options.timestamps.0,
            left: options.limit_bytes.unwrap_or(usize::MAX),
            at_start: true,
        }
    }

    /// All entries of a file that is written no more.
    async fn write_file(&mut self, file: File, offset: u64) -> Result<(), Ended> {
        use std::io::{BufRead, Seek};
        let mut reader = io::BufReader::new(file);
        reader.seek(io::SeekFrom::Start(offset))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            self.write(&line).await?;
        }
    }

    async fn write(&mut self, line: &[u8]) -> Result<(), Ended> {
        let Some(entry) = read_entry(line) else {
            return Ok(());
        };
        if self.since.is_some_and(|since| entry.at < since) {
            return Ok(());
        }
        if self.timestamps && self.at_start {
            self.put(entry.at_text.as_bytes());
            self.put(b" ");
        }
        self.put(entry.content);
        if !entry.partial {
            self.put(b"\n");
        }
        self.at_start = !entry.partial;
        if self.piece.len() >= PIECE_BYTES || self.left == 0 {
            self.flush().await?;
        }
        match self.left {
            0 => Err(Ended::Enough),
            _ => Ok(()),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.left);
        self.piece.extend_from_slice(&bytes[..fits]);
        self.left -= fits;
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let sent = self.pieces.send(Ok(piece)).await;
        sent.map_err(|_| Ended::Enough)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Options, Writer, begin_of_tail, rotated};
    use tokio::sync::mpsc;

    fn log(lines: std::ops::Range<u32>) -> String {
        lines
            .map(|number| format!("2026-01-01T00:00:{number:02}Z stdout F line {number}\n"))
            .collect()
    }

    #[test]
    fn the_tail_may_begin_in_an_earlier_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        fs::write(&path, log(6..9)).unwrap();
        fs::write(directory.path().join("0.log.20260101-000002"), log(3..6)).unwrap();
        fs::write(directory.path().join("0.log.20260101-000001"), log(0..3)).unwrap();
        fs::write(directory.path().join("1.log"), log(0..3)).unwrap();
        let mut files = rotated(&path).unwrap();
        files.push(path);
        assert_eq!(files.len(), 3);
        let line = log(0..1).len() as u64;
        let table = [
            (0, (2, 3 * line)),
            (1, (2, 2 * line)),
            (3, (2, 0)),
            (4, (1, 2 * line)),
            (9, (0, 0)),
            (99, (0, 0)),
        ];
        for (lines, expected) in table {
            assert_eq!(begin_of_tail(&files, lines).unwrap(), expected, "{lines}");
        }
    }

    async fn written(options: Options, lines: &[&str]) -> String {
        let (pieces, mut reader) = mpsc::channel(16);
        let mut writer = Writer::new(&options, pieces);
        for line in lines {
            if writer.write(line.as_bytes()).await.is_err() {
                break;
            }
        }
        let _ = writer.flush().await;
        drop(writer);
        let mut text = String::new();
        while let Some(Ok(piece)) = reader.recv().await {
            text += std::str::from_utf8(&piece).unwrap();
        }
        text
    }

    #[tokio::test]
    async fn entries_become_what_was_written() {
        let lines = [
            "2026-01-01T00:00:01Z stdout F one",
            "2026-01-01T00:00:02Z stdout P tw",
            "2026-01-01T00:00:03Z stdout F o",
            "no entry",
        ];
        let options = Options::default();
        assert_eq!(written(options.clone(), &lines).await, "one\ntwo\n");
        let since = Options {
            since_time: Some("2026-01-01T00:00:02Z".parse().unwrap()),
            ..options.clone()
        };
        assert_eq!(written(since, &lines).await, "two\n");
        let stamped: Options = serde_json::from_str(r#"{"timestamps": "true"}"#).unwrap();
        let expected = "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n";
        assert_eq!(written(stamped, &lines).await, expected);
        let short = Options {
            limit_bytes: Some(6),
            ..options
        };
        assert_eq!(written(short, &lines).await, "one\ntw");
    }
}
