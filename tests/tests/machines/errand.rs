//! What the first machine has the second do: a command, its input, and how it ended.
//!
//! ```text
//!   second ── connects, and waits ──▶ first
//!          ◀── {"words": […], "input": …} ──
//!          ─── connects once more, for the next errand
//!          ─── {"code": …, "stdout": …, "stderr": …} ──▶
//! ```
//!
//! One connection an errand, so that several run side by side; one without words is the
//! end. A connection that waits survives a wire that is cut, for nothing is sent on it.
//! Whoever reaches the port becomes root on the second machine: the wire must be private.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use berth_tests::patience::stretched;
use serde::{Deserialize, Serialize};

/// Where the first machine gives errands out.
const PORT: u16 = 7077;
/// How long one machine waits for the other to be there: both boot, or compile.
const MEETING: Duration = Duration::from_secs(120);
/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A command for a machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Errand {
    /// The program and its words; none is the end of all.
    pub words: Vec<String>,
    /// What it reads.
    pub input: String,
}

/// How a command ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Runs a command on this machine to its end.
///
/// # Errors
///
/// There is no such program.
pub fn run(errand: &Errand) -> Result<Outcome> {
    let limit = stretched(LIMIT).as_secs().to_string();
    let mut child = Command::new("timeout")
        .args(["--kill-after=10", &limit])
        .args(&errand.words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run timeout")?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read its input may have ended already.
        let _ = pipe.write_all(errand.input.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The second machine: does all errands until it hears that there are no more.
///
/// # Errors
///
/// The first machine is not there, or is gone without a word.
pub fn run_all(first: IpAddr) -> Result<()> {
    loop {
        let stream = reach(SocketAddr::new(first, PORT))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the first machine is gone");
        let errand: Errand = serde_json::from_str(&line)?;
        if errand.words.is_empty() {
            return Ok(());
        }
        std::thread::spawn(move || {
            let outcome = run(&errand).unwrap_or_else(|error| Outcome {
                code: None,
                stdout: String::new(),
                stderr: format!("{error:#}"),
            });
            // A first machine that is gone needs no answer.
            let _ = send(&stream, &outcome);
        });
    }
}

fn reach(address: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + stretched(MEETING);
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => bail!("the first machine: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn send(mut stream: &TcpStream, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

/// Where the first machine gives errands out. The second is told the end when this is
/// dropped, however the story went.
#[derive(Debug)]
pub struct Office {
    listener: Mutex<TcpListener>,
}

impl Office {
    /// Opens on an address of this machine.
    ///
    /// # Errors
    ///
    /// The port is taken.
    pub fn open(own: IpAddr) -> Result<Office> {
        let listener = TcpListener::bind((own, PORT)).context("listen for the second machine")?;
        listener.set_nonblocking(true)?;
        Ok(Office {
            listener: Mutex::new(listener),
        })
    }

    /// Has the second machine run a command; how it ended.
    ///
    /// # Errors
    ///
    /// The second machine is not there, or gone.
    pub fn send(&self, errand: &Errand) -> Result<Outcome> {
        let stream = self.next()?;
        send(&stream, errand)?;
        stream.set_read_timeout(Some(stretched(LIMIT) + stretched(MEETING)))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the second machine said {line:?}"))
    }

    /// The connection on which the second machine waits.
    fn next(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + stretched(MEETING);
        let listener = self.listener.lock().unwrap();
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error) if Instant::now() > deadline => {
                    bail!("the second machine is not there: {error}")
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let told = self
            .next()
            .and_then(|stream| send(&stream, &Errand::default()));
        if let Err(error) = told {
            eprintln!("the second machine was not told the end: {error:#}");
        }
    }
}
