//! A real registry on loopback: Debian's `docker-registry`.
//!
//! Its storage is a temporary directory and its port is free at the time of
//! asking. It ends, and the storage goes, when the [`Registry`] is dropped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::host::Host;
use crate::http::{self, Request};
use crate::image::{Image, push};

/// Who may pull and push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Who sends [`USER`] and [`PASSWORD`] by basic authentication.
    Basic,
}

/// The user that a registry with [`Access::Basic`] knows.
pub const USER: &str = "berth";
/// That user's password.
pub const PASSWORD: &str = "correct-horse";

/// A `docker-registry` that runs until this is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: SocketAddr,
    access: Access,
    /// The process in whose network namespace it listens.
    namespace_of: Option<u32>,
    directory: TempDir,
}

impl Registry {
    /// Starts one on this machine's loopback.
    ///
    /// # Errors
    ///
    /// `docker-registry` is not installed or did not answer within ten seconds.
    pub fn start(access: Access) -> Result<Registry> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        Registry::start_on((Ipv4Addr::LOCALHOST, port).into(), access)
    }

    /// Starts one on an address of this machine, where others reach it.
    ///
    /// # Errors
    ///
    /// As [`Registry::start`].
    pub fn start_on(address: SocketAddr, access: Access) -> Result<Registry> {
        start(Command::new("docker-registry"), address, access, None)
    }

    /// Starts one on the loopback of a throw-away host.
    ///
    /// # Errors
    ///
    /// As [`Registry::start`].
    pub fn start_in(host: &Host, access: Access) -> Result<Registry> {
        let port = host.free_port()?;
        Registry::start_at(host, (Ipv4Addr::LOCALHOST, port).into(), access)
    }

    /// Starts one on an address of a throw-away host, where others reach it.
    ///
    /// # Errors
    ///
    /// As [`Registry::start`].
    pub fn start_at(host: &Host, address: SocketAddr, access: Access) -> Result<Registry> {
        start(
            host.command("docker-registry"),
            address,
            access,
            Some(host.pid()),
        )
    }

    /// `127.0.0.1:PORT`, as it stands in an image's name.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:PORT/REPOSITORY:TAG`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Pushes an image by the distribution protocol.
    ///
    /// # Errors
    ///
    /// The registry refused it.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        push::push(self, image, repository, tag)
    }

    /// A registries.toml that makes this the mirror of Docker Hub, so that
    /// `nginx` and `docker.io/library/nginx` are pulled from here.
    pub fn mirror_configuration(&self) -> String {
        let mut text = format!(
            "[registry.\"docker.io\"]\nmirrors = [\"http://{0}\"]\n\n\
             [registry.\"{0}\"]\ninsecure = true\n",
            self.address
        );
        if self.access == Access::Basic {
            text += &format!("username = \"{USER}\"\npassword = \"{PASSWORD}\"\n");
        }
        text
    }

    /// The directory that holds the blobs, for tests that damage one.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    /// A connection to it, made where it listens.
    ///
    /// # Errors
    ///
    /// It does not accept.
    pub fn connect(&self) -> Result<TcpStream> {
        match self.namespace_of {
            Some(pid) => crate::host::connect_in(pid, self.address),
            None => Ok(TcpStream::connect(self.address)?),
        }
    }

    /// The `Authorization` header that it wants, if any.
    pub fn authorization(&self) -> Option<String> {
        match self.access {
            Access::Open => None,
            Access::Basic => Some(format!(
                "Basic {}",
                base64(format!("{USER}:{PASSWORD}").as_bytes())
            )),
        }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + crate::patience::stretched(Duration::from_secs(10));
        loop {
            if let Some(status) = self.process.try_wait()? {
                let log = fs::read_to_string(self.directory.path().join("log"))?;
                bail!("docker-registry ended at once with {status}:\n{log}");
            }
            let answer = self.connect().and_then(|stream| {
                http::exchange(
                    stream,
                    &Request {
                        method: "GET",
                        target: "/v2/",
                        ..Request::default()
                    },
                )
            });
            match answer {
                Ok(response) if matches!(response.status, 200 | 401) => return Ok(()),
                _ => ensure!(
                    Instant::now() < deadline,
                    "docker-registry did not answer in ten seconds"
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A registry keeps nothing that a clean end would save, and a failure
        // here means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(
    mut command: Command,
    address: SocketAddr,
    access: Access,
    namespace_of: Option<u32>,
) -> Result<Registry> {
    let directory = tempfile::Builder::new()
        .prefix("berth-registry-")
        .tempdir()?;
    let file = directory.path().join("registry.yml");
    fs::write(&file, configuration(&directory, address, access)?)?;
    let log = fs::File::create(directory.path().join("log"))?;
    let process = command
        .arg("serve")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("docker-registry cannot be run: apt-get install docker-registry")?;
    let mut registry = Registry {
        process,
        address,
        access,
        namespace_of,
        directory,
    };
    registry.wait_until_ready()?;
    Ok(registry)
}

fn configuration(directory: &TempDir, address: SocketAddr, access: Access) -> Result<String> {
    let root = directory.path().join("storage");
    let mut text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         delete: {{enabled: true}}\nhttp: {{addr: \"{address}\", secret: test}}\n",
        root.display()
    );
    if access == Access::Basic {
        let users = directory.path().join("htpasswd");
        fs::write(&users, format!("{USER}:{}\n", bcrypt(PASSWORD)?))?;
        text += &format!(
            "auth: {{htpasswd: {{realm: berth, path: {}}}}}\n",
            users.display()
        );
    }
    Ok(text)
}

/// The registry takes bcrypt hashes only. `crypt(3)` of Debian's libc makes
/// them, and Perl, which every Debian has, can call it.
fn bcrypt(password: &str) -> Result<String> {
    let script = r#"print crypt($ARGV[0], '$2b$05$abcdefghijklmnopqrstuu')"#;
    let output = Command::new("perl")
        .args(["-e", script, password])
        .output()
        .context("run perl")?;
    let hash = String::from_utf8(output.stdout)?;
    ensure!(
        hash.starts_with("$2b$"),
        "crypt(3) made no bcrypt hash: {hash:?}"
    );
    Ok(hash)
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| {
            word << 8 | u32::from(*chunk.get(at).unwrap_or(&0))
        });
        for place in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}
