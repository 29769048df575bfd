//! Port-forward over WebSocket without SPDY: the ports are known beforehand.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::connection::{Connection, Encoding, Framing, HalfClose};
use crate::server::streaming::channel::{ChannelReader, ChannelWriter};
use crate::server::streaming::forward::{ForwardTarget, join};

/// Channels are numbered by one byte, and each port takes two of them.
pub const PORT_LIMIT: usize = 127;

/// Serves one client until it goes or all ports have ended.
pub async fn serve<T>(target: Arc<ForwardTarget>, transport: T, encoding: Encoding)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ports: Vec<(u8, u16)> = (0u8..)
        .step_by(2)
        .zip(target.ports.iter().copied().take(PORT_LIMIT))
        .collect();
    let numbers: Vec<u8> = ports.iter().map(|(number, _)| *number).collect();
    let framing = Framing {
        encoding,
        half_close: HalfClose::Never,
        idle: target.limits.idle,
    };
    let (connection, readers) = Connection::start(transport, framing, &numbers).await;
    let gone = connection.gone();
    let mut carried = JoinSet::new();
    for ((number, port), reader) in ports.into_iter().zip(readers) {
        let data = connection.writer(number);
        let error = connection.writer(number + 1);
        carried.spawn(carry(target.clone(), port, reader, (data, error)));
    }
    tokio::select! {
        () = async { while carried.join_next().await.is_some() {} } => {}
        () = gone.cancelled() => {}
    }
    // The pod's ends are closed with the tasks that hold them.
    carried.shutdown().await;
    connection.close().await;
}

async fn carry(
    target: Arc<ForwardTarget>,
    port: u16,
    from: ChannelReader,
    (mut data, mut error): (ChannelWriter, ChannelWriter),
) {
    for writer in [&mut data, &mut error] {
        if writer.write_all(&port.to_le_bytes()).await.is_err() {
            return;
        }
    }
    let outcome = match target.dial(port).await {
        Ok(pod) => join(pod, from, data)
            .await
            .map_err(|error| error.to_string()),
        Err(refused) => Err(refused.chain()),
    };
    if let Err(reason) = outcome {
        let report = format!(
            "error forwarding port {port} to pod {}: {reason}",
            target.sandbox
        );
        let _ = error.write_all(report.as_bytes()).await;
    }
}
