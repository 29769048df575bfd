//! Which protocol a request is to be served with. Pure.
//!
//! ```text
//! Upgrade: SPDY/3.1   + X-Stream-Protocol-Version: v4.channel.k8s.io, …   exec, attach
//!                                                  portforward.k8s.io      port-forward
//! Upgrade: websocket  + Sec-WebSocket-Protocol:    v5.channel.k8s.io, …   exec, attach
//!                                                  SPDY/3.1+portforward…   SPDY in messages
//!                                                  v4.channel.k8s.io, none legacy port-forward
//! ```
//!
//! The first name that the client gives and we know is taken. The choice is made
//! by the request, not by the URL: a kubelet passes on whatever its client spoke.

use base64::Engine as _;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, Method, StatusCode};

use super::spdy::command::Speech;
use super::status::Wording;
use super::websocket::connection::{Encoding, HalfClose};

/// The header with SPDY's sub-protocols, as the client offers them and as we choose.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The header with those that we know, when there was nothing to choose.
pub const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
/// WebSocket's counterpart.
pub const WEBSOCKET_PROTOCOL: &str = "sec-websocket-protocol";

const SPDY: &str = "SPDY/3.1";
const SPDY_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Newest first. On SPDY the fifth is the fourth: FIN is its half-close.
const SPDY_COMMAND: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// What the URL was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Exec or attach.
    Command,
    /// Port-forward.
    Forward,
}

/// How a request is served, once its connection is upgraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// Frames of SPDY/3.1 on the connection.
    Spdy {
        /// The sub-protocol as the client wrote it.
        protocol: String,
        /// For exec and attach.
        speech: Speech,
    },
    /// Messages of WebSocket.
    WebSocket {
        /// The sub-protocol as the client wrote it, if it wrote one.
        protocol: Option<String>,
        /// The proof that we have read the client's key (RFC 6455, 4.2.2).
        accept: String,
        /// What the messages hold.
        messages: Messages,
    },
}

/// What WebSocket's messages hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// The number of a channel and bytes of it.
    Channels {
        /// As bytes or as base64.
        encoding: Encoding,
        /// Whether a client can end a channel.
        half_close: HalfClose,
        /// How it is told of the end.
        wording: Wording,
    },
    /// SPDY's frames.
    Tunnel,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The response's code.
    pub status: StatusCode,
    /// The response's body.
    pub text: String,
    /// Whether to list the protocols that we know.
    pub accepted: &'static [&'static str],
}

/// Chooses.
///
/// # Errors
///
/// The response for a request that cannot be upgraded.
pub fn plan_upgrade(
    purpose: Purpose,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Upgrade, Refusal> {
    if !words(headers, CONNECTION.as_str()).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refusal("Connection: expected Upgrade"));
    }
    let wants =
        |name: &str| words(headers, UPGRADE.as_str()).any(|word| word.eq_ignore_ascii_case(name));
    if wants("websocket") {
        return plan_websocket(purpose, method, headers);
    }
    if wants(SPDY) {
        return plan_spdy(purpose, headers);
    }
    Err(refusal("Upgrade: expected SPDY/3.1 or websocket"))
}

fn plan_spdy(purpose: Purpose, headers: &HeaderMap) -> Result<Upgrade, Refusal> {
    let known: &'static [&'static str] = match purpose {
        Purpose::Command => SPDY_COMMAND,
        Purpose::Forward => &[SPDY_FORWARD],
    };
    let mut offered = words(headers, STREAM_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Err(refusal("X-Stream-Protocol-Version: is missing"));
    }
    let protocol = offered.find(|word| known.contains(word)).ok_or(Refusal {
        status: StatusCode::FORBIDDEN,
        text: format!(
            "X-Stream-Protocol-Version: expected one of {}",
            known.join(", ")
        ),
        accepted: known,
    })?;
    Ok(Upgrade::Spdy {
        protocol: protocol.to_owned(),
        speech: Speech {
            wording: wording_of(protocol),
            sizes: !matches!(protocol, "channel.k8s.io" | "v2.channel.k8s.io"),
        },
    })
}

fn plan_websocket(
    purpose: Purpose,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Upgrade, Refusal> {
    if method != Method::GET {
        return Err(refusal("a WebSocket begins with GET"));
    }
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(refusal("Sec-WebSocket-Version: expected 13"));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| key.as_bytes())
        .filter(|key| base64_bytes(key).is_some_and(|bytes| bytes.len() == 16))
        .ok_or_else(|| refusal("Sec-WebSocket-Key: expected 16 bytes in base64"))?;
    let mut offered = words(headers, WEBSOCKET_PROTOCOL).peekable();
    let (protocol, messages) = if offered.peek().is_none() {
        (None, messages_of(purpose, ""))
    } else {
        let chosen = offered.find_map(|word| Some((word, messages_of(purpose, word)?)));
        let (word, messages) = chosen.unzip();
        (word.map(str::to_owned), messages)
    };
    let messages = messages
        .ok_or_else(|| refusal("Sec-WebSocket-Protocol: none of those offered is served here"))?;
    Ok(Upgrade::WebSocket {
        protocol,
        accept: tokio_tungstenite::tungstenite::handshake::derive_accept_key(key),
        messages,
    })
}

fn messages_of(purpose: Purpose, protocol: &str) -> Option<Messages> {
    if protocol == TUNNEL {
        return (purpose == Purpose::Forward).then_some(Messages::Tunnel);
    }
    let encoding = match protocol {
        "base64.channel.k8s.io" | "v4.base64.channel.k8s.io" => Encoding::Base64,
        "" | "channel.k8s.io" | "v4.channel.k8s.io" => Encoding::Binary,
        "v2.channel.k8s.io" | "v3.channel.k8s.io" | "v5.channel.k8s.io"
            if purpose == Purpose::Command =>
        {
            Encoding::Binary
        }
        _ => return None,
    };
    let half_close = match protocol {
        "v5.channel.k8s.io" => HalfClose::Signalled,
        _ => HalfClose::Never,
    };
    Some(Messages::Channels {
        encoding,
        half_close,
        wording: wording_of(protocol),
    })
}

fn wording_of(protocol: &str) -> Wording {
    match protocol {
        "v4.channel.k8s.io" | "v4.base64.channel.k8s.io" | "v5.channel.k8s.io" => Wording::Object,
        _ => Wording::Sentence,
    }
}

/// The words of a header that may come in several lines, each a list.
fn words<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn base64_bytes(text: &[u8]) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn refusal(text: &str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        text: text.to_owned(),
        accepted: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    fn plan(purpose: Purpose, pairs: &[(&'static str, &str)]) -> Result<Upgrade, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        plan_upgrade(purpose, &Method::GET, &headers)
    }

    fn spdy(purpose: Purpose, offers: &[&str]) -> Result<String, StatusCode> {
        let mut pairs = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        pairs.extend(offers.iter().map(|offer| (STREAM_PROTOCOL, *offer)));
        match plan(purpose, &pairs) {
            Ok(Upgrade::Spdy { protocol, .. }) => Ok(protocol),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.status),
        }
    }

    #[test]
    fn spdy_takes_the_first_that_it_knows() {
        let chosen = |offers: &[&str]| spdy(Purpose::Command, offers);
        assert_eq!(
            chosen(&["v5.channel.k8s.io", "v4.channel.k8s.io"]).unwrap(),
            "v5.channel.k8s.io"
        );
        assert_eq!(
            chosen(&["v9.channel.k8s.io, v2.channel.k8s.io", "channel.k8s.io"]).unwrap(),
            "v2.channel.k8s.io"
        );
        assert_eq!(chosen(&[]), Err(StatusCode::BAD_REQUEST));
        assert_eq!(chosen(&[""]), Err(StatusCode::BAD_REQUEST));
        assert_eq!(chosen(&["portforward.k8s.io"]), Err(StatusCode::FORBIDDEN));
        assert!(spdy(Purpose::Forward, &["portforward.k8s.io"]).is_ok());
        assert!(spdy(Purpose::Forward, &["v4.channel.k8s.io"]).is_err());
    }

    fn websocket(purpose: Purpose, offer: Option<&str>) -> Option<(Option<String>, Messages)> {
        let mut pairs = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            KEY,
        ];
        pairs.extend(offer.map(|offer| (WEBSOCKET_PROTOCOL, offer)));
        match plan(purpose, &pairs) {
            Ok(Upgrade::WebSocket {
                protocol,
                accept,
                messages,
            }) => {
                // The example of RFC 6455, section 1.3.
                assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                Some((protocol, messages))
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    }

    #[test]
    fn websocket_knows_all_variants() {
        let form = |offer| match websocket(Purpose::Command, offer) {
            Some((
                _,
                Messages::Channels {
                    encoding,
                    half_close,
                    wording,
                },
            )) => (encoding, half_close, wording),
            other => panic!("{offer:?}: {other:?}"),
        };
        let v5 = form(Some("v5.channel.k8s.io"));
        assert_eq!(
            v5,
            (Encoding::Binary, HalfClose::Signalled, Wording::Object)
        );
        let v4 = form(Some("v4.base64.channel.k8s.io"));
        assert_eq!(v4, (Encoding::Base64, HalfClose::Never, Wording::Object));
        let none = form(None);
        assert_eq!(
            none,
            (Encoding::Binary, HalfClose::Never, Wording::Sentence)
        );
        let tunnel = websocket(Purpose::Forward, Some(TUNNEL)).unwrap();
        assert_eq!(tunnel, (Some(TUNNEL.to_owned()), Messages::Tunnel));
        assert_eq!(websocket(Purpose::Command, Some(TUNNEL)), None);
        assert!(websocket(Purpose::Forward, Some("v4.channel.k8s.io")).is_some());
        assert_eq!(websocket(Purpose::Forward, Some("v5.channel.k8s.io")), None);
        assert_eq!(websocket(Purpose::Command, Some("chat")), None);
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert!(plan(Purpose::Command, &[]).is_err());
        assert!(
            plan(
                Purpose::Command,
                &[("connection", "Upgrade"), ("upgrade", "h2c")]
            )
            .is_err()
        );
        let no_key = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
        ];
        assert!(plan(Purpose::Command, &no_key).is_err());
    }
}
