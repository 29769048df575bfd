//! Matches and verdicts as programs for the kernel's register machine.
//!
//! An nftables rule is a row of *expressions*. Each loads something into a
//! register, compares a register, or acts. The registers are 16 words of 32
//! bits, also addressable as four of 128: `R0` is words 0 to 3, `R1` words 4
//! to 7. A concatenated key is its fields laid in consecutive words:
//!
//! ```text
//!   ports-v4          | l4proto | dport |          key in words 0, 1
//!   address-ports-v6  | daddr (4 words) | l4proto | dport |
//!   what a map gives  | address (1 or 4 words) | port |
//! ```
//!
//! Read more: `net/netfilter/nf_tables_core.c::nft_do_chain`. Try
//! `nft --debug=netlink list table inet berth`, which prints these rows.

use std::net::IpAddr;

use ipnet::IpNet;
use nlink::netlink::nftables::{
    BaseChain, ChainName, CmpOp, CtKey, Expr, FibFlags, FibResult, FilterHook, LookupExpr,
    MasqExpr, MetaKey, NatHook, PayloadBase, Priority, RawExpr, Register, Rule as NlRule,
    Verdict as NlVerdict,
};

use crate::error::{Error, ErrorKind};
use crate::network::INTERFACE_NAME_LIMIT_BYTES;
use crate::rules::{Hook, IpFamily, Match, PortKey, PortMap, Rule, Verdict};

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` of `linux/netfilter.h`.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `RTN_LOCAL` of `linux/rtnetlink.h`: the route type of an own address.
const RTN_LOCAL: u32 = 2;
/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const IPS_DST_NAT: u32 = 1 << 5;

/// The hook, type and priority of a base chain; its policy is to accept.
pub(super) fn base_chain(hook: Hook) -> BaseChain {
    match hook {
        Hook::PreroutingRaw => BaseChain::filter(FilterHook::Prerouting, Priority::Raw),
        Hook::PreroutingNat => BaseChain::nat(NatHook::Prerouting, Priority::DstNat),
        Hook::OutputNat => BaseChain::nat(NatHook::Output, Priority::DstNat),
        Hook::PostroutingNat => BaseChain::nat(NatHook::Postrouting, Priority::SrcNat),
    }
}

/// Appends a rule's matches, verdict and comment.
pub(super) fn rule(built: NlRule, rule: &Rule) -> Result<NlRule, Error> {
    let mut expressions: Vec<Expr> = rule.matches.iter().flat_map(condition).collect();
    expressions.extend(verdict(&rule.verdict)?);
    let built = expressions.into_iter().fold(built, NlRule::then);
    Ok(built.comment(rule.comment))
}

pub(super) fn condition(condition: &Match) -> Vec<Expr> {
    match condition {
        Match::InputInterface(name) => interface(MetaKey::IifName, CmpOp::Eq, name),
        Match::NotInputInterface(name) => interface(MetaKey::IifName, CmpOp::Neq, name),
        Match::OutputInterface(name) => interface(MetaKey::OifName, CmpOp::Eq, name),
        Match::NotOutputInterface(name) => interface(MetaKey::OifName, CmpOp::Neq, name),
        Match::Source(net) => prefix(net, Side::Source, CmpOp::Eq),
        Match::Destination(net) => prefix(net, Side::Destination, CmpOp::Eq),
        Match::NotDestination(net) => prefix(net, Side::Destination, CmpOp::Neq),
        Match::DestinationIsLocal => vec![
            Expr::Fib {
                dreg: Register::R0,
                result: FibResult::AddrType,
                flags: FibFlags::DADDR,
            },
            // An address type is a number of the host's byte order.
            compare(CmpOp::Eq, RTN_LOCAL.to_ne_bytes().to_vec()),
        ],
        Match::ConnectionWasRewritten => vec![
            Expr::Ct {
                dreg: Register::R0,
                key: CtKey::Status,
            },
            Expr::Bitwise {
                sreg: Register::R0,
                dreg: Register::R0,
                len: 4,
                mask: IPS_DST_NAT.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            compare(CmpOp::Neq, vec![0; 4]),
        ],
    }
}

pub(super) fn compare(op: CmpOp, data: Vec<u8>) -> Expr {
    Expr::Cmp {
        sreg: Register::R0,
        op,
        data,
    }
}

/// The kernel loads a name as `IFNAMSIZ` bytes, filled up with NUL.
pub(super) fn interface(key: MetaKey, op: CmpOp, name: &str) -> Vec<Expr> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_LIMIT_BYTES + 1, 0);
    vec![
        Expr::Meta {
            dreg: Register::R0,
            key,
        },
        compare(op, bytes),
    ]
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Family guard, address load, mask, comparison.
fn prefix(net: &IpNet, side: Side, op: CmpOp) -> Vec<Expr> {
    let (family, offset, address, mask) = match (net.network(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            let offset = match side {
                Side::Source => 12,
                Side::Destination => 16,
            };
            (
                IpFamily::V4,
                offset,
                address.octets().to_vec(),
                mask.octets().to_vec(),
            )
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            let offset = match side {
                Side::Source => 8,
                Side::Destination => 24,
            };
            (
                IpFamily::V6,
                offset,
                address.octets().to_vec(),
                mask.octets().to_vec(),
            )
        }
        _ => unreachable!("a prefix and its mask are of one family"),
    };
    let len = u32::try_from(address.len()).expect("an address has at most 16 bytes");
    let mut expressions = family_is(family);
    expressions.push(Expr::Payload {
        dreg: Register::R0,
        base: PayloadBase::Network,
        offset,
        len,
    });
    if net.prefix_len() < net.max_prefix_len() {
        let xor = vec![0; mask.len()];
        expressions.push(Expr::Bitwise {
            sreg: Register::R0,
            dreg: Register::R0,
            len,
            mask,
            xor,
        });
    }
    expressions.push(compare(op, address));
    expressions
}

pub(super) fn family_is(family: IpFamily) -> Vec<Expr> {
    let number = match family {
        IpFamily::V4 => NFPROTO_IPV4,
        IpFamily::V6 => NFPROTO_IPV6,
    };
    vec![
        Expr::Meta {
            dreg: Register::R0,
            key: MetaKey::NfProto,
        },
        compare(CmpOp::Eq, vec![number]),
    ]
}

fn verdict(verdict: &Verdict) -> Result<Vec<Expr>, Error> {
    Ok(match verdict {
        Verdict::Drop => vec![Expr::Verdict(NlVerdict::Drop)],
        Verdict::Return => vec![Expr::Verdict(NlVerdict::Return)],
        Verdict::Jump(chain) => {
            let name = ChainName::new(*chain).map_err(|error| {
                Error::caused(ErrorKind::Kernel, format!("jump {chain}"), error)
            })?;
            vec![Expr::Verdict(NlVerdict::JumpTo(name))]
        }
        Verdict::Masquerade => vec![MasqExpr::new().into()],
        Verdict::RewriteBy(map) => rewrite_by(*map),
    })
}

/// Family guard, key, lookup, destination NAT. A lookup without an answer ends
/// the rule, so the packet goes on unchanged.
fn rewrite_by(map: PortMap) -> Vec<Expr> {
    let (offset, len, after_address) = match map.family {
        IpFamily::V4 => (16, 4, Register::Reg32_01),
        IpFamily::V6 => (24, 16, Register::Reg32_04),
    };
    let mut expressions = family_is(map.family);
    let (proto, port) = match (map.key, map.family) {
        (PortKey::Any, _) => (Register::Reg32_00, Register::Reg32_01),
        (PortKey::Address, IpFamily::V4) => (Register::Reg32_01, Register::Reg32_02),
        (PortKey::Address, IpFamily::V6) => (Register::Reg32_04, Register::Reg32_05),
    };
    if map.key == PortKey::Address {
        expressions.push(Expr::Payload {
            dreg: Register::R0,
            base: PayloadBase::Network,
            offset,
            len,
        });
    }
    expressions.push(Expr::Meta {
        dreg: proto,
        key: MetaKey::L4Proto,
    });
    // TCP, UDP and SCTP all have the destination port at offset 2.
    expressions.push(Expr::Payload {
        dreg: port,
        base: PayloadBase::Transport,
        offset: 2,
        len: 2,
    });
    expressions.push(
        LookupExpr::new(map.name(), Register::R0)
            .dreg(Register::R0)
            .into(),
    );
    expressions.push(destination_nat(map.family, after_address));
    expressions
}

/// Which address of a packet NAT rewrites: `enum nft_nat_types`.
#[derive(Clone, Copy)]
pub(super) enum NatSide {
    /// The source.
    Source = 0,
    /// The destination.
    Destination = 1,
}

fn destination_nat(family: IpFamily, port: Register) -> Expr {
    nat(NatSide::Destination, family, Register::R0, Some(port))
}

/// The `nat` expression with address and port from registers, which the library
/// can only make with fixed ones. Attributes: `enum nft_nat_attributes`.
pub(super) fn nat(
    side: NatSide,
    family: IpFamily,
    address: Register,
    port: Option<Register>,
) -> Expr {
    const NFTA_NAT_TYPE: u16 = 1;
    const NFTA_NAT_FAMILY: u16 = 2;
    const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
    const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
    let nfproto = match family {
        IpFamily::V4 => NFPROTO_IPV4,
        IpFamily::V6 => NFPROTO_IPV6,
    };
    let mut attributes = vec![
        (NFTA_NAT_TYPE, side as u32),
        (NFTA_NAT_FAMILY, u32::from(nfproto)),
        (NFTA_NAT_REG_ADDR_MIN, address as u32),
    ];
    attributes.extend(port.map(|port| (NFTA_NAT_REG_PROTO_MIN, port as u32)));
    let mut bytes = Vec::with_capacity(32);
    for (attribute, value) in attributes {
        // struct nlattr: length and type in host order; nf_tables wants the
        // value in network order.
        bytes.extend_from_slice(&8u16.to_ne_bytes());
        bytes.extend_from_slice(&attribute.to_ne_bytes());
        bytes.extend_from_slice(&value.to_be_bytes());
    }
    Expr::Raw(RawExpr::new("nat", bytes))
}
