//! Telling the service manager how things are: sd_notify(3).
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET` and reads a few words from
//! it: that the server is ready (others may start now), that it reads its file
//! again, that it ends, and every now and then that it still works (its
//! watchdog). Without such a socket nobody is told.
//!
//! ```text
//! READY=1 ──▶ RELOADING=1 ──▶ READY=1 ──▶ … ──▶ STOPPING=1
//!      └─ WATCHDOG=1, twice in WATCHDOG_USEC ─┘
//! ```

use std::env;
use std::io::ErrorKind::Interrupted;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a manager may be busy with others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom to tell, if anybody.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads what the service manager put into the environment.
    pub fn observe() -> ServiceManager {
        let told = env::var("NOTIFY_SOCKET").ok();
        let socket = told.and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET {name}: {error}; nobody is told of the start");
                None
            }
        });
        ServiceManager {
            socket,
            watchdog: watchdog(
                env::var("WATCHDOG_USEC").ok().as_deref(),
                env::var("WATCHDOG_PID").ok().as_deref(),
            ),
        }
    }

    /// The server answers calls.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving the CRI");
    }

    /// The server reads its file again; [`ServiceManager::ready`] ends that.
    pub fn reloading(&self) {
        // systemd takes the next READY=1 for the answer to this by the time.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The server ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=pods live on");
    }

    /// The server still works.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How often that is to be said; twice as often as the manager asks for.
    pub fn watchdog(&self) -> Option<Duration> {
        self.socket
            .as_ref()
            .and(self.watchdog)
            .map(|limit| limit / 2)
    }

    fn tell(&self, words: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        let told = loop {
            match socket.send_to_addr(words.as_bytes(), address) {
                // A socket with a limit of time hears of signals (signal(7)).
                Err(error) if error.kind() == Interrupted => {}
                other => break other,
            }
        };
        // A manager that does not listen is no reason to end.
        if let Err(error) = told {
            tracing::debug!("the service manager was not told: {error}");
        }
    }
}

/// A path, or `@` and a name of the abstract namespace (unix(7)).
fn connect(name: &str) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that hangs must not hang the server; one that is busy, with its queue full
    // for a moment, must hear all the same that the server is ready.
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((socket, address))
}

/// The watchdog's time, unless it is meant for another process.
fn watchdog(microseconds: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let own = std::process::id().to_string();
    if pid.is_some_and(|pid| pid != own) {
        return None;
    }
    let microseconds = microseconds?.parse().ok()?;
    (microseconds > 0).then_some(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_by_path_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager {
            socket: Some(connect(path.to_str().unwrap()).unwrap()),
            watchdog: Some(Duration::from_secs(10)),
        };
        assert_eq!(manager.watchdog(), Some(Duration::from_secs(5)));
        manager.reloading();
        manager.ready();
        let mut buffer = [0; 200];
        let read = listener.recv(&mut buffer).unwrap();
        let words = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert!(words.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{words}");
        let read = listener.recv(&mut buffer).unwrap();
        assert!(buffer[..read].starts_with(b"READY=1\n"));

        let name = format!("berth-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let manager = ServiceManager {
            socket: Some(connect(&format!("@{name}")).unwrap()),
            watchdog: None,
        };
        manager.stopping();
        let read = listener.recv(&mut buffer).unwrap();
        assert!(buffer[..read].starts_with(b"STOPPING=1"));
        drop(listener);
        // Nobody listens any more: nothing happens.
        manager.alive();
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), None), second);
        assert_eq!(watchdog(Some("1000000"), Some(&own)), second);
        assert_eq!(watchdog(Some("1000000"), Some("1")), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(None, None), None);
    }

    #[test]
    fn a_manager_that_is_busy_for_a_moment_hears_it_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        while others.send_to(b"STATUS=busy", &path).is_ok() {}
        let manager = ServiceManager {
            socket: Some(connect(path.to_str().unwrap()).unwrap()),
            watchdog: None,
        };
        let heard = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            listener
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let mut buffer = [0; 200];
            loop {
                let read = match listener.recv(&mut buffer) {
                    Err(error) if error.kind() == Interrupted => continue,
                    read => read.unwrap(),
                };
                if buffer[..read].starts_with(b"READY=1") {
                    return;
                }
            }
        });
        manager.ready();
        heard.join().unwrap();
    }
}
