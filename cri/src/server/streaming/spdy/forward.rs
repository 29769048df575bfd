//! Port-forward over SPDY: two streams for each connection that a client has.
//!
//! One of type `data` carries the bytes, one of type `error` what went wrong.
//! They belong together by the header `requestid`; clients before it counted:
//! the stream of the data is the one opened after that of the errors.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Connection, SpdyStream};
use crate::server::streaming::channel::Outgoing;
use crate::server::streaming::forward::{ForwardTarget, join};

/// Half of a pair that waits for the other.
struct Half {
    stream: SpdyStream,
    since: Instant,
}

/// Both streams of one connection.
struct Pair {
    data: SpdyStream,
    error: SpdyStream,
}

/// Serves one client until it goes.
pub async fn serve<T>(target: Arc<ForwardTarget>, transport: T)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut connection = Connection::start(transport, target.limits.idle);
    let creation = target.limits.creation;
    let outgoing = connection.outgoing();
    let gone = connection.gone();
    let mut waiting: HashMap<String, Half> = HashMap::new();
    let mut pairs = JoinSet::new();
    let mut sweep = tokio::time::interval(creation / 3);
    loop {
        tokio::select! {
            stream = connection.accept() => {
                let Some(stream) = stream else { break };
                match pair_up(&mut waiting, stream) {
                    Ok(Some(pair)) => {
                        pairs.spawn(carry(target.clone(), pair, outgoing.clone()));
                    }
                    Ok(None) => {}
                    Err((stream, reason)) => {
                        tracing::debug!("port-forward to {}: {reason}", target.sandbox);
                        Connection::reset(&outgoing, stream).await;
                    }
                }
            }
            _ = sweep.tick() => {
                let late = |half: &mut Half| half.since.elapsed() >= creation;
                for (_, half) in waiting.extract_if(|_, half| late(half)) {
                    Connection::reset(&outgoing, half.stream.id).await;
                }
            }
            Some(_) = pairs.join_next() => {}
            () = gone.cancelled() => break,
        }
    }
    // The pod's ends are closed with the tasks that hold them.
    pairs.shutdown().await;
    connection.close().await;
}

/// The pair that a stream completes. The error names a stream to reset.
fn pair_up(
    waiting: &mut HashMap<String, Half>,
    stream: SpdyStream,
) -> Result<Option<Pair>, (u32, String)> {
    let id = stream.id;
    let is_data = match stream.headers.value("streamtype") {
        Some("data") => true,
        Some("error") => false,
        other => return Err((id, format!("a stream of the unknown type {other:?}"))),
    };
    let request = match stream.headers.value("requestid") {
        Some(request) => request.to_owned(),
        None if is_data => id.wrapping_sub(2).to_string(),
        None => id.to_string(),
    };
    let Some(half) = waiting.remove(&request) else {
        let since = Instant::now();
        waiting.insert(request, Half { stream, since });
        return Ok(None);
    };
    let other_is_data = half.stream.headers.value("streamtype") == Some("data");
    match (is_data, other_is_data) {
        (true, false) => Ok(Some(Pair {
            data: stream,
            error: half.stream,
        })),
        (false, true) => Ok(Some(Pair {
            data: half.stream,
            error: stream,
        })),
        _ => {
            waiting.insert(request, half);
            Err((
                id,
                "two streams of the same type for one request".to_owned(),
            ))
        }
    }
}

/// Carries one connection. Whatever goes wrong is told on the stream for errors.
async fn carry(target: Arc<ForwardTarget>, pair: Pair, outgoing: mpsc::Sender<Outgoing>) {
    let Pair { data, mut error } = pair;
    let data_id = data.id;
    let (data_reset, error_reset) = (data.reset.clone(), error.reset.clone());
    let text = data.headers.value("port").unwrap_or_default().to_owned();
    let carried = async {
        let port = read_port(&text)?;
        let pod = target.dial(port).await.map_err(|error| error.chain())?;
        join(pod, data.reader, data.writer)
            .await
            .map_err(|error| error.to_string())
    };
    let outcome = tokio::select! {
        outcome = carried => outcome,
        // The client's own end is closed: nobody is left to copy for.
        () = data_reset.cancelled() => Ok(()),
        () = error_reset.cancelled() => Ok(()),
    };
    // What cannot be written to a stream that the client has just reset is not the pod's
    // failure: kubectl would end all its connections for it.
    let is_reset = data_reset.is_cancelled() || error_reset.is_cancelled();
    if let Err(reason) = outcome
        && !is_reset
    {
        let report = format!(
            "error forwarding port {text} to pod {}: {reason}",
            target.sandbox
        );
        let _ = error.writer.write_all(report.as_bytes()).await;
        let _ = error.writer.shutdown().await;
        Connection::reset(&outgoing, data_id).await;
    } else {
        let _ = error.writer.shutdown().await;
    }
}

fn read_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("port {text:?}: expected a number from 1 to 65535")),
    }
}
