//! The machine shuts down: logind says so, and the kubelet ends its pods before it lets go.
//!
//! ```text
//!  kubelet                                   logind (this test)
//!    │ Inhibit("shutdown", …, "delay") ─────────▶│
//!    │◀──────────────── a descriptor ────────────│   while it is open, shutdown waits
//!    │◀──────── signal PrepareForShutdown(true) ─│
//!    │ ends pods: ordinary ones, then critical   │
//!    │ closes the descriptor ───────────────────▶│   shutdown goes on
//! ```
//!
//! Bus and logind are one thread on a socket of the host's.
//!
//! Read more: org.freedesktop.login1(5), "Inhibitor Locks"; KEP 2000.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_runtime::dbus::wire::{self, FIXED_HEADER};
use berth_runtime::dbus::{Kind, Message, Value as Dbus};
use berth_tests::patience::stretched;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;

use crate::node::{PATIENCE, bus, container_status, run, shell};

/// Says when it is asked to end, and takes a moment.
const ENDS: &str = "trap 'echo asked; sleep 1; exit 7' TERM; while :; do sleep 1 & wait; done";

#[test]
fn pods_are_ended_before_the_machine_shuts_down() -> Result<()> {
    let settings = json!({"shutdownGracePeriod": "20s", "shutdownGracePeriodCriticalPods": "10s"});
    run(settings, |node| {
        let logind = Logind::start(&bus(node.machine.host()))?;
        // The first one found no bus when it began.
        node.kill_kubelet()?;
        let calls = logind.lock()?;
        ensure!(calls.contains(&"Inhibit".to_owned()), "{calls:?}");
        node.put("ends", json!({"containers": [shell("main", ENDS)]}))?;
        node.ready("ends")?;
        logind.shut_down(&node.log("ends", "main")?)?;
        let pod = node.over("ends")?;
        ensure!(pod["status"]["reason"] == "Terminated", "{}", pod["status"]);
        let ended = &container_status(&pod, "main")["state"]["terminated"];
        ensure!(ended["exitCode"] == 7, "{ended}");
        Ok(())
    })
}

/// A bus with logind on it.
struct Logind {
    /// The kubelet's connection, once it waits for news, and what it asked before.
    ready: Receiver<(UnixStream, Vec<String>)>,
    /// Ends when the kubelet has let go of its lock.
    lock: File,
    stream: std::cell::RefCell<Option<UnixStream>>,
}

impl Logind {
    fn start(place: &Path) -> Result<Logind> {
        let listener = UnixListener::bind(place)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (sender, ready) = channel();
        // It ends with the kubelet's last connection to a socket that goes with the test.
        std::thread::spawn(move || {
            let mut lock = Some(File::from(writer));
            while let Ok((stream, _)) = listener.accept() {
                let sender = sender.clone();
                let lock = lock.take();
                std::thread::spawn(move || converse(&stream, lock, &sender));
            }
        });
        Ok(Logind {
            ready,
            lock: File::from(reader),
            stream: std::cell::RefCell::new(None),
        })
    }

    /// Waits until the kubelet holds its lock; what it asked for.
    fn lock(&self) -> Result<Vec<String>> {
        let limit = stretched(PATIENCE);
        let (stream, calls) = self
            .ready
            .recv_timeout(limit)
            .context("the kubelet wants to know of shutdowns")?;
        *self.stream.borrow_mut() = Some(stream);
        Ok(calls)
    }

    /// Says that the machine is about to shut down, and waits until the kubelet agrees.
    fn shut_down(&self, log: &str) -> Result<()> {
        ensure!(!log.contains("asked"), "it was asked too early: {log}");
        let mut signal = Message::new(Kind::Signal, 1000);
        signal.path = Some("/org/freedesktop/login1".to_owned());
        signal.interface = Some("org.freedesktop.login1.Manager".to_owned());
        signal.member = Some("PrepareForShutdown".to_owned());
        signal.body = vec![Dbus::Bool(true)];
        let stream = self.stream.borrow();
        let mut stream = stream.as_ref().context("it listens")?;
        stream.write_all(&wire::encode(&signal))?;
        let (sender, agreed) = channel();
        let mut lock = self.lock.try_clone()?;
        std::thread::spawn(move || {
            let _ = lock.read(&mut [0]);
            let _ = sender.send(());
        });
        agreed
            .recv_timeout(stretched(Duration::from_secs(60)))
            .context("the kubelet lets the machine shut down")
    }
}

/// One client: its login, then its calls.
fn converse(
    stream: &UnixStream,
    mut lock: Option<File>,
    ready: &Sender<(UnixStream, Vec<String>)>,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    log_in(&mut reader, stream)?;
    let mut calls = Vec::new();
    loop {
        let call = read(&mut reader)?;
        let member = call.member.clone().unwrap_or_default();
        calls.push(member.clone());
        let body = match member.as_str() {
            "Hello" => vec![Dbus::text(":1.1")],
            // InhibitDelayMaxUSec: longer than what the kubelet wants.
            "Get" => vec![Dbus::variant(Dbus::Uint64(60_000_000))],
            "Inhibit" => {
                let lock = lock.take().context("one lock")?;
                send_lock(stream, call.serial, &lock)?;
                continue;
            }
            _ => Vec::new(),
        };
        let mut reply = Message::new(Kind::Reply, 100 + call.serial);
        reply.reply_to = Some(call.serial);
        reply.body = body;
        (&*stream).write_all(&wire::encode(&reply))?;
        if calls.iter().any(|one| one == "Inhibit") && calls.iter().any(|one| one == "AddMatch") {
            let _ = ready.send((stream.try_clone()?, std::mem::take(&mut calls)));
        }
    }
}

/// The login of a client that also wants to be sent descriptors.
fn log_in(reader: &mut impl BufRead, mut stream: &UnixStream) -> Result<()> {
    reader.read_exact(&mut [0])?;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the client went away");
        let answer = match line.trim_end() {
            "AUTH" => "REJECTED EXTERNAL",
            "NEGOTIATE_UNIX_FD" => "AGREE_UNIX_FD",
            "BEGIN" => return Ok(()),
            line if line.starts_with("AUTH EXTERNAL") => "OK 1234deadbeef1234deadbeef1234dead",
            _ => "ERROR",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
    }
}

fn read(reader: &mut impl Read) -> Result<Message> {
    let mut head = [0; FIXED_HEADER];
    reader.read_exact(&mut head)?;
    let mut bytes = vec![0; wire::message_length(&head)?];
    bytes[..FIXED_HEADER].copy_from_slice(&head);
    reader.read_exact(&mut bytes[FIXED_HEADER..])?;
    Ok(wire::decode(&bytes)?)
}

/// The answer to `Inhibit`. Berth itself never sends a descriptor by D-Bus, so its
/// encoder does not know them: these are the bytes.
fn send_lock(stream: &UnixStream, call: u32, lock: &File) -> Result<()> {
    // Fields: 5 the call's number, 8 the signature `h`, 9 how many descriptors come along.
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(call.to_le_bytes());
    fields.extend([8, 1, b'g', 0, 1, b'h', 0, 0]);
    fields.extend([9, 1, b'u', 0, 1, 0, 0, 0]);
    let mut bytes = vec![b'l', 2, 0, 1];
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend((100 + call).to_le_bytes());
    bytes.extend(u32::try_from(fields.len())?.to_le_bytes());
    bytes.extend(fields);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    // The first of them.
    bytes.extend(0_u32.to_le_bytes());
    let descriptors = [lock.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::empty(),
    )?;
    ensure!(sent == bytes.len(), "a part of it was sent");
    Ok(())
}
