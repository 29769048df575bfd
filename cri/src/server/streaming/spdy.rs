//! SPDY/3.1, the server's side: many streams over one connection.
//!
//! HTTP/2 came out of SPDY, and the web forgot it; kubelet, kubectl and crictl
//! still speak it for exec, attach and port-forward. What we use of it:
//!
//! ```text
//! client                                server
//!   │ SYN_STREAM 1 {streamtype: error}    │
//!   ├────────────────────────────────────▶│  a stream has two directions,
//!   │                     SYN_REPLY 1 {}  │  each ends by a frame with FIN
//!   │◀────────────────────────────────────┤
//!   │ SYN_STREAM 3 {streamtype: stdout} … │
//!   │ PING 1                              │  sent back as it is
//!   │◀═══════════════ DATA 3, DATA 3+FIN ═╡
//!   │◀════════════════════════════ GOAWAY ╡  and then the end of the socket
//! ```
//!
//! Of its flow control we use nothing: the one client library that matters never
//! sends WINDOW_UPDATE and ignores ours, so a server that kept to the windows
//! would stop after 64 KiB. Back-pressure is not reading the socket.

/// Exec and attach.
pub mod command;
/// One connection: its two tasks and its streams.
pub mod connection;
/// The words both ends know before the first header is sent.
pub mod dictionary;
/// Port-forward.
pub mod forward;
/// Frames: bytes to values and back.
pub mod frame;
/// Header blocks: names and values, compressed.
pub mod headers;
