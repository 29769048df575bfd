//! Networks of pods: links, addresses, routes, nftables, address management.
