//! One call, on whichever member answers.
//!
//! The connection picks a member at random for each call. One that refuses or does not answer
//! makes that try fail, and the next try most likely meets another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, GetResponse, Identity,
    LeaseGrantResponse, ResponseHeader, TlsOptions, Txn, TxnResponse,
};
use tokio::time::{Instant, sleep, timeout};

use super::{EtcdConfig, TlsFiles, revision_of};
use crate::store::StoreError;

/// gRPC's codes that say more than "try again".
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// The most bytes in one answer: a page of large objects, or a burst of a watch.
pub const ANSWER_LIMIT_BYTES: usize = 256 << 20;

/// How long to try while no member has answered for long.
const PATIENCE_WHILE_AWAY: Duration = Duration::from_secs(1);

/// The connection to all members.
#[derive(Clone)]
pub struct Calls {
    client: Client,
    attempt: Duration,
    patience: Duration,
    /// A call was given up, and none has had an answer since.
    is_away: Arc<AtomicBool>,
}

/// A transaction's answer.
pub struct Tried {
    /// The answer.
    pub answer: TxnResponse,
    /// Whether an earlier try may have happened too: its answer was lost.
    pub twice: bool,
}

impl Calls {
    /// Connects; no member needs to answer yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] for addresses and files that cannot be used.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, StoreError> {
        let invalid = |error: Error| StoreError::Invalid(format!("store etcd: {error}"));
        let mut options = ConnectOptions::new()
            // A member that is cut off from the majority says so, and ends its watches.
            .with_require_leader(true)
            .with_connect_timeout(config.attempt.min(Duration::from_secs(1)))
            // A member whose machine is gone answers nothing at all.
            .with_keep_alive(config.attempt, config.attempt)
            .with_keep_alive_while_idle(true);
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        if let Some(files) = &config.tls {
            options = options.with_tls(tls_options(files)?);
        }
        let address = |endpoint: &String| match endpoint.contains("://") {
            true => endpoint.clone(),
            false => format!("{scheme}://{endpoint}"),
        };
        let endpoints: Vec<String> = config.endpoints.iter().map(address).collect();
        let client = Client::connect(&endpoints, Some(options))
            .await
            .map_err(invalid)?;
        Ok(Self {
            client,
            attempt: config.attempt,
            patience: config.patience,
            is_away: Arc::default(),
        })
    }

    /// The store's revision, as the majority knows it.
    pub async fn revision(&self) -> Result<u64, StoreError> {
        let answer = self.read("/", GetOptions::new().with_count_only()).await?;
        Ok(revision_in(answer.header()))
    }

    /// Reads, again and again if need be.
    pub async fn read(&self, key: &str, options: GetOptions) -> Result<GetResponse, StoreError> {
        let call = || {
            let kv = self.client.kv_client();
            let mut kv = kv.max_decoding_message_size(ANSWER_LIMIT_BYTES);
            let (key, options) = (key.to_owned(), options.clone());
            async move { kv.get(key, Some(options)).await }
        };
        let (answer, _) = self.persist(call).await?;
        Ok(answer)
    }

    /// Carries out a transaction, and tells if it may have happened before as well.
    pub async fn write(&self, txn: Txn) -> Result<Tried, StoreError> {
        let call = || {
            let (mut kv, txn) = (self.client.kv_client(), txn.clone());
            async move { kv.txn(txn).await }
        };
        let (answer, twice) = self.persist(call).await?;
        Ok(Tried { answer, twice })
    }

    /// A client for watches, leases and compaction, which do their own retries.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// How long one try may take.
    pub fn attempt(&self) -> Duration {
        self.attempt
    }

    /// How long to try.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A lease for a time, of a second at least.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if etcd does not grant it.
    pub async fn grant(&self, time: Duration) -> Result<LeaseGrantResponse, StoreError> {
        let mut client = self.client();
        // etcd counts leases in whole seconds.
        let seconds = i64::try_from(time.as_secs().max(1)).unwrap_or(i64::MAX);
        within(self.attempt, client.lease_grant(seconds, None)).await
    }

    /// Gives a lease back. If etcd does not hear it, the lease runs out by itself.
    pub async fn revoke(&self, lease: i64) {
        let mut client = self.client();
        let _ = timeout(self.attempt, client.lease_revoke(lease)).await;
    }

    async fn persist<T, F>(&self, call: impl Fn() -> F) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        // Once somebody has waited the whole time for nothing, nobody else does: their requests
        // would only pile up. The first answer, to whomever, gives everyone the time back.
        let patience = match self.is_away.load(Ordering::Relaxed) {
            true => self.patience.min(PATIENCE_WHILE_AWAY),
            false => self.patience,
        };
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(20);
        let mut lost = false;
        let mut worst = Trouble::default();
        loop {
            let error = match timeout(self.attempt.min(patience), call()).await {
                Ok(Ok(answer)) => {
                    self.is_away.store(false, Ordering::Relaxed);
                    return Ok((answer, lost));
                }
                Ok(Err(error)) => error,
                Err(_) => Error::IoError(std::io::ErrorKind::TimedOut.into()),
            };
            if let Some(refusal) = refusal(&error) {
                return Err(refusal);
            }
            lost |= may_have_happened(&error);
            worst = worst.max(Trouble::of(&error));
            if Instant::now() + pause >= deadline {
                self.is_away.store(true, Ordering::Relaxed);
                return Err(StoreError::Unavailable(worst.words(patience)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

/// One try of a call that is not repeated here.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if etcd refuses, or does not answer in time.
pub async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match timeout(patience, call).await {
        Ok(answer) => answer.map_err(unavailable),
        Err(_) => Err(StoreError::Unavailable("etcd does not answer".to_owned())),
    }
}

/// What etcd says, as the store's trouble.
pub fn unavailable(error: Error) -> StoreError {
    StoreError::Unavailable(format!("etcd: {error}"))
}

/// What is wrong with etcd, the more telling the greater: a member that cannot be reached says
/// less than one that answers that it is alone.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    #[default]
    Nothing,
    Unreached(String),
    Silent,
    Other(String),
    NoMajority(String),
}

impl Trouble {
    fn of(error: &Error) -> Trouble {
        let Error::GRpcStatus(status) = error else {
            let is_late =
                matches!(error, Error::IoError(io) if io.kind() == std::io::ErrorKind::TimedOut);
            return if is_late {
                Trouble::Silent
            } else {
                Trouble::Other(error.to_string())
            };
        };
        let message = status.message();
        let alone = ["no leader", "leader changed", "request timed out"];
        if alone.iter().any(|words| message.contains(words)) {
            return Trouble::NoMajority(message.to_owned());
        }
        let mut deepest: &(dyn std::error::Error + 'static) = status;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        match deepest.downcast_ref::<std::io::Error>() {
            Some(io) => Trouble::Unreached(io.to_string()),
            None => Trouble::Other(message.to_owned()),
        }
    }

    fn words(&self, patience: Duration) -> String {
        let seconds = patience.as_secs();
        match self {
            Trouble::Nothing | Trouble::Silent => {
                format!("no member of etcd answered within {seconds} s")
            }
            Trouble::Unreached(reason) => {
                format!("no member of etcd was reached within {seconds} s: {reason}")
            }
            Trouble::NoMajority(reason) => format!(
                "etcd has no majority of its members ({reason}); what was acknowledged is kept, and it goes on when they are back"
            ),
            Trouble::Other(reason) => format!("etcd: {reason}"),
        }
    }
}

fn tls_options(files: &TlsFiles) -> Result<TlsOptions, StoreError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| {
            StoreError::Invalid(format!("store etcd: {}: {error}", path.display()))
        })
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&files.authority)?));
    if let Some((certificate, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// The revision at which an answer was given.
pub fn revision_in(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| revision_of(header.revision()))
}

/// What no other member would answer differently.
fn refusal(error: &Error) -> Option<StoreError> {
    let Error::GRpcStatus(status) = error else {
        return None;
    };
    let message = status.message();
    if message.contains("required revision has been compacted") {
        return Some(StoreError::Compacted {
            asked: 0,
            oldest: 1,
        });
    }
    if message.contains("required revision is a future revision") {
        return Some(StoreError::Ahead {
            asked: 0,
            current: 0,
        });
    }
    match status.code() as i32 {
        INVALID_ARGUMENT | PERMISSION_DENIED | FAILED_PRECONDITION | OUT_OF_RANGE
        | UNIMPLEMENTED | UNAUTHENTICATED => {
            Some(StoreError::Unavailable(format!("etcd refuses: {message}")))
        }
        _ => None,
    }
}

/// Whether a failed call may have reached etcd. A connection that was refused did not.
fn may_have_happened(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = match error {
        Error::GRpcStatus(status) => Some(status),
        other => Some(other),
    };
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return false;
        }
        source = cause.source();
    }
    true
}
