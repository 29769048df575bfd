//! Starting a pod's monitor and asking it things.
//!
//! A call is a line there and a line back, and needs no thread that waits for it: a
//! kubelet asks for the state of everything every second. Only a connection that is
//! taken over begins on a thread that may block, for what follows the answer must
//! not be read with it.

use std::io::{ErrorKind as Io, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_runtime::monitor::client::{self, ClientError};
use berth_runtime::monitor::protocol::{
    CONFIG_NAME, ContainerRecord, EXITS_FOLDER, ExitRecord, FailureKind, MonitorConfig, Reply,
    Request,
};
use tokio::io::AsyncReadExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::error::{Error, ErrorKind};
use super::oci_call::outside_service;
use super::records::files::{read_plain_json, replace_json};

/// More than a reason ever takes; the monitor's standard error is read no further.
const REASON_LIMIT_BYTES: u64 = 64 << 10;

/// A monitor answers from memory. One that does not must not hold up the lists of
/// all other pods.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// Between two tries to be one of those who wait for a monitor.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Writes the configuration and runs `berth-oci monitor POD_DIR`, which keeps
/// `lock` as its standard input until the monitor is up or has given up.
///
/// # Errors
///
/// `Runtime` with the monitor's own words. It has left nothing behind then.
pub async fn start(
    program: &Path,
    pod_dir: &Path,
    config: &MonitorConfig,
    lock: Stdio,
) -> Result<(), Error> {
    replace_json(&pod_dir.join(CONFIG_NAME), config)?;
    let failed = |error: std::io::Error| {
        Error::caused(
            ErrorKind::Runtime,
            format!("run {} monitor", program.display()),
            error,
        )
    };
    let mut child = outside_service(program)
        .arg("monitor")
        .arg(pod_dir)
        .stdin(lock)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut reason = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr
            .take(REASON_LIMIT_BYTES)
            .read_to_end(&mut reason)
            .await
            .map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&reason);
    Err(Error::new(
        ErrorKind::Runtime,
        format!(
            "the pod's monitor did not start ({status}): {}",
            reason.trim()
        ),
    ))
}

/// What a pod's monitor was told; none when that cannot be read.
pub(super) fn read_configuration(pod_dir: &Path) -> Option<MonitorConfig> {
    read_plain_json(&pod_dir.join(CONFIG_NAME)).unwrap_or_default()
}

/// Asks a monitor once.
///
/// # Errors
///
/// `Unavailable` when it does not answer; the failure's kind when it refuses.
pub async fn call(pod_dir: &Path, request: Request) -> Result<Reply, Error> {
    send(pod_dir, &[request]).await?.answer().await
}

/// Calls that were sent, and whose answers nobody has taken yet. The monitor carries them
/// out even if nobody ever does.
#[derive(Debug)]
pub struct Sent {
    stream: BufReader<UnixStream>,
}

/// Asks a monitor some things, one after another, and does not wait for its answers.
///
/// # Errors
///
/// `Unavailable` when there is no monitor.
pub async fn send(pod_dir: &Path, requests: &[Request]) -> Result<Sent, Error> {
    let mut line = Vec::new();
    for request in requests {
        encode(request, &mut line)?;
    }
    let mut stream = open_stream(pod_dir).await?;
    // A new socket takes a line at once, and the monitor works on it while the stream is
    // yet to be waited on.
    let written = match stream.write(&line) {
        Err(error) if error.kind() == Io::WouldBlock => 0,
        outcome => outcome.map_err(lost)?,
    };
    let mut stream = UnixStream::from_std(stream).map_err(lost)?;
    stream.write_all(&line[written..]).await.map_err(lost)?;
    Ok(Sent {
        stream: BufReader::new(stream),
    })
}

impl Sent {
    /// Waits for the next answer.
    ///
    /// # Errors
    ///
    /// As [`call`].
    pub async fn answer(&mut self) -> Result<Reply, Error> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line);
        if read.await.map_err(lost)? == 0 {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the pod's monitor ended in the middle of a call",
            ));
        }
        refuse_failure(decode(&line)?)
    }

    /// The connection, whose calls were all answered: it ends when the monitor does.
    pub fn into_connection(self) -> Option<std::os::unix::net::UnixStream> {
        self.stream.into_inner().into_std().ok()
    }
}

/// What a monitor says of its containers; none when no monitor answers.
///
/// # Errors
///
/// When it answers with something else.
pub async fn status(pod_dir: &Path) -> Result<Option<Vec<ContainerRecord>>, Error> {
    let told = status_and_connection(pod_dir).await?;
    Ok(told.map(|(containers, _)| containers))
}

/// As [`status`], with the connection on which it was said.
///
/// # Errors
///
/// As [`status`].
pub async fn status_and_connection(
    pod_dir: &Path,
) -> Result<Option<(Vec<ContainerRecord>, Sent)>, Error> {
    let ask = async {
        let mut sent = send(pod_dir, &[Request::Status { id: None }]).await?;
        Ok((sent.answer().await?, sent))
    };
    let answer = tokio::time::timeout(STATUS_LIMIT, ask).await;
    match answer.unwrap_or_else(|_| Err(silent())) {
        Ok((Reply::Containers { containers }, sent)) => Ok(Some((containers, sent))),
        Ok((other, _)) => Err(nonsense(&other)),
        Err(error) if error.kind() == ErrorKind::Unavailable => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts a container's program. Gives what the monitor tells of the container then,
/// should it tell anything, and the connection.
///
/// # Errors
///
/// As [`call`].
pub async fn begin(pod_dir: &Path, id: &str) -> Result<(Vec<ContainerRecord>, Sent), Error> {
    let requests = [
        Request::Start { id: id.to_owned() },
        Request::Status {
            id: Some(id.to_owned()),
        },
    ];
    let mut sent = send(pod_dir, &requests).await?;
    sent.answer().await?;
    // It has begun, whatever becomes of the question.
    let containers = match sent.answer().await {
        Ok(Reply::Containers { containers }) => containers,
        _ => Vec::new(),
    };
    Ok((containers, sent))
}

/// Waits until a container has ended.
///
/// # Errors
///
/// `NotFound` for an unknown container, `Unavailable` when the monitor goes.
pub async fn wait(pod_dir: &Path, id: &str) -> Result<ExitRecord, Error> {
    let request = Request::Wait { id: id.to_owned() };
    match call(pod_dir, request).await? {
        Reply::Exited(record) => Ok(record),
        other => Err(nonsense(&other)),
    }
}

/// A connection that a call takes over: `Attach` or `Subscribe`.
///
/// # Errors
///
/// As [`call`].
pub async fn take_over(pod_dir: &Path, request: Request) -> Result<UnixStream, Error> {
    let pod_dir = pod_dir.to_path_buf();
    let (reply, stream) = blocking(move || {
        let mut client = client::connect(&pod_dir).map_err(unavailable)?;
        let reply = client.call(&request).map_err(unavailable)?;
        Ok((reply, client.into_stream()))
    })
    .await?;
    match refuse_failure(reply)? {
        Reply::Done => {}
        other => return Err(nonsense(&other)),
    }
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(lost)
}

/// How a container ended, as its monitor has written to disk.
///
/// # Errors
///
/// `Storage` when the file is damaged.
pub fn read_exit(pod_dir: &Path, id: &str) -> Result<Option<ExitRecord>, Error> {
    read_plain_json(&exit_path(pod_dir, id))
}

/// Where a container's exit record is.
pub fn exit_path(pod_dir: &Path, id: &str) -> PathBuf {
    pod_dir.join(EXITS_FOLDER).join(format!("{id}.json"))
}

async fn open_stream(pod_dir: &Path) -> Result<std::os::unix::net::UnixStream, Error> {
    loop {
        match client::connect_at_once(pod_dir) {
            Ok(stream) => return Ok(stream),
            Err(ClientError::Unreachable { source, .. }) if source.kind() == Io::WouldBlock => {
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
            Err(error) => return Err(unavailable(error)),
        }
    }
}

/// Runs what blocks on a thread that may block.
///
/// # Errors
///
/// What the closure returns; `Storage` when it panicked.
pub async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::caused(
            ErrorKind::Storage,
            "a step of the engine was broken off",
            error,
        )),
    }
}

fn encode(request: &Request, lines: &mut Vec<u8>) -> Result<(), Error> {
    serde_json::to_writer(&mut *lines, request).map_err(|error| {
        Error::caused(ErrorKind::Invalid, "encode a call to the monitor", error)
    })?;
    lines.push(b'\n');
    Ok(())
}

fn decode(line: &[u8]) -> Result<Reply, Error> {
    serde_json::from_slice(line).map_err(|error| {
        Error::caused(
            ErrorKind::Unavailable,
            "the monitor's reply makes no sense",
            error,
        )
    })
}

fn refuse_failure(reply: Reply) -> Result<Reply, Error> {
    let Reply::Failed { kind, message } = reply else {
        return Ok(reply);
    };
    let kind = match kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::WrongState => ErrorKind::WrongState,
        FailureKind::BadRequest => ErrorKind::Invalid,
        FailureKind::Runtime => ErrorKind::Runtime,
        FailureKind::Internal => ErrorKind::Storage,
    };
    Err(Error::new(kind, message))
}

fn nonsense(reply: &Reply) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the pod's monitor gave an answer to another call: {reply:?}"),
    )
}

fn lost(error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Unavailable, "lost the pod's monitor", error)
}

fn silent() -> Error {
    let seconds = STATUS_LIMIT.as_secs();
    Error::new(
        ErrorKind::Unavailable,
        format!("the pod's monitor has said nothing for {seconds} seconds"),
    )
}

fn unavailable(error: ClientError) -> Error {
    Error::caused(
        ErrorKind::Unavailable,
        "the pod's monitor does not answer",
        error,
    )
}
