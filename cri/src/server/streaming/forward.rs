//! Port-forward: a connection to a port of a pod, for one that a client has.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::Limits;
use super::channel::ChannelWriter;
use crate::engine::error::{Error, ErrorKind};

/// How long a port of the pod may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where the pod's ports are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardTarget {
    /// The sandbox, for messages.
    pub sandbox: String,
    /// The file of the pod's network namespace; none for the host's own.
    pub netns: Option<PathBuf>,
    /// The ports that clients get who cannot name one themselves.
    pub ports: Vec<u16>,
    /// How long the client may take.
    pub limits: Limits,
}

impl ForwardTarget {
    /// Connects to a port on the pod's loopback, IPv4 first.
    ///
    /// # Errors
    ///
    /// `Network`: nothing listens there, or the pod has gone.
    pub async fn dial(&self, port: u16) -> Result<TcpStream, Error> {
        let mut refusals = Vec::new();
        for address in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            let address = SocketAddr::new(address, port);
            match self.dial_one(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refusals.push(format!("{address}: {error}")),
            }
        }
        Err(Error::new(
            ErrorKind::Network,
            format!(
                "port {port} of sandbox {} cannot be reached: {}",
                self.sandbox,
                refusals.join("; ")
            ),
        ))
    }

    async fn dial_one(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match &self.netns {
            Some(netns) => open_inside(netns.clone(), address.is_ipv4()).await?,
            None => open_socket(address.is_ipv4())?,
        };
        let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
        let stream = tokio::time::timeout(CONNECT_LIMIT, socket.connect(address))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        // A tunnel adds no delay of its own.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A socket belongs for ever to the network namespace in which it was opened,
/// whoever uses it (network_namespaces(7)). So a thread enters, opens, and ends:
/// setns(2) moves only the thread, which must not be one that others use after it.
async fn open_inside(netns: PathBuf, ipv4: bool) -> io::Result<OwnedFd> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("b:enter-netns".to_owned())
        .spawn(move || {
            // The receiver is gone only if the client is.
            let _ = sender.send(enter_and_open(&netns, ipv4));
        })?;
    receiver.await.map_err(|_| io::ErrorKind::Interrupted)?
}

fn enter_and_open(netns: &Path, ipv4: bool) -> io::Result<OwnedFd> {
    let netns = std::fs::File::open(netns)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    open_socket(ipv4)
}

fn open_socket(ipv4: bool) -> io::Result<OwnedFd> {
    let family = match ipv4 {
        true => AddressFamily::INET,
        false => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Copies both directions until both have ended. Each end passes the other's on,
/// so a pod that answers after the client's last word is heard.
///
/// # Errors
///
/// The pod's connection broke.
pub async fn join<R>(pod: TcpStream, mut from: R, mut to: ChannelWriter) -> io::Result<()>
where
    R: AsyncRead + Unpin,
{
    let (mut read, mut write) = pod.into_split();
    let up = async {
        let outcome = copy(&mut from, &mut write).await;
        // The pod may have closed first, which is no failure.
        let _ = write.shutdown().await;
        outcome
    };
    let down = async {
        let outcome = copy(&mut read, &mut to).await;
        let ended = to.shutdown().await;
        outcome.and(ended)
    };
    tokio::pin!(up, down);
    tokio::select! {
        outcome = &mut down => {
            // The pod has said all; it may still listen.
            outcome?;
            up.await
        }
        // A pod that takes no more may still speak, and what it says is wanted.
        _ = &mut up => down.await,
    }
}

async fn copy<R, W>(from: &mut R, to: &mut W) -> io::Result<()>
where
    R: AsyncRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin + ?Sized,
{
    let mut from = tokio::io::BufReader::with_capacity(32 << 10, from);
    tokio::io::copy_buf(&mut from, to).await.map(|_| ())
}
