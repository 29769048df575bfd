//! From which address an endpoint hears of its client: the chain `sources`.
//!
//! ```text
//!  the client is the endpoint itself ────────────────▶ masqueraded
//!  a node or pod that asked another node's port ─────▶ the address that it asked
//!  through the tunnel otherwise ─────────────────────▶ as it is
//!  to an endpoint that is neither pod nor node ──────▶ masqueraded
//! ```
//!
//! The first rule that decides is the only one: a source is rewritten once a connection.

use nlink::netlink::nftables::{
    BaseChain, CmpOp, CtDirection, CtKey, Expr, FibFlags, LookupExpr, MasqExpr, MetaKey, NatHook,
    Priority, Register,
};

use super::{
    ChainSpec, FAMILIES, RTN_LOCAL, RuleSpec, Side, address_is, based, load_address, load_door,
    masked, rule, was_rewritten, words_of,
};
use crate::nft::lower::{NatSide, compare, family_is, interface, nat};
use crate::overlay::{DEVICE, RETURN_BIT};
use crate::rules::IpFamily;
use crate::services::map_name;

/// Who keeps the source address, and who must not.
pub(super) fn sources() -> ChainSpec {
    let mut rules = Vec::new();
    for family in FAMILIES {
        let mut own_client = family_is(family);
        own_client.extend(was_rewritten());
        own_client.extend([
            load_address(family, Side::Source, 0),
            load_address(family, Side::Destination, words_of(family)),
            LookupExpr::new(map_name("hairpin", family), Register::R0).into(),
            MasqExpr::new().into(),
        ]);
        rules.push(rule(
            own_client,
            "a pod that is its own client must answer to someone else",
        ));
    }
    for family in FAMILIES {
        rules.extend(members(family));
    }
    for family in FAMILIES {
        let mut kept = family_is(family);
        kept.extend(interface(MetaKey::OifName, CmpOp::Eq, DEVICE));
        kept.push(load_address(family, Side::Source, 0));
        kept.push(nat(NatSide::Source, family, Register::R0, None));
        // A source that was decided on is not decided on again, so whatever
        // chain masquerades after this one leaves the connection alone.
        rules.push(rule(
            kept,
            "through the tunnel every source stays what it is",
        ));
    }
    for family in FAMILIES {
        let mut outside = family_is(family);
        outside.extend(was_rewritten());
        outside.extend(load_door(family, 0));
        outside.push(LookupExpr::new(map_name("foreign", family), Register::R0).into());
        outside.push(MasqExpr::new().into());
        rules.push(rule(
            outside,
            "an endpoint outside would answer its client past this node",
        ));
    }
    based(
        "sources",
        BaseChain::nat(NatHook::Postrouting, Priority::Custom(95)),
        rules,
    )
}

/// Nodes and pods that ask another node's port. The endpoint may be on the client's own
/// node: there a node's kernel takes nothing from the tunnel that bears its own address,
/// and a pod's answer to its neighbour takes the bridge, past the node that was asked and
/// must put its address back. So they come from the node that was asked, by the address
/// that they asked; to masquerade would take any address that this node has, as that of `lo`
/// for names, which every node has.
fn members(family: IpFamily) -> [RuleSpec; 2] {
    let onwards = || {
        let mut expressions = family_is(family);
        expressions.extend(interface(MetaKey::OifName, CmpOp::Eq, DEVICE));
        expressions.extend(was_rewritten());
        expressions
    };
    let mut node = onwards();
    node.push(load_address(family, Side::Source, 0));
    node.push(LookupExpr::new(map_name("nodes", family), Register::R0).into());
    // What this machine itself asks has its answers already.
    node.extend(address_is(FibFlags::SADDR, CmpOp::Neq, RTN_LOCAL));
    node.extend(from_the_asked(family));
    let mut through_peer = onwards();
    through_peer.extend([
        Expr::Ct {
            dreg: Register::R0,
            key: CtKey::Mark,
        },
        masked(RETURN_BIT),
        compare(CmpOp::Neq, vec![0; 4]),
    ]);
    through_peer.extend(from_the_asked(family));
    let reason = "a client of the cluster may be its endpoint's neighbour";
    [rule(node, reason), rule(through_peer, reason)]
}

/// The source becomes the address that the client asked.
fn from_the_asked(family: IpFamily) -> [Expr; 2] {
    let asked = Expr::CtDirectional {
        dreg: Register::R0,
        key: match family {
            IpFamily::V4 => CtKey::DstIp,
            IpFamily::V6 => CtKey::DstIp6,
        },
        direction: CtDirection::Original,
    };
    [asked, nat(NatSide::Source, family, Register::R0, None)]
}
