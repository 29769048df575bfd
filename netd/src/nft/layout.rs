//! The tables `berth-services` and `berth-return`: their maps, chains and rules.
//!
//! What is here never changes while netd runs; what changes are elements
//! (`nft/elements.rs`) and, with a number of endpoints that no service had
//! before, one more chain of two rules at most.
//!
//! ```text
//!  hook         priority  chain
//!  prerouting   raw  -300 guard          tunnelled packets: from nodes only, untracked
//!  prerouting       -150 arrivals        a connection through a peer gets that peer's mark
//!  prerouting       -105 to-services     ─┐ services ─▶ pick-…  new destination
//!  output           -105 from-host       ─┘
//!  prerouting        -90 after-services  ─┐ served? nobody serves: refuse
//!  output            -90 host-after      ─┘
//!  output   route   -150 answers         the host's own answers go back by the peer
//!  postrouting        95 sources         who keeps the source address, and who must not
//!  egress of berth-vx    return          (netdev) the mark becomes the peer's MAC address
//! ```

use ipnet::IpNet;
use nlink::netlink::nftables::{
    BaseChain, ChainName, CmpOp, CtKey, DynsetExpr, DynsetOp, Expr, Family, FibFlags, FibResult,
    FilterHook, LookupExpr, MetaKey, NatHook, NumgenKind, PayloadBase, PayloadCsum, Priority,
    Register, Set, SetDataType, SetKeyType, Verdict as NlVerdict,
};

use crate::nft::lower::{NatSide, compare, condition, family_is, interface, nat};
use crate::overlay::{DEVICE, RETURN_BIT};
use crate::rules::{IpFamily, Match};
use crate::services::{At, Pick, TABLE, map_name};
use sources::sources;

/// From which address an endpoint hears of its client.
mod sources;

/// The table of family `netdev`.
pub(crate) const RETURN_TABLE_NAME: &str = "berth-return";

/// What the fixed rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Ranges of services' addresses: what is in them and has no door is refused.
    pub service_ranges: Vec<IpNet>,
    /// The tunnel's UDP port.
    pub tunnel_port: u16,
}

/// A chain as it goes to the kernel.
pub(super) struct ChainSpec {
    pub name: String,
    pub base: Option<BaseChain>,
    pub rules: Vec<RuleSpec>,
}

/// A rule: its expressions and why it is there.
pub(super) struct RuleSpec {
    pub expressions: Vec<Expr>,
    pub comment: &'static str,
}

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// Room for clients that are kept with their endpoints.
const AFFINITY_SIZE: u32 = 262_144;

/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const CT_STATE_NEW: u32 = 1 << 3;
/// `IP_CT_DIR_REPLY`.
const DIRECTION_REPLY: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `NFT_REJECT_TCP_RST` and `NFT_REJECT_ICMPX_UNREACH` of `linux/netfilter/nf_tables.h`.
const REJECT_TCP_RESET: u32 = 1;
const REJECT_ICMPX: u32 = 2;
/// `NFT_REJECT_ICMPX_PORT_UNREACH`.
const ICMPX_PORT_UNREACHABLE: u8 = 1;

/// The maps and sets of the table.
pub(super) fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for family in FAMILIES {
        let address = || address_type(family);
        let door = || vec![address(), SetKeyType::InetProto, SetKeyType::InetService];
        let node_door = || vec![SetKeyType::InetProto, SetKeyType::InetService];
        let numbered = |mut key: Vec<SetKeyType>| {
            key.push(SetKeyType::Mark);
            key
        };
        let target =
            || SetDataType::Value(SetKeyType::Concat(vec![address(), SetKeyType::InetService]));
        let named = |stem: &str, key: Vec<SetKeyType>| {
            Set::new(TABLE, &map_name(stem, family))
                .family(Family::Inet)
                .key_type(SetKeyType::Concat(key))
        };
        sets.push(named("services", door()).vmap());
        sets.push(named("endpoints", numbered(door())).map(target()));
        sets.push(named("node-ports", node_door()).vmap());
        sets.push(named("node-endpoints", numbered(node_door())).map(target()));
        sets.push(named("refused", door()).vmap());
        sets.push(named("node-refused", node_door()).vmap());
        sets.push(named("hairpin", vec![address(), address()]));
        sets.push(named("foreign", door()));
        let mut sticky = vec![address()];
        sticky.extend(door());
        sets.push(
            named("affinity", sticky)
                .map(SetDataType::Value(SetKeyType::Mark))
                .dynamic()
                .per_element_timeouts()
                .size(AFFINITY_SIZE),
        );
        let single = |stem: &str| {
            Set::new(TABLE, &map_name(stem, family))
                .family(Family::Inet)
                .key_type(address())
        };
        sets.push(single("nodes"));
        sets.push(single("node-marks").map(SetDataType::Value(SetKeyType::Mark)));
    }
    sets.push(
        Set::new(TABLE, "peer-marks")
            .family(Family::Inet)
            .key_type(SetKeyType::EtherAddr)
            .map(SetDataType::Value(SetKeyType::Mark)),
    );
    sets
}

/// The map of the table of family `netdev`.
pub(super) fn return_set() -> Set {
    Set::new(RETURN_TABLE_NAME, "peer-macs")
        .family(Family::Netdev)
        .key_type(SetKeyType::Mark)
        .map(SetDataType::Value(SetKeyType::EtherAddr))
}

/// The chains of the table, each before those that go to it.
pub(super) fn chains(layout: &Layout) -> Vec<ChainSpec> {
    vec![
        refuse(),
        services(),
        after(layout),
        guard(layout),
        based(
            "guard-output",
            BaseChain::filter(FilterHook::Output, Priority::Raw),
            vec![untracked(layout)],
        ),
        arrivals(),
        based(
            "answers",
            BaseChain::route(Priority::Mangle),
            vec![answer_rule(Vec::new())],
        ),
        based(
            "to-services",
            BaseChain::nat(NatHook::Prerouting, Priority::Custom(-105)),
            vec![go("services", "a first packet from elsewhere")],
        ),
        based(
            "from-host",
            BaseChain::nat(NatHook::Output, Priority::Custom(-105)),
            vec![go("services", "a first packet from this machine")],
        ),
        after_prerouting(),
        based(
            "host-after",
            BaseChain::filter(FilterHook::Output, Priority::Custom(-90)),
            vec![go("after-services", "what got no endpoint")],
        ),
        sources(),
    ]
}

/// The chain of the table of family `netdev`.
pub(super) fn return_chain() -> ChainSpec {
    let hook = FilterHook::Egress(nlink::netlink::nftables::Devices::new(DEVICE));
    let mut to_peer = vec![
        Expr::Meta {
            dreg: Register::R0,
            key: MetaKey::Mark,
        },
        LookupExpr::new("peer-macs", Register::R0)
            .dreg(Register::R0)
            .into(),
        Expr::PayloadSet {
            sreg: Register::R0,
            base: PayloadBase::LinkLayer,
            offset: 0,
            len: 6,
            csum: PayloadCsum::None,
            csum_offset: 0,
            l4_pseudo_header: false,
        },
    ];
    // The tunnel's own datagram inherits the mark, and with it would be led
    // into the tunnel again.
    to_peer.extend([
        Expr::Immediate {
            dreg: Register::R0,
            data: vec![0; 4],
        },
        Expr::MetaSet {
            key: MetaKey::Mark,
            sreg: Register::R0,
        },
    ]);
    based(
        "return",
        BaseChain::filter(hook, Priority::Filter),
        vec![rule(
            to_peer,
            "an answer goes to the peer that its connection came through",
        )],
    )
}

/// A chain that picks one of some endpoints.
pub(super) fn pick_chain(pick: &Pick) -> ChainSpec {
    let regs = PickRegisters::of(pick.family);
    let mut rules = Vec::new();
    if let Some(seconds) = pick.affinity_seconds {
        rules.push(rule(
            sticky(pick, &regs, seconds),
            "a client stays with its number, and its time begins anew",
        ));
    }
    // With affinity it comes to this one only when there is no room to remember.
    let mut picked = family_is(pick.family);
    picked.extend(regs.load_door(pick.at));
    picked.push(numgen(pick, regs.after_door(pick.at)));
    picked.extend(regs.rewrite(pick));
    rules.push(rule(picked, "one of the endpoints at random"));
    ChainSpec {
        name: pick.chain(),
        base: None,
        rules,
    }
}

/// `update` adds the client with a random number, or finds it and lets it have
/// the number that it has; so the look-up after it always finds one.
///
/// The number takes a detour by the packet's priority: nft 1.0.6 fails an
/// assertion when it lists a rule where what one map gives is part of the key of
/// another. The priority matters to queueing disciplines only, and it is that of
/// a connection's first packet.
fn sticky(pick: &Pick, regs: &PickRegisters, seconds: u32) -> Vec<Expr> {
    let mut expressions = family_is(pick.family);
    expressions.extend(regs.load_client());
    expressions.push(numgen(pick, regs.number));
    let affinity = map_name("affinity", pick.family);
    let timeout = std::time::Duration::from_secs(seconds.into());
    expressions.push(
        DynsetExpr::new(DynsetOp::Update, affinity.clone(), Register::R0)
            .sreg_data(regs.number)
            .timeout(timeout)
            .into(),
    );
    expressions.push(
        LookupExpr::new(affinity, Register::R0)
            .dreg(regs.number)
            .into(),
    );
    expressions.push(Expr::MetaSet {
        key: MetaKey::Priority,
        sreg: regs.number,
    });
    expressions.extend(regs.load_door(pick.at));
    expressions.push(Expr::Meta {
        dreg: regs.after_door(pick.at),
        key: MetaKey::Priority,
    });
    expressions.extend(regs.rewrite(pick));
    expressions
}

fn numgen(pick: &Pick, into: Register) -> Expr {
    Expr::Numgen {
        dreg: into,
        kind: NumgenKind::Random,
        modulus: u32::from(pick.count),
        offset: 0,
    }
}

/// Where a pick chain keeps what, in words of 32 bits.
///
/// ```text
///   IPv4   saddr 0 | daddr 1 | proto 2 | dport 3      target 8, 9
///   IPv6   saddr 0 | daddr 4 | proto 8 | dport 9      target 10 … 13, 14
///          daddr 0 | proto   | dport   | number       (the key of endpoints)
/// ```
struct PickRegisters {
    words: usize,
    target: Register,
    target_port: Register,
    number: Register,
}

impl PickRegisters {
    fn of(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self {
                words: 1,
                target: word(8),
                target_port: word(9),
                number: word(15),
            },
            IpFamily::V6 => Self {
                words: 4,
                target: word(10),
                target_port: word(14),
                number: word(15),
            },
        }
    }

    fn family(&self) -> IpFamily {
        if self.words == 1 {
            IpFamily::V4
        } else {
            IpFamily::V6
        }
    }

    fn load_door(&self, at: At) -> Vec<Expr> {
        match at {
            At::Service => load_door(self.family(), 0),
            At::Node => load_node_door(0),
        }
    }

    fn after_door(&self, at: At) -> Register {
        match at {
            At::Service => word(self.words + 2),
            At::Node => word(2),
        }
    }

    fn load_client(&self) -> Vec<Expr> {
        let mut expressions = vec![load_address(self.family(), Side::Source, 0)];
        expressions.extend(load_door(self.family(), self.words));
        expressions
    }

    /// From the endpoint's key to the new destination.
    fn rewrite(&self, pick: &Pick) -> [Expr; 2] {
        let stem = match pick.at {
            At::Service => "endpoints",
            At::Node => "node-endpoints",
        };
        let endpoint = LookupExpr::new(map_name(stem, pick.family), Register::R0);
        [
            endpoint.dreg(self.target).into(),
            nat(
                NatSide::Destination,
                pick.family,
                self.target,
                Some(self.target_port),
            ),
        ]
    }
}

fn refuse() -> ChainSpec {
    let reset = vec![
        Expr::Meta {
            dreg: Register::R0,
            key: MetaKey::L4Proto,
        },
        compare(CmpOp::Eq, vec![TCP]),
        Expr::Reject {
            reject_type: REJECT_TCP_RESET,
            icmp_code: 0,
        },
    ];
    let unreachable = vec![Expr::Reject {
        reject_type: REJECT_ICMPX,
        icmp_code: ICMPX_PORT_UNREACHABLE,
    }];
    plain(
        "refuse",
        vec![
            rule(reset, "a client should not wait for nobody"),
            rule(unreachable, "nor without TCP"),
        ],
    )
}

fn services() -> ChainSpec {
    let mut rules = Vec::new();
    for family in FAMILIES {
        rules.push(verdict_by_door("services", family, Vec::new()));
    }
    for loopback in ["127.0.0.0/8", "::1/128"] {
        let net = loopback.parse().expect("a prefix that is written here");
        let mut leave = condition(&Match::Destination(net));
        leave.push(Expr::Verdict(NlVerdict::Return));
        rules.push(rule(leave, "an endpoint cannot answer a loopback address"));
    }
    for family in FAMILIES {
        rules.push(verdict_by_node_door("node-ports", family));
    }
    plain("services", rules)
}

/// Runs after the destination was rewritten, so that what is still addressed to
/// a service found no endpoint.
fn after(layout: &Layout) -> ChainSpec {
    let mut rules = Vec::new();
    for family in FAMILIES {
        rules.push(verdict_by_door("refused", family, Vec::new()));
        rules.push(verdict_by_node_door("node-refused", family));
    }
    for range in &layout.service_ranges {
        let mut nothing_there = condition(&Match::Destination(*range));
        nothing_there.extend(destination_is(CmpOp::Neq, RTN_LOCAL));
        nothing_there.push(jump_to("refuse"));
        rules.push(rule(nothing_there, "no service has this address and port"));
    }
    plain("after-services", rules)
}

/// `RTN_LOCAL` of `linux/rtnetlink.h`.
const RTN_LOCAL: u32 = 2;

fn destination_is(op: CmpOp, kind: u32) -> Vec<Expr> {
    address_is(FibFlags::DADDR, op, kind)
}

fn address_is(side: FibFlags, op: CmpOp, kind: u32) -> Vec<Expr> {
    vec![
        Expr::Fib {
            dreg: Register::R0,
            result: FibResult::AddrType,
            flags: side,
        },
        compare(op, kind.to_ne_bytes().to_vec()),
    ]
}

/// Whoever can send to a node could otherwise put packets into pods' network
/// with any source: VXLAN has no authentication (RFC 7348, section 7).
fn guard(layout: &Layout) -> ChainSpec {
    let mut rules = Vec::new();
    for family in FAMILIES {
        let mut stranger = family_is(family);
        stranger.extend(tunnelled(layout));
        stranger.extend(destination_is(CmpOp::Eq, RTN_LOCAL));
        stranger.push(load_address(family, Side::Source, 0));
        stranger.push(
            LookupExpr::new(map_name("nodes", family), Register::R0)
                .invert()
                .into(),
        );
        stranger.push(Expr::Verdict(NlVerdict::Drop));
        rules.push(rule(stranger, "the tunnel takes packets of nodes only"));
    }
    rules.push(untracked(layout));
    based(
        "guard",
        BaseChain::filter(FilterHook::Prerouting, Priority::Raw),
        rules,
    )
}

/// No rule of anybody may give the tunnel's datagrams another source, and their
/// state would be one entry that all packets fight for.
fn untracked(layout: &Layout) -> RuleSpec {
    let mut expressions = tunnelled(layout);
    expressions.push(Expr::Notrack);
    rule(
        expressions,
        "the tunnel's own datagrams are never rewritten",
    )
}

fn tunnelled(layout: &Layout) -> Vec<Expr> {
    vec![
        Expr::Meta {
            dreg: Register::R0,
            key: MetaKey::L4Proto,
        },
        compare(CmpOp::Eq, vec![UDP]),
        Expr::Payload {
            dreg: Register::R0,
            base: PayloadBase::Transport,
            offset: 2,
            len: 2,
        },
        compare(CmpOp::Eq, layout.tunnel_port.to_be_bytes().to_vec()),
    ]
}

fn arrivals() -> ChainSpec {
    let mut came_through = interface(MetaKey::IifName, CmpOp::Eq, DEVICE);
    came_through.extend([
        Expr::Ct {
            dreg: Register::R0,
            key: CtKey::State,
        },
        masked(CT_STATE_NEW),
        compare(CmpOp::Neq, vec![0; 4]),
        // The inner frame's source: the tunnel end of the peer.
        Expr::Payload {
            dreg: Register::R0,
            base: PayloadBase::LinkLayer,
            offset: 6,
            len: 6,
        },
        LookupExpr::new("peer-marks", Register::R0)
            .dreg(Register::R0)
            .into(),
        Expr::CtSet {
            key: CtKey::Mark,
            sreg: Register::R0,
        },
    ]);
    based(
        "arrivals",
        BaseChain::filter(FilterHook::Prerouting, Priority::Mangle),
        vec![
            rule(came_through, "this connection came through a peer"),
            answer_rule(interface(MetaKey::IifName, CmpOp::Neq, DEVICE)),
        ],
    )
}

/// Answers carry the mark that their connection has.
fn answer_rule(mut expressions: Vec<Expr>) -> RuleSpec {
    expressions.extend([
        Expr::Ct {
            dreg: Register::R0,
            key: CtKey::Direction,
        },
        compare(CmpOp::Eq, vec![DIRECTION_REPLY]),
        Expr::Ct {
            dreg: Register::R0,
            key: CtKey::Mark,
        },
        masked(RETURN_BIT),
        compare(CmpOp::Neq, vec![0; 4]),
        Expr::Ct {
            dreg: Register::R0,
            key: CtKey::Mark,
        },
        Expr::MetaSet {
            key: MetaKey::Mark,
            sreg: Register::R0,
        },
    ]);
    rule(expressions, "its answers go back by that peer")
}

fn after_prerouting() -> ChainSpec {
    let mut rules = vec![go("after-services", "what got no endpoint")];
    for family in FAMILIES {
        let mut to_node = family_is(family);
        to_node.extend(interface(MetaKey::IifName, CmpOp::Neq, DEVICE));
        to_node.extend(was_rewritten());
        to_node.extend([
            load_address(family, Side::Destination, 0),
            LookupExpr::new(map_name("node-marks", family), Register::R0)
                .dreg(Register::R0)
                .into(),
            Expr::MetaSet {
                key: MetaKey::Mark,
                sreg: Register::R0,
            },
        ]);
        rules.push(rule(
            to_node,
            "an endpoint that is another node itself: through the tunnel, and back",
        ));
    }
    based(
        "after-prerouting",
        BaseChain::filter(FilterHook::Prerouting, Priority::Custom(-90)),
        rules,
    )
}

fn was_rewritten() -> Vec<Expr> {
    condition(&Match::ConnectionWasRewritten)
}

fn verdict_by_door(stem: &str, family: IpFamily, mut expressions: Vec<Expr>) -> RuleSpec {
    expressions.extend(family_is(family));
    expressions.extend(load_door(family, 0));
    expressions.push(
        LookupExpr::new(map_name(stem, family), Register::R0)
            .dreg(Register::Verdict)
            .into(),
    );
    rule(expressions, "by address and port")
}

fn verdict_by_node_door(stem: &str, family: IpFamily) -> RuleSpec {
    let mut expressions = family_is(family);
    expressions.extend(destination_is(CmpOp::Eq, RTN_LOCAL));
    expressions.extend(load_node_door(0));
    expressions.push(
        LookupExpr::new(map_name(stem, family), Register::R0)
            .dreg(Register::Verdict)
            .into(),
    );
    rule(expressions, "by the port of a node")
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn load_address(family: IpFamily, side: Side, at: usize) -> Expr {
    let (offset, len) = match (family, side) {
        (IpFamily::V4, Side::Source) => (12, 4),
        (IpFamily::V4, Side::Destination) => (16, 4),
        (IpFamily::V6, Side::Source) => (8, 16),
        (IpFamily::V6, Side::Destination) => (24, 16),
    };
    Expr::Payload {
        dreg: word(at),
        base: PayloadBase::Network,
        offset,
        len,
    }
}

fn load_door(family: IpFamily, at: usize) -> Vec<Expr> {
    let mut expressions = vec![load_address(family, Side::Destination, at)];
    expressions.extend(load_node_door(at + words_of(family)));
    expressions
}

fn load_node_door(at: usize) -> Vec<Expr> {
    vec![
        Expr::Meta {
            dreg: word(at),
            key: MetaKey::L4Proto,
        },
        // TCP, UDP and SCTP all have the destination port at offset 2.
        Expr::Payload {
            dreg: word(at + 1),
            base: PayloadBase::Transport,
            offset: 2,
            len: 2,
        },
    ]
}

fn masked(mask: u32) -> Expr {
    Expr::Bitwise {
        sreg: Register::R0,
        dreg: Register::R0,
        len: 4,
        mask: mask.to_ne_bytes().to_vec(),
        xor: vec![0; 4],
    }
}

fn words_of(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 4,
    }
}

fn word(number: usize) -> Register {
    Register::word(number).expect("the keys of this file fit into 16 words")
}

fn address_type(family: IpFamily) -> SetKeyType {
    match family {
        IpFamily::V4 => SetKeyType::Ipv4Addr,
        IpFamily::V6 => SetKeyType::Ipv6Addr,
    }
}

fn jump_to(chain: &str) -> Expr {
    let name = ChainName::new(chain).expect("a chain's name that is written in this file");
    Expr::Verdict(NlVerdict::JumpTo(name))
}

fn go(chain: &str, comment: &'static str) -> RuleSpec {
    rule(vec![jump_to(chain)], comment)
}

fn rule(expressions: Vec<Expr>, comment: &'static str) -> RuleSpec {
    RuleSpec {
        expressions,
        comment,
    }
}

fn plain(name: &str, rules: Vec<RuleSpec>) -> ChainSpec {
    ChainSpec {
        name: name.to_owned(),
        base: None,
        rules,
    }
}

fn based(name: &str, base: BaseChain, rules: Vec<RuleSpec>) -> ChainSpec {
    ChainSpec {
        name: name.to_owned(),
        base: Some(base),
        rules,
    }
}
