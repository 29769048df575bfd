//! One HTTP/1.1 exchange over a connection, wherever that connection lives.
//!
//! A socket belongs to the network namespace in which it was made, for good
//! (`network_namespaces(7)`). The harness therefore opens a connection inside a
//! throw-away host and speaks HTTP on it from the test's own thread. A client
//! library would open its connections by itself, in the wrong place.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long one read or write may take before the exchange is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked of a server.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// `GET`, `PUT`, ….
    pub method: &'a str,
    /// The path with its query, beginning with a slash.
    pub target: &'a str,
    /// Further header lines. `Host`, `Content-Length` and `Connection` are added.
    pub headers: Vec<(&'a str, String)>,
    /// Sent whole.
    pub body: &'a [u8],
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// Whole, with the chunked coding undone.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are none are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request and reads the answer; the connection is used up.
///
/// # Errors
///
/// The connection broke, was silent for half a minute, or did not speak HTTP.
pub fn exchange(stream: TcpStream, request: &Request) -> Result<Response> {
    exchange_within(PATIENCE, stream, request)
}

/// The same, with another bound for one read or write.
///
/// # Errors
///
/// As [`exchange`].
pub fn exchange_within(
    patience: Duration,
    stream: TcpStream,
    request: &Request,
) -> Result<Response> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let host = stream.peer_addr()?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    head += &format!("Host: {host}\r\nConnection: close\r\n");
    head += &format!("Content-Length: {}\r\n", request.body.len());
    for (name, value) in &request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    (&stream)
        .write_all(head.as_bytes())
        .context("send the request's head")?;
    (&stream)
        .write_all(request.body)
        .context("send the request's body")?;
    read_response(&mut BufReader::new(&stream), request.method)
}

fn read_response(reader: &mut impl BufRead, method: &str) -> Result<Response> {
    let status_line = read_line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status line: {status_line:?}"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .context("a header line without a colon")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(response);
    }
    response.body = if response.header("transfer-encoding") == Some("chunked") {
        read_chunks(reader)?
    } else if let Some(length) = response.header("content-length") {
        let mut body = vec![0; length.parse().context("content-length")?];
        reader
            .read_exact(&mut body)
            .context("read the answer's body")?;
        body
    } else {
        let mut body = Vec::new();
        reader
            .read_to_end(&mut body)
            .context("read the answer's body")?;
        body
    };
    Ok(response)
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if reader
        .read_line(&mut line)
        .context("read the answer's head")?
        == 0
    {
        bail!("the server hung up before it had answered");
    }
    Ok(line.trim_end().to_owned())
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or(""), 16)
            .with_context(|| format!("no chunk size: {line:?}"))?;
        let start = body.len();
        body.resize(start + size, 0);
        reader
            .read_exact(&mut body[start..])
            .context("read a chunk")?;
        read_line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
