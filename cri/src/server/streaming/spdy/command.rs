//! Exec and attach over SPDY: the client opens one stream for each purpose.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, SpdyStream};
use crate::engine::Engine;
use crate::server::streaming::command::{self, Channels, Command, Wanted};
use crate::server::streaming::status::Wording;

/// What a version of the protocol can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speech {
    /// How it tells of the end.
    pub wording: Wording,
    /// Whether it has a stream for the terminal's sizes (v3 and later).
    pub sizes: bool,
}

/// The streams, as they arrive in any order.
#[derive(Debug, Default)]
struct Arrived {
    error: Option<SpdyStream>,
    stdin: Option<SpdyStream>,
    stdout: Option<SpdyStream>,
    stderr: Option<SpdyStream>,
    resize: Option<SpdyStream>,
}

/// Serves one client to its end.
pub async fn serve<T>(engine: &Engine, transport: T, speech: Speech, command: &Command)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut connection = Connection::start(transport, command.limits.idle);
    match gather(
        &mut connection,
        speech,
        command.streams,
        command.limits.creation,
    )
    .await
    {
        Ok(channels) => command::run(engine, command, speech.wording, channels).await,
        Err(reason) => tracing::debug!("a client of {}: {reason}", command.container),
    }
    connection.close().await;
}

/// Waits until the client has opened all streams that were asked for.
async fn gather(
    connection: &mut Connection,
    speech: Speech,
    wanted: Wanted,
    limit: Duration,
) -> Result<Channels, String> {
    let mut arrived = Arrived::default();
    let gathering = async {
        while !arrived.holds(speech, wanted) {
            let stream = connection
                .accept()
                .await
                .ok_or("went before it had opened its streams")?;
            arrived.take(stream, speech, wanted)?;
        }
        Ok::<(), String>(())
    };
    tokio::time::timeout(limit, gathering)
        .await
        .map_err(|_| format!("did not open its streams within {} s", limit.as_secs()))??;
    let error = arrived.error.ok_or("opened no stream for errors")?;
    Ok(Channels {
        stdin: arrived.stdin.map(|stream| stream.reader),
        stdout: arrived.stdout.map(|stream| stream.writer),
        stderr: arrived.stderr.map(|stream| stream.writer),
        error: error.writer,
        resize: arrived.resize.map(|stream| stream.reader),
        outgoing: connection.outgoing(),
        gone: connection.gone(),
    })
}

impl Arrived {
    fn holds(&self, speech: Speech, wanted: Wanted) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == wanted.stdin
            && self.stdout.is_some() == wanted.stdout
            && self.stderr.is_some() == wanted.stderr
            && self.resize.is_some() == (wanted.terminal && speech.sizes)
    }

    fn take(&mut self, stream: SpdyStream, speech: Speech, wanted: Wanted) -> Result<(), String> {
        let kind = stream.headers.value("streamtype").unwrap_or_default();
        let (place, wanted) = match kind {
            "error" => (&mut self.error, true),
            "stdin" => (&mut self.stdin, wanted.stdin),
            "stdout" => (&mut self.stdout, wanted.stdout),
            "stderr" => (&mut self.stderr, wanted.stderr),
            "resize" => (&mut self.resize, wanted.terminal && speech.sizes),
            other => return Err(format!("opened a stream of the unknown type {other:?}")),
        };
        if !wanted || place.is_some() {
            return Err(format!(
                "opened a stream {kind:?} that was not asked for, or twice"
            ));
        }
        *place = Some(stream);
        Ok(())
    }
}
