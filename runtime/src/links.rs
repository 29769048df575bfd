//! Moves network devices from the runtime's network namespace into the container's.
//!
//! The kernel keeps a device's hardware address, MTU and the like when it moves,
//! sets it down, and drops its addresses. So those are read before and given
//! again after; IPv6 ones already go when a device is set down, which is why they
//! are read first of all.
//!
//! ```text
//! look there: is the name taken?     nothing is done yet
//! read addresses, set down
//! move and rename                    one message: no moment under a wrong name
//! give addresses again, set up       by a socket that was made there
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::plan::links::LinkPlan;
use crate::stage::StageError;
use crate::sys::call::SyscallError;
use crate::sys::netlink::{Address, Routing};
use crate::sys::process;

/// A device that was moved, with what it takes to move it back.
#[derive(Debug)]
pub struct MovedLink {
    name: String,
    index: i32,
    was_up: bool,
    addresses: Vec<Address>,
}

/// The two ends of a move.
#[derive(Debug)]
pub struct Passage {
    here: Routing,
    there: Routing,
    own_namespace: OwnedFd,
    namespace: OwnedFd,
}

impl Passage {
    /// Opens a socket in each of the two namespaces.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN` over the container's network namespace.
    pub fn open(own_namespace: OwnedFd, namespace: OwnedFd) -> Result<Passage, SyscallError> {
        let here = Routing::open()?;
        let kind = CloneFlags::CLONE_NEWNET;
        process::setns(namespace.as_fd(), kind)?;
        let there = Routing::open();
        // Back in any case: all that the runtime does after this is of its own.
        process::setns(own_namespace.as_fd(), kind)?;
        Ok(Passage {
            here,
            there: there?,
            own_namespace,
            namespace,
        })
    }

    /// Moves one device into the container.
    ///
    /// # Errors
    ///
    /// No such device, or its new name is taken. The device is as it was then.
    pub fn send(&self, plan: &LinkPlan) -> Result<MovedLink, StageError> {
        let named = |error: SyscallError| {
            let hint = match error.errno() {
                Errno::ENODEV => " (the runtime's network namespace has no such device)",
                Errno::EINVAL => " (some kinds of device cannot leave their namespace)",
                _ => "",
            };
            StageError::Refused(format!("linux.netDevices[{:?}]: {error}{hint}", plan.name))
        };
        self.check_free(plan)?;
        let link = self.here.find_link(&plan.name).map_err(named)?;
        let mut moved = MovedLink {
            name: plan.name.clone(),
            index: link.index,
            was_up: link.is_up,
            addresses: self.here.read_addresses(link.index).map_err(named)?,
        };
        moved.addresses.retain(Address::is_permanent_and_global);
        let before = self.there.read_indices().map_err(named)?;
        let passed = pass(&self.here, &moved, self.namespace.as_fd(), &plan.new_name);
        if let Err(error) = passed {
            // It did not leave, so it is set up again where it is.
            let _ = settle(&self.here, &moved, link.index, link.is_up);
            return Err(named(error));
        }
        let arrived = self.settle_there(&mut moved, &before);
        if let Err(error) = arrived {
            self.take_back(&moved);
            return Err(named(error));
        }
        Ok(moved)
    }

    /// Moves a device back, with its name, its addresses and its state. What
    /// cannot be had back is lost: who called has a failure to tell already.
    pub fn take_back(&self, moved: &MovedLink) {
        let back = pass(&self.there, moved, self.own_namespace.as_fd(), &moved.name);
        if let (Ok(()), Ok(link)) = (back, self.here.find_link(&moved.name)) {
            let _ = settle(&self.here, moved, link.index, moved.was_up);
        }
    }

    /// A template leaves it to the kernel to find a free name.
    fn check_free(&self, plan: &LinkPlan) -> Result<(), StageError> {
        if plan.new_name.contains("%d") || self.there.find_link(&plan.new_name).is_err() {
            return Ok(());
        }
        Err(StageError::Refused(format!(
            "linux.netDevices[{:?}].name: the container has a device {:?} already; nothing was moved",
            plan.name, plan.new_name
        )))
    }

    /// A device keeps its number only where that is free, and its name may be the
    /// kernel's choice: it is the one that was not there before.
    fn settle_there(&self, moved: &mut MovedLink, before: &[i32]) -> Result<(), SyscallError> {
        let mut now = self.there.read_indices()?.into_iter();
        if let Some(index) = now.find(|index| !before.contains(index)) {
            moved.index = index;
        }
        settle(&self.there, moved, moved.index, true)
    }
}

fn pass(
    from: &Routing,
    moved: &MovedLink,
    to: BorrowedFd<'_>,
    name: &str,
) -> Result<(), SyscallError> {
    from.set_up(moved.index, false)?;
    from.move_link(moved.index, to, name)
}

fn settle(at: &Routing, moved: &MovedLink, index: i32, up: bool) -> Result<(), SyscallError> {
    for address in &moved.addresses {
        match at.add_address(index, address) {
            // One that did not leave with the others.
            Err(error) if error.errno() != Errno::EEXIST => return Err(error),
            _ => {}
        }
    }
    if up { at.set_up(index, true) } else { Ok(()) }
}
