//! Clients that carry the streams of a container: their input, and their end.

use super::connection::Role;
use super::console::resize;
use super::frames::{read_frame, read_resize};
use super::protocol::FrameKind;
use super::server::{Server, attached_to};

impl Server {
    /// Acts on the frames of an attached client, as long as the container
    /// takes its input.
    pub(super) fn take_frames(&mut self, client: u64, id: &str) {
        let Server {
            connections,
            containers,
            ..
        } = self;
        let (Some(connection), Some(container)) = (
            connections.iter_mut().find(|found| found.number == client),
            containers.iter_mut().find(|found| found.id == id),
        ) else {
            return;
        };
        while container.streams.takes_stdin() {
            let frame = match read_frame(connection.input()) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => {
                    eprintln!("dropped a client of {id}: {error}");
                    return self.hang_up(client);
                }
            };
            match frame.kind {
                FrameKind::Stdin if frame.payload.is_empty() => container.streams.close_stdin(),
                FrameKind::Stdin => container.streams.queue_stdin(frame.payload),
                FrameKind::Resize => {
                    let size = read_resize(frame.payload);
                    if let (Some((width, height)), Some(terminal)) =
                        (size, &container.streams.terminal)
                    {
                        // The terminal may be gone by now, which ends the
                        // connection soon.
                        let _ = resize(terminal, width, height);
                    }
                }
                // What only a monitor sends means nothing here.
                FrameKind::Stdout | FrameKind::Stderr => {}
            }
            let length = frame.wire_bytes();
            connection.consume(length);
        }
    }

    /// Takes more of what clients sent, after standard input has taken some.
    pub(super) fn feed_stdin(&mut self, id: &str) {
        let clients: Vec<u64> = attached_to(&mut self.connections, id)
            .map(|connection| connection.number)
            .collect();
        for client in clients {
            self.take_frames(client, id);
        }
    }

    /// The client is gone: forgets it, and closes the standard input that it
    /// alone was to have.
    pub(super) fn hang_up(&mut self, client: u64) {
        let Some(place) = self
            .connections
            .iter()
            .position(|connection| connection.number == client)
        else {
            return;
        };
        let connection = self.connections.remove(place);
        if let Role::Attached { id } = connection.role {
            self.detach(client, &id);
        }
    }

    /// Acts on the end of an attachment.
    pub(super) fn detach(&mut self, client: u64, id: &str) {
        if let Some(container) = self.container_mut(id)
            && container.stdin_once
            && container.first_attached == Some(client)
        {
            container.streams.close_stdin();
        }
    }
}
