//! What a program wrote, to its last byte, but no longer.
//!
//! A program may leave others in the background that keep its pipes open, so the
//! end of the program is not the end of the pipe, and waiting for the latter
//! could take for ever. A client may read slowly, so a time limit on the copying
//! would lose output. Two facts help: waiting for the *client* may take as long
//! as it likes, and what the program itself wrote is in the pipe when it has
//! ended, so at most a pipe's capacity (pipe(7)) is left to read.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After the program ended, how long what it left in the background may still
/// write.
pub(super) const DRAIN: Duration = Duration::from_secs(2);
/// No pipe holds more, unless root made it larger (`fs.pipe-max-size`).
const PIPE_LIMIT_BYTES: usize = 1 << 20;
/// How much is copied at once.
const BUFFER_BYTES: usize = 32 << 10;

/// Copies until the end of `from`, or until what is left is not the program's.
///
/// `ended` tells that the program has ended.
pub(super) async fn copy_output<R, W>(from: Option<R>, mut to: W, ended: CancellationToken)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(mut from) = from else {
        return;
    };
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut background = Background::default();
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = background.over(&ended) => return,
        };
        let Ok(count @ 1..) = read else {
            return;
        };
        // A client that no longer reads is no failure of the program.
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            return;
        }
        if background.spent(count, &ended) {
            return;
        }
    }
}

/// What may come after the program's end.
#[derive(Debug, Default)]
struct Background {
    since: Option<Instant>,
    bytes: usize,
}

impl Background {
    /// Done when nothing of the program's can be left in an empty pipe.
    async fn over(&mut self, ended: &CancellationToken) {
        ended.cancelled().await;
        let since = *self.since.get_or_insert_with(Instant::now);
        tokio::time::sleep_until(since + DRAIN).await;
    }

    /// Takes note of bytes; whether the program's own must have been among them
    /// and the time of the others is over.
    fn spent(&mut self, count: usize, ended: &CancellationToken) -> bool {
        if !ended.is_cancelled() {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.bytes += count;
        self.bytes > PIPE_LIMIT_BYTES && since.elapsed() >= DRAIN
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// Takes twice as long as what runs in the background may.
    async fn read_slowly(mut from: impl AsyncRead + Unpin) -> usize {
        let mut buffer = [0; 1024];
        let mut total = 0;
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            total += count;
            tokio::time::sleep(DRAIN / 32).await;
        }
        total
    }

    #[tokio::test]
    async fn a_slow_client_gets_all_that_was_in_the_pipe() {
        let (mut program, pipe) = duplex(64 << 10);
        let (client, screen) = duplex(1024);
        program.write_all(&[7; 64 << 10]).await.unwrap();
        let ended = CancellationToken::new();
        ended.cancel();
        // The pipe stays open: something runs on in the background.
        let copied = copy_output(Some(pipe), client, ended);
        let ((), read) = tokio::join!(copied, read_slowly(screen));
        assert_eq!(read, 64 << 10);
        drop(program);
    }

    #[tokio::test]
    async fn a_talkative_background_program_does_not_hold_the_client() {
        let (mut program, pipe) = duplex(64 << 10);
        let ended = CancellationToken::new();
        ended.cancel();
        let talking = async move {
            while program.write_all(&[7; 8 << 10]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let copied = copy_output(Some(pipe), tokio::io::sink(), ended);
        tokio::select! {
            () = copied => {}
            () = talking => panic!("the pipe was closed by somebody else"),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("held"),
        }
    }
}
