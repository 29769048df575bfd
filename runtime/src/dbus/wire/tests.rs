use super::{FIXED_HEADER, decode, encode, message_length};
use crate::dbus::{Kind, Message, Value};

fn message(body: Vec<Value>) -> Message {
    let mut message = Message::new(Kind::Call, 7);
    message.path = Some("/org/freedesktop/systemd1".to_owned());
    message.interface = Some("org.freedesktop.systemd1.Manager".to_owned());
    message.member = Some("StartTransientUnit".to_owned());
    message.destination = Some("org.freedesktop.systemd1".to_owned());
    message.body = body;
    message
}

fn goes_through(body: Vec<Value>) {
    let message = message(body);
    let bytes = encode(&message);
    let mut head = [0; FIXED_HEADER];
    head.copy_from_slice(&bytes[..FIXED_HEADER]);
    assert_eq!(message_length(&head).expect("a head"), bytes.len());
    assert_eq!(decode(&bytes).expect("a message"), message);
}

#[test]
fn values_come_back_as_they_were() {
    goes_through(Vec::new());
    goes_through(vec![
        Value::text("berth-c.scope"),
        Value::Byte(1),
        Value::Uint64(u64::MAX),
        Value::Bool(true),
        Value::Int16(-3),
        Value::Double(0.5),
        Value::Path("/a".to_owned()),
        Value::Signature("a(sv)".to_owned()),
    ]);
    goes_through(vec![
        Value::Array("(sv)".to_owned(), Vec::new()),
        Value::Array(
            "(sv)".to_owned(),
            vec![
                Value::Struct(vec![
                    Value::text("PIDs"),
                    Value::variant(Value::Array("u".to_owned(), vec![Value::Uint32(12)])),
                ]),
                Value::Struct(vec![
                    Value::text("Delegate"),
                    Value::variant(Value::Bool(true)),
                ]),
            ],
        ),
        Value::Array(
            "{sv}".to_owned(),
            vec![Value::Entry(Box::new((
                Value::text("a"),
                Value::variant(Value::texts(["b", ""])),
            )))],
        ),
    ]);
}

/// The bytes of the specification's layout, written out by hand.
#[test]
fn the_bytes_are_those_of_the_specification() {
    let mut signal = Message::new(Kind::Signal, 1);
    signal.path = Some("/a".to_owned());
    signal.interface = Some("b.c".to_owned());
    signal.member = Some("D".to_owned());
    signal.body = vec![Value::Byte(5), Value::Uint32(6)];
    let mut wanted = vec![b'l', 4, 0, 1, 8, 0, 0, 0, 1, 0, 0, 0];
    let fields: &[u8] = b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0\
        \x02\x01s\0\x03\0\0\0b.c\0\0\0\0\0\
        \x03\x01s\0\x01\0\0\0D\0\0\0\0\0\0\0\
        \x08\x01g\0\x02yu\0";
    wanted.extend((fields.len() as u32).to_le_bytes());
    wanted.extend(fields);
    wanted.resize(wanted.len().next_multiple_of(8), 0);
    wanted.extend(b"\x05\0\0\0\x06\0\0\0");
    assert_eq!(encode(&signal), wanted);
}

#[test]
fn a_message_of_the_other_order_of_bytes_is_read() {
    let bytes = b"B\x02\0\x01\0\0\0\x04\0\0\0\x02\0\0\0\x0f\
        \x05\x01u\0\0\0\0\x09\x08\x01g\0\x01u\0\0\0\0\0\x2a";
    let read = decode(bytes).expect("a message");
    assert_eq!((read.serial, read.reply_to), (2, Some(9)));
    assert_eq!(read.body, [Value::Uint32(42)]);
}

#[test]
fn what_is_cut_or_wild_is_refused() {
    let whole = encode(&message(vec![Value::texts(["one", "two"])]));
    for length in 0..whole.len() {
        assert!(decode(&whole[..length]).is_err(), "{length} bytes");
    }
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] = 0xff;
        // It may be read as something else, but neither panics nor hangs.
        let _ = decode(&bytes);
    }
    let mut head = [0xff; FIXED_HEADER];
    head[0] = b'l';
    assert!(message_length(&head).is_err());
    let mut deep = message(vec![Value::Byte(1)]);
    for _ in 0..60 {
        deep.body = vec![Value::variant(deep.body.remove(0))];
    }
    assert!(decode(&encode(&deep)).is_err());
}
