//! The addresses of each node's pods: equal parts of the cluster's ranges.
//!
//! A part belongs to a node as long as the Node exists and says so in `spec.podCIDRs`; nothing
//! else is written down. The first part that nobody has is given, so parts come back into use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use k8s_openapi::api::core::v1::Node;

/// A range of addresses: `10.210.3.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first address.
    pub first: IpAddr,
    /// How many leading bits all of its addresses share.
    pub length: u8,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range; expected ADDRESS/BITS as in 10.210.0.0/16");
        let (first, length) = text.split_once('/').ok_or_else(wrong)?;
        let first: IpAddr = first.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let range = Range { first, length };
        if length > range.width() || range.number() & (range.size() - 1) != 0 {
            return Err(wrong());
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.first, self.length)
    }
}

impl Range {
    fn width(self) -> u8 {
        if self.first.is_ipv4() { 32 } else { 128 }
    }

    fn number(self) -> u128 {
        match self.first {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        }
    }

    /// How many addresses; of all of IPv6, one less.
    fn size(self) -> u128 {
        1_u128
            .checked_shl(u32::from(self.width() - self.length))
            .unwrap_or(u128::MAX)
    }

    fn last(self) -> u128 {
        self.number().saturating_add(self.size() - 1)
    }

    fn overlaps(self, other: Range) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.number() <= other.last()
            && other.number() <= self.last()
    }

    /// The first part of this length that overlaps none of those taken.
    fn free_part(self, length: u8, taken: &[Range]) -> Option<Range> {
        let mut number = self.number();
        while number <= self.last() {
            let first = match self.first {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).ok()?)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
            };
            let part = Range { first, length };
            match taken.iter().find(|taken| taken.overlaps(part)) {
                None => return Some(part),
                // On behind what is in the way, at the next multiple of the size.
                Some(taken) => {
                    let behind = taken.last().max(part.last()).checked_add(1)?;
                    number = behind.checked_next_multiple_of(part.size())?;
                }
            }
        }
        None
    }
}

/// A range of the cluster, and how long the prefix of a node's part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterRange {
    /// All of it.
    pub range: Range,
    /// The length of a part.
    pub node_length: u8,
}

impl Default for ClusterRange {
    fn default() -> Self {
        let first = IpAddr::V4(Ipv4Addr::new(10, 210, 0, 0));
        Self {
            range: Range { first, length: 16 },
            node_length: 24,
        }
    }
}

/// The ranges that a node has.
pub fn of_node(node: &Node) -> Vec<Range> {
    let spec = node.spec.as_ref();
    let many = spec
        .and_then(|spec| spec.pod_cidrs.clone())
        .unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.clone());
    let mut ranges: Vec<Range> = Vec::new();
    for range in many
        .iter()
        .chain(one.iter())
        .filter_map(|text| text.parse().ok())
    {
        if !ranges.contains(&range) {
            ranges.push(range);
        }
    }
    ranges
}

/// A part of each of the cluster's ranges; none if one of them is used up.
pub fn plan(cluster: &[ClusterRange], taken: &[Range]) -> Option<Vec<Range>> {
    let part = |of: &ClusterRange| of.range.free_part(of.node_length, taken);
    cluster
        .iter()
        .map(part)
        .collect::<Option<Vec<_>>>()
        .filter(|parts| !parts.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{ClusterRange, Range, plan};

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    fn next(taken: &[&str]) -> Option<String> {
        let taken: Vec<Range> = taken.iter().map(|text| range(text)).collect();
        let small = ClusterRange {
            range: range("10.210.0.0/22"),
            node_length: 24,
        };
        plan(&[small], &taken).map(|parts| parts[0].to_string())
    }

    #[test]
    fn the_first_free_part_is_given() {
        assert_eq!(next(&[]).as_deref(), Some("10.210.0.0/24"));
        assert_eq!(
            next(&["10.210.0.0/24", "10.210.2.0/24"]).as_deref(),
            Some("10.210.1.0/24")
        );
        assert_eq!(next(&["10.210.0.0/23"]).as_deref(), Some("10.210.2.0/24"));
        assert_eq!(next(&["10.210.0.128/25"]).as_deref(), Some("10.210.1.0/24"));
        assert_eq!(next(&["10.210.0.0/22"]), None);
        assert_eq!(next(&["0.0.0.0/0"]), None);
        assert_eq!(next(&["fd00::/8"]).as_deref(), Some("10.210.0.0/24"));
    }

    #[test]
    fn each_family_gives_a_part() {
        let six = ClusterRange {
            range: range("fd00:210::/48"),
            node_length: 64,
        };
        let parts = plan(&[ClusterRange::default(), six], &[range("fd00:210::/64")]).unwrap();
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        assert_eq!(parts, ["10.210.0.0/24", "fd00:210:0:1::/64"]);
        assert_eq!(plan(&[], &[]), None);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for wrong in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.1/24",
            "x/8",
            "fd00::/129",
        ] {
            assert!(
                wrong
                    .parse::<Range>()
                    .unwrap_err()
                    .contains("expected ADDRESS/BITS"),
                "{wrong}"
            );
        }
    }
}
