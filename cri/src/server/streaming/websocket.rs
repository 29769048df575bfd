//! WebSocket: channels in messages, or SPDY in them.
//!
//! ```text
//! binary message   ┌───┬──────────────┐    0 stdin   1 stdout   2 stderr
//!                  │ n │ bytes        │    3 error   4 resize
//!                  └───┴──────────────┘    255 N: the client ends channel N (v5)
//! text message     '0'+n, then base64      (…base64.channel.k8s.io)
//! port-forward     2n data, 2n+1 errors of the n-th port; each begins with the
//!                  port, as two bytes, the low one first (without SPDY)
//! ```
//!
//! Read more: RFC 6455; Kubernetes' KEP-4006 for v5 and the tunnel.

/// Exec and attach.
pub mod command;
/// One connection: its two tasks and its channels.
pub mod connection;
/// Port-forward without SPDY.
pub mod forward;
/// SPDY's frames in binary messages.
pub mod tunnel;
