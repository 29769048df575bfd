use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use super::{Connection, Object, Peer, connect, unescape};
use crate::dbus::wire::{self, FIXED_HEADER};
use crate::dbus::{DbusError, Kind, Message, Value};

const OBJECT: Object<'_> = Object {
    service: "org.example",
    path: "/org/example",
    interface: "org.example.Thing",
};

/// A bus of one conversation: checks the login, then answers each call by what
/// `answer` makes of it.
fn fake_bus(
    answer: impl Fn(&Message) -> Vec<Message> + Send + 'static,
) -> (tempfile::TempDir, String, JoinHandle<Vec<String>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("bus");
    let listener = UnixListener::bind(&place).expect("a socket");
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
        log_in(&mut reader, &stream);
        let mut members = Vec::new();
        while let Some(call) = read(&mut reader) {
            members.push(call.member.clone().unwrap_or_default());
            for message in answer(&call) {
                (&stream)
                    .write_all(&wire::encode(&message))
                    .expect("an answer");
            }
        }
        members
    });
    (folder, format!("unix:path={}", place.display()), served)
}

fn log_in(reader: &mut BufReader<UnixStream>, mut stream: &UnixStream) {
    let mut zero = [1];
    reader.read_exact(&mut zero).expect("a byte");
    assert_eq!(zero, [0]);
    for (wanted, answer) in [
        ("AUTH EXTERNAL\r\n", "DATA\r\n"),
        ("DATA\r\n", "OK 1234deadbeef\r\n"),
        ("BEGIN\r\n", ""),
    ] {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert_eq!(line, wanted);
        stream.write_all(answer.as_bytes()).expect("an answer");
    }
}

fn read(reader: &mut impl Read) -> Option<Message> {
    let mut head = [0; FIXED_HEADER];
    reader.read_exact(&mut head).ok()?;
    let mut bytes = vec![0; wire::message_length(&head).expect("a length")];
    bytes[..FIXED_HEADER].copy_from_slice(&head);
    reader.read_exact(&mut bytes[FIXED_HEADER..]).expect("all");
    Some(wire::decode(&bytes).expect("a message"))
}

fn reply(call: &Message, body: Vec<Value>) -> Message {
    let mut reply = Message::new(Kind::Reply, 100 + call.serial);
    reply.reply_to = Some(call.serial);
    reply.body = body;
    reply
}

fn signal(member: &str, body: Vec<Value>) -> Message {
    let mut signal = Message::new(Kind::Signal, 99);
    signal.path = Some("/org/example".to_owned());
    signal.interface = Some("org.example.Thing".to_owned());
    signal.member = Some(member.to_owned());
    signal.body = body;
    signal
}

#[test]
fn a_signal_that_overtakes_its_reply_is_kept() {
    let (_folder, address, served) = fake_bus(|call| match call.member.as_deref() {
        Some("Start") => vec![
            signal(
                "Removed",
                vec![Value::text("/job/8"), Value::text("failed")],
            ),
            signal("Removed", vec![Value::text("/job/9"), Value::text("done")]),
            reply(call, vec![Value::Path("/job/9".to_owned())]),
        ],
        _ => vec![reply(call, vec![Value::text(":1.5")])],
    });
    let mut bus = Connection::open(&address, Peer::Bus).expect("a conversation");
    let told = bus.call(&OBJECT, "Start", vec![]).expect("an answer");
    assert_eq!(told, [Value::Path("/job/9".to_owned())]);
    let result = bus
        .await_signal("Removed", |body| {
            (body.first()?.as_text()? == "/job/9")
                .then(|| body.get(1)?.as_text().map(str::to_owned))
                .flatten()
        })
        .expect("a signal");
    assert_eq!(result, "done");
    drop(bus);
    assert_eq!(served.join().expect("no panic"), ["Hello", "Start"]);
}

#[test]
fn a_refusal_has_its_words() {
    let (_folder, address, served) = fake_bus(|call| {
        let mut error = reply(call, vec![Value::text("Unit x.scope is there.")]);
        error.kind = Kind::Error;
        error.error = Some("org.freedesktop.systemd1.UnitExists".to_owned());
        vec![error]
    });
    // A service's own socket is not greeted.
    let mut bus = Connection::open(&address, Peer::Service).expect("a conversation");
    let error = bus.call(&OBJECT, "Start", vec![]).expect_err("a refusal");
    assert!(
        error.is_named("org.freedesktop.systemd1.UnitExists"),
        "{error}"
    );
    assert!(
        error.to_string().contains("Unit x.scope is there."),
        "{error}"
    );
    drop(bus);
    assert_eq!(served.join().expect("no panic"), ["Start"]);
}

#[test]
fn a_bus_that_hangs_up_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("bus");
    let listener = UnixListener::bind(&place).expect("a socket");
    let served = thread::spawn(move || drop(listener.accept().expect("a caller")));
    let address = format!("unix:path={}", place.display());
    let error = Connection::open(&address, Peer::Bus).expect_err("no bus");
    assert!(matches!(error, DbusError::Socket(_)), "{error}");
    served.join().expect("no panic");
}

#[test]
fn addresses_are_taken_in_turn() {
    let missing = "unix:path=/nowhere/at/all;tcp:host=x";
    let error = Connection::open(missing, Peer::Bus).expect_err("no bus");
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    assert!(matches!(connect("tcp:host=x"), Err(DbusError::Address(_))));
    assert_eq!(unescape("/run/a%2db%"), "/run/a-b%");
}
