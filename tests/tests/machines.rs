//! Two machines as a cluster: two kernels, two systemds, cgroup version 2 only, a wire.
//!
//! The same program runs on both. `BERTH_MACHINES=ADDRESS,ADDRESS` names them; the first
//! is told the story and tells the second what to do there. `./x vm-test cluster` starts
//! both as virtual machines (docs/testing.md). The suite installs berth, writes below
//! /etc/berth and takes links down, so nowhere else it does anything.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

/// What the first machine has the second do.
#[path = "machines/errand.rs"]
mod errand;
/// Both machines, as the first sees them.
#[path = "machines/pair.rs"]
mod pair;
/// What happens, chapter by chapter.
#[path = "machines/story.rs"]
mod story;

use std::net::{IpAddr, TcpListener};

use pair::Pair;

/// The machines' addresses, the first's first, between commas.
const VARIABLE: &str = "BERTH_MACHINES";

#[test]
fn two_machines_are_one_cluster() {
    let Ok(text) = std::env::var(VARIABLE) else {
        eprintln!("NOT RUN: {VARIABLE} names no two machines; './x vm-test cluster' makes them");
        return;
    };
    let addresses: Vec<IpAddr> = text
        .split(',')
        .map(|word| word.trim().parse())
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{VARIABLE} is {text:?}: {error}"));
    let &[one, two] = addresses.as_slice() else {
        panic!("{VARIABLE} is {text:?}, where two addresses are expected");
    };
    let is_here = |address: IpAddr| TcpListener::bind((address, 0)).is_ok();
    match (is_here(one), is_here(two)) {
        (true, false) => story::tell(&Pair::meet(one, two).unwrap()),
        (false, true) => errand::run_all(one).unwrap(),
        _ => panic!("{VARIABLE} is {text:?}: one of them must be this machine's"),
    }
}
