//! Logs and upgraded connections through the API to an agent; the agent here is a few lines.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::json;

use crate::Server;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells what it was asked for; an upgraded connection is echoed. Ends with the test's process.
fn start_agent() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    port
}

fn answer(mut stream: TcpStream) {
    let head = read_head(&mut stream);
    let asked = head.lines().next().unwrap().to_owned();
    if head.to_lowercase().contains("upgrade: spdy/3.1") {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Asked: {asked}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).unwrap();
        let mut reader = stream.try_clone().unwrap();
        std::io::copy(&mut reader, &mut stream).unwrap();
        return;
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{asked}",
        asked.len()
    );
    stream.write_all(answer.as_bytes()).unwrap();
}

/// Everything up to the empty line, byte by byte so as to take nothing of what follows.
fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A node with the agent, and a pod with two containers on it.
fn start_with_pod() -> Server {
    let server = Server::start();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": start_agent() } },
        },
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "nodeName": "n", "containers": [{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }] },
    });
    for (name, object) in [("node.json", node), ("pod.json", pod)] {
        let file = server.file(name, &object.to_string());
        server.prints(&["create", "-f", &file]);
    }
    server
}

#[test]
fn logs_are_asked_of_the_pods_node() {
    let server = start_with_pod();
    let text = server.prints(&["logs", "p", "-c", "b", "--tail", "5"]);
    assert!(
        text.starts_with("GET /containerLogs/default/p/b?"),
        "{text}"
    );
    assert!(text.contains("tailLines=5"), "{text}");
    let wrong = server.complains(&["logs", "p", "-c", "c"]);
    assert!(
        wrong.contains("container c is not valid for pod p"),
        "{wrong}"
    );
    let elsewhere = server.file("q.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: q}, spec: {containers: [{name: c, image: i}]}}");
    server.prints(&["create", "-f", &elsewhere]);
    assert!(
        server
            .complains(&["logs", "q"])
            .contains("pod q does not have a host assigned")
    );
}

#[test]
fn an_upgraded_connection_is_passed_through_byte_by_byte() {
    let server = start_with_pod();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let path = "/api/v1/namespaces/default/pods/p/exec?container=a&command=ls&command=-l&stdin=true&stdout=true&tty=false";
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let asked = "POST /exec/default/p/a?command=ls&command=-l&input=1&output=1 HTTP/1.1";
    assert!(head.contains(asked), "{head}");
    for text in ["first", "second"] {
        stream.write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, text.as_bytes());
    }
}
