//! The distribution protocol, from the asking side.
//!
//! ```text
//! GET /v2/REPOSITORY/manifests/TAG|DIGEST     a manifest or an index
//! GET /v2/REPOSITORY/blobs/DIGEST             a layer or a configuration
//! ```
//!
//! Endpoints are asked in order: mirrors, then the registry itself. Nothing that
//! they answer is believed: what was asked for by digest is hashed, and a tag's
//! answer is named by its own hash. So a mirror can be stale or broken but it
//! cannot pass off one image for another.
//!
//! A connection that breaks in the middle of a layer is taken up where it broke
//! (`Range`, RFC 9110 section 14), so what was received stays useful: it is
//! already hashed, inflated and written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_RANGE, RANGE};
use tokio::sync::mpsc;

use crate::images::digest::Digest;
use crate::images::error::{Error, ErrorKind};
use crate::images::manifest::{Descriptor, MEDIA_TYPES};
use crate::images::reference::Reference;
use crate::images::registries::{Credentials, RegistriesConfig};

/// HTTP clients that pulls share.
pub(crate) mod clients;
/// One endpoint, and the right to ask it.
pub(crate) mod session;

use clients::Clients;
use session::Session;

/// No manifest is larger: the limit that registries themselves keep.
const MOST_MANIFEST_BYTES: u64 = 4 << 20;
/// No configuration is larger.
const MOST_CONFIG_BYTES: u64 = 16 << 20;
/// How often an endpoint may fail without having sent anything new.
const MOST_FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The endpoints that may have a repository, in the order in which to ask.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    sessions: Vec<Arc<Session>>,
}

impl Repository {
    /// Prepares to ask; asks nothing yet.
    pub(crate) fn new(
        config: &RegistriesConfig,
        clients: &Clients,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Repository, Error> {
        let endpoints = config.endpoints(&reference.registry, credentials)?;
        let sessions = endpoints
            .into_iter()
            .map(|endpoint| Session::new(clients, endpoint, &reference.repository).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Repository { sessions })
    }

    /// How many endpoints there are to try.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The manifest or index of a tag or digest. The endpoint that has it is
    /// asked first from now on.
    pub(crate) async fn manifest(&mut self, version: &str) -> Result<Bytes, Error> {
        let path = format!("manifests/{version}");
        let mut failures = Vec::new();
        for at in 0..self.sessions.len() {
            let answer = read_whole(&self.sessions[at], &path, MOST_MANIFEST_BYTES).await;
            let verified = answer.and_then(|bytes| {
                if version.starts_with("sha256:") {
                    let expected: Digest = version.parse()?;
                    expected.verify(&Digest::of(&bytes), "the manifest")?;
                }
                Ok(bytes)
            });
            match verified {
                Ok(bytes) => {
                    self.sessions[..=at].rotate_right(1);
                    return Ok(bytes);
                }
                Err(error) => failures.push(error),
            }
        }
        Err(most_telling(failures))
    }

    /// A small blob, verified.
    pub(crate) async fn blob(&self, blob: &Descriptor) -> Result<Bytes, Error> {
        let mut failures = Vec::new();
        for session in &self.sessions {
            let path = format!("blobs/{}", blob.digest);
            let answer = read_whole(session, &path, MOST_CONFIG_BYTES).await;
            let verified = answer.and_then(|bytes| {
                blob.digest
                    .verify(&Digest::of(&bytes), "the image's configuration")?;
                Ok(bytes)
            });
            match verified {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failures.push(error),
            }
        }
        Err(most_telling(failures))
    }

    /// Sends a layer into a queue, in order and whole, or an error at its end.
    /// Endpoints before `first` are left out: they sent something wrong before.
    pub(crate) async fn stream(
        &self,
        first: usize,
        blob: &Descriptor,
        sink: mpsc::Sender<io::Result<Bytes>>,
    ) {
        let mut position = 0;
        let mut failures = Vec::new();
        for session in &self.sessions[first..] {
            match stream_from(session, blob, &mut position, &sink).await {
                Ok(()) => return,
                Err(error) => failures.push(error),
            }
        }
        // Nobody listens when the pull was given up.
        let _ = sink
            .send(Err(io::Error::other(most_telling(failures))))
            .await;
    }
}

/// Of several endpoints' failures, the one to show: the registry's own, which
/// comes last, unless it could not be reached and another had an answer.
pub(crate) fn most_telling(mut failures: Vec<Error>) -> Error {
    let order = [
        // Nothing is wrong with any endpoint: another would not help.
        ErrorKind::DiskFull,
        ErrorKind::Os,
        ErrorKind::Corrupt,
        ErrorKind::Unauthorized,
        ErrorKind::InvalidConfiguration,
        ErrorKind::NotFound,
        ErrorKind::Unreachable,
    ];
    let rank = |error: &Error| {
        let found = order.iter().position(|kind| *kind == error.kind());
        found.unwrap_or(order.len())
    };
    let mut best = None;
    for (at, error) in failures.iter().enumerate() {
        match best {
            Some((_, lowest)) if rank(error) > lowest => {}
            _ => best = Some((at, rank(error))),
        }
    }
    match best {
        Some((at, _)) => failures.swap_remove(at),
        None => Error::new(ErrorKind::Unreachable, "there is no endpoint to ask"),
    }
}

/// A whole answer, asked for again when the endpoint is busy or breaks off.
async fn read_whole(session: &Session, path: &str, most_bytes: u64) -> Result<Bytes, Error> {
    let mut failures = 0;
    loop {
        match try_read_whole(session, path, most_bytes).await {
            Ok(bytes) => return Ok(bytes),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing { error, wait }) => {
                failures += 1;
                if failures == MOST_FAILURES {
                    return Err(error);
                }
                pause(failures, wait).await;
            }
        }
    }
}

async fn try_read_whole(session: &Session, path: &str, most_bytes: u64) -> Result<Bytes, Trouble> {
    let accept = MEDIA_TYPES.join(", ");
    let mut response = session.get(path, &[(ACCEPT, &accept)]).await?;
    let mut bytes = Vec::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|error| Trouble::broken(session, error))?;
        let Some(chunk) = chunk else {
            return Ok(Bytes::from(bytes));
        };
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > most_bytes {
            return Err(Trouble::Final(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{}: {path} is larger than {most_bytes} bytes",
                    session.url()
                ),
            )));
        }
    }
}

/// Streams from one endpoint, from `position` to the end, with resumption.
async fn stream_from(
    session: &Session,
    blob: &Descriptor,
    position: &mut u64,
    sink: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Error> {
    let mut failures = 0;
    while *position < blob.size {
        let before = *position;
        match try_stream(session, blob, position, sink).await {
            Ok(()) => {}
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing { error, wait }) => {
                // Whoever sends something new deserves patience.
                failures = if *position > before { 1 } else { failures + 1 };
                if failures == MOST_FAILURES {
                    return Err(error);
                }
                pause(failures, wait).await;
            }
        }
        if sink.is_closed() {
            return Ok(());
        }
    }
    Ok(())
}

async fn try_stream(
    session: &Session,
    blob: &Descriptor,
    position: &mut u64,
    sink: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Trouble> {
    let path = format!("blobs/{}", blob.digest);
    let range = format!("bytes={position}-");
    let headers: &[_] = match *position {
        0 => &[],
        _ => &[(RANGE, &*range)],
    };
    let corrupt = |what: String| {
        let what = format!("{}: the blob {} {what}", session.url(), blob.digest);
        Trouble::Final(Error::new(ErrorKind::Corrupt, what))
    };
    let too_short = || corrupt(format!("ends before its {} bytes", blob.size));
    let mut response = match session.get(&path, headers).await {
        // What it holds ends where we are: it has less than the manifest says.
        Err(Trouble::Final(error)) if session::is_beyond_end(&error) => return Err(too_short()),
        response => response?,
    };
    // An endpoint that knows no ranges starts again: skip what we have.
    let mut to_skip = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let start = response.headers().get(CONTENT_RANGE).and_then(|value| {
                value
                    .to_str()
                    .ok()?
                    .strip_prefix("bytes ")?
                    .split('-')
                    .next()
            });
            if start != Some(&*position.to_string()) {
                return Err(corrupt("was resumed at another place than asked".into()));
            }
            0
        }
        _ => *position,
    };
    if let Some(announced) = response.content_length()
        && announced + (*position - to_skip) < blob.size
    {
        return Err(too_short());
    }
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) if *position < blob.size => {
                let error = Error::new(ErrorKind::Unreachable, "the connection ended early");
                return Err(Trouble::passing(error.within(session.url().to_owned())));
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(Trouble::broken(session, error)),
        };
        let skipped = to_skip.min(chunk.len() as u64);
        to_skip -= skipped;
        let fresh = chunk.slice(skipped as usize..);
        if fresh.is_empty() {
            continue;
        }
        *position += fresh.len() as u64;
        if *position > blob.size {
            return Err(corrupt(format!("is longer than its {} bytes", blob.size)));
        }
        if sink.send(Ok(fresh)).await.is_err() {
            return Ok(());
        }
    }
}

/// What to do about a failure.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Asking again would not help.
    Final(Error),
    /// It may help, after a while.
    Passing {
        error: Error,
        /// As the endpoint asked by `Retry-After`.
        wait: Option<Duration>,
    },
}

impl Trouble {
    fn passing(error: Error) -> Trouble {
        Trouble::Passing { error, wait: None }
    }

    fn broken(session: &Session, error: reqwest::Error) -> Trouble {
        let what = format!("{} broke off", session.url());
        Trouble::passing(Error::caused(
            ErrorKind::Unreachable,
            what,
            error.without_url(),
        ))
    }
}

/// Twice as long each time, and never quite the same, so that many nodes do not
/// come back to a registry in one beat.
async fn pause(failures: u32, wait: Option<Duration>) {
    let doubled = FIRST_PAUSE * 2u32.saturating_pow(failures.saturating_sub(1));
    let jitter = rand::random_range(0.5..1.5);
    let pause = wait.unwrap_or_else(|| doubled.mul_f64(jitter));
    tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
}
