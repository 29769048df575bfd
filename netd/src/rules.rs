//! The nftables rules of a network, as data that prints as `nft` text.
//!
//! The table is few rules and four maps. A host port is one *element* of a
//! map, so opening one costs a single message however many exist, and a packet
//! finds its pod by one hash lookup: no rule per pod, no walk.
//!
//! ```text
//!   from outside ─ prerouting ─ is it for this machine? ─ host-ports ─ dnat
//!   from here ──── output ───── is it for this machine? ─ host-ports ─ dnat
//!   leaving ────── postrouting ─ masquerade where replies would get lost
//! ```
//!
//! Read more: nft(8); `man 8 nft`, section "MAPS"; nf_tables in the kernel's
//! `net/netfilter/nft_nat.c`. Try: `nft list table inet berth`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// A whole table of family `inet`, without the elements of its maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table's name.
    pub table: String,
    /// For the person who lists it; also tells whether the layout is current.
    pub comment: String,
    /// The maps that host ports are elements of.
    pub maps: Vec<PortMap>,
    /// The chains, each before those that jump to it.
    pub chains: Vec<Chain>,
}

/// One of the four maps from a host port to a pod's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMap {
    /// The family of the addresses.
    pub family: IpFamily,
    /// What the key is.
    pub key: PortKey,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// What a host port is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortKey {
    /// `daddr . l4proto . dport`: ports of one host address.
    Address,
    /// `l4proto . dport`: ports of every host address.
    Any,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where packets enter it; none for one that is jumped to.
    pub hook: Option<Hook>,
    /// Its rules, first match first.
    pub rules: Vec<Rule>,
}

/// The hooks in use, each with the chain type and priority that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `type filter hook prerouting priority raw`: before any address is rewritten.
    PreroutingRaw,
    /// `type nat hook prerouting priority dstnat`.
    PreroutingNat,
    /// `type nat hook output priority dstnat`.
    OutputNat,
    /// `type nat hook postrouting priority srcnat`.
    PostroutingNat,
}

/// Matches, then a verdict, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
    /// Why the rule is there, shown by `nft list`; at most 127 bytes.
    pub comment: &'static str,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It came in by this interface.
    InputInterface(String),
    /// It came in by another interface.
    NotInputInterface(String),
    /// It goes out by this interface.
    OutputInterface(String),
    /// It goes out by another interface.
    NotOutputInterface(String),
    /// Its source lies in the prefix.
    Source(IpNet),
    /// Its destination lies in the prefix.
    Destination(IpNet),
    /// Its destination, of the prefix's family, lies elsewhere.
    NotDestination(IpNet),
    /// Its destination is an address of this machine (`RTN_LOCAL`).
    DestinationIsLocal,
    /// Its connection had its destination rewritten.
    ConnectionWasRewritten,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It vanishes.
    Drop,
    /// The calling chain goes on; a base chain accepts.
    Return,
    /// Another chain is walked.
    Jump(&'static str),
    /// Its source becomes the address of the interface it leaves by.
    Masquerade,
    /// Its destination becomes what the map holds; nothing if the map holds nothing.
    RewriteBy(PortMap),
}

/// One host port in one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortElement {
    /// The map it belongs to.
    pub map: PortMap,
    /// The host's address, for maps keyed by address.
    pub host_address: Option<IpAddr>,
    /// The protocol's number.
    pub protocol_number: u8,
    /// The port on the host.
    pub host_port: u16,
    /// The pod's address.
    pub pod_address: IpAddr,
    /// The port in the pod.
    pub pod_port: u16,
}

impl Ruleset {
    /// How many rules all chains have together.
    pub fn rule_count(&self) -> usize {
        self.chains.iter().map(|chain| chain.rules.len()).sum()
    }
}

impl PortMap {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self {
            family: IpFamily::V4,
            key: PortKey::Address,
        },
        Self {
            family: IpFamily::V4,
            key: PortKey::Any,
        },
        Self {
            family: IpFamily::V6,
            key: PortKey::Address,
        },
        Self {
            family: IpFamily::V6,
            key: PortKey::Any,
        },
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match (self.family, self.key) {
            (IpFamily::V4, PortKey::Address) => "address-ports-v4",
            (IpFamily::V4, PortKey::Any) => "ports-v4",
            (IpFamily::V6, PortKey::Address) => "address-ports-v6",
            (IpFamily::V6, PortKey::Any) => "ports-v6",
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table)?;
        writeln!(f, "\tcomment \"{}\"", self.comment)?;
        for map in &self.maps {
            writeln!(f, "\n{map}")?;
        }
        for chain in &self.chains {
            writeln!(f, "\n{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.family {
            IpFamily::V4 => "ipv4_addr",
            IpFamily::V6 => "ipv6_addr",
        };
        let key = match self.key {
            PortKey::Address => format!("{address} . inet_proto . inet_service"),
            PortKey::Any => "inet_proto . inet_service".to_owned(),
        };
        writeln!(f, "\tmap {} {{", self.name())?;
        writeln!(f, "\t\ttype {key} : {address} . inet_service")?;
        write!(f, "\t}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            writeln!(f, "\t\t{hook}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        write!(f, "\t}}")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreroutingRaw => "type filter hook prerouting priority raw",
            Self::PreroutingNat => "type nat hook prerouting priority dstnat",
            // `dstnat` is a name of -100 only in prerouting.
            Self::OutputNat => "type nat hook output priority -100",
            Self::PostroutingNat => "type nat hook postrouting priority srcnat",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{} comment \"{}\"", self.verdict, self.comment)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |net: &IpNet| if net.addr().is_ipv4() { "ip" } else { "ip6" };
        match self {
            Self::InputInterface(name) => write!(f, "iifname \"{name}\""),
            Self::NotInputInterface(name) => write!(f, "iifname != \"{name}\""),
            Self::OutputInterface(name) => write!(f, "oifname \"{name}\""),
            Self::NotOutputInterface(name) => write!(f, "oifname != \"{name}\""),
            Self::Source(net) => write!(f, "{} saddr {net}", word(net)),
            Self::Destination(net) => write!(f, "{} daddr {net}", word(net)),
            Self::NotDestination(net) => write!(f, "{} daddr != {net}", word(net)),
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::ConnectionWasRewritten => f.write_str("ct status dnat"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::RewriteBy(map) => {
                let (word, proto) = match map.family {
                    IpFamily::V4 => ("ip", "ipv4"),
                    IpFamily::V6 => ("ip6", "ipv6"),
                };
                write!(f, "meta nfproto {proto} dnat {word} to ")?;
                if map.key == PortKey::Address {
                    write!(f, "{word} daddr . ")?;
                }
                write!(f, "meta l4proto . th dport map @{}", map.name())
            }
        }
    }
}

impl fmt::Display for PortElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{ ", self.map.name())?;
        if let Some(address) = self.host_address {
            write!(f, "{address} . ")?;
        }
        let protocol = match self.protocol_number {
            6 => "tcp",
            17 => "udp",
            _ => "sctp",
        };
        write!(
            f,
            "{protocol} . {} : {} . {} }}",
            self.host_port, self.pod_address, self.pod_port
        )
    }
}

/// Which rules a network needs, from its configuration alone.
pub mod plan;
