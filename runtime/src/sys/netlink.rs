//! Links and addresses by rtnetlink(7): the few messages that moving a device takes.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! |                            length                             |  struct nlmsghdr
//! +-------------------------------+-------------------------------+
//! |             type              |             flags             |
//! +-------------------------------+-------------------------------+
//! |                           sequence                            |
//! +---------------------------------------------------------------+
//! |                             port                              |
//! +---------------------------------------------------------------+
//! |        struct ifinfomsg or ifaddrmsg, then attributes:        |
//! +-------------------------------+-------------------------------+
//! |            length             |             type              |  struct rtattr
//! +-------------------------------+-------------------------------+
//! |                   value, padded to 4 bytes                    |
//! +---------------------------------------------------------------+
//! ```
//!
//! A socket acts on the network namespace in which it was made, whatever its
//! process joins later. All numbers are in the machine's own order.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::call::{SyscallError, finish};

/// A socket to the kernel's routing tables.
#[derive(Debug)]
pub struct Routing {
    socket: OwnedFd,
}

/// A network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: i32,
    /// It is up.
    pub is_up: bool,
}

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix_length: u8,
    scope: u8,
    flags: u32,
    /// `IFA_ADDRESS`, `IFA_LOCAL`, `IFA_BROADCAST`: what it is.
    attributes: Vec<(u16, Vec<u8>)>,
}

// <linux/rtnetlink.h>, <linux/netlink.h>, <linux/if_link.h>, <linux/if_addr.h>.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const FLAGS_ATTRIBUTE: u16 = libc::IFA_FLAGS;
/// What people say of an address, as against what the kernel finds out: no
/// duplicate detection, home address, temporary ones, no route, join multicast.
const FLAGS_OF_PEOPLE: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;

impl Address {
    /// Whether it is meant to stay, and for talking to the world: what the
    /// specification wants kept when a device moves.
    pub fn is_permanent_and_global(&self) -> bool {
        self.flags & libc::IFA_F_PERMANENT != 0 && self.scope == libc::RT_SCOPE_UNIVERSE
    }
}

impl Routing {
    /// `socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)`, in the network namespace of now.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`.
    pub fn open() -> Result<Routing, SyscallError> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        );
        let socket = finish(socket, || "socket(AF_NETLINK, NETLINK_ROUTE)".to_owned())?;
        Ok(Routing { socket })
    }

    /// Looks a device up by its name.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is none.
    pub fn find_link(&self, name: &str) -> Result<Link, SyscallError> {
        let mut request = link_request(libc::RTM_GETLINK, REQUEST, Change::of(0));
        put_name(&mut request, name);
        let describe = || format!("RTM_GETLINK({name:?})");
        let answers = self.ask(request, describe)?;
        let link = answers.iter().find_map(|(kind, body)| {
            let body = body.get(..LINK_BYTES)?;
            (*kind == libc::RTM_NEWLINK).then(|| Link {
                index: i32::from_ne_bytes([body[4], body[5], body[6], body[7]]),
                is_up: body[8] & libc::IFF_UP as u8 != 0,
            })
        });
        link.ok_or_else(|| SyscallError::new(describe(), Errno::ENODEV))
    }

    /// The numbers of all devices.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn read_indices(&self) -> Result<Vec<i32>, SyscallError> {
        let request = link_request(libc::RTM_GETLINK, REQUEST | DUMP, Change::of(0));
        let answers = self.ask(request, || "RTM_GETLINK(dump)".to_owned())?;
        Ok(answers
            .iter()
            .filter_map(|(_, body)| index_of(body))
            .collect())
    }

    /// Takes a device down, or sets it up.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN` over the namespace.
    pub fn set_up(&self, index: i32, up: bool) -> Result<(), SyscallError> {
        let change = Change {
            index,
            flags: if up { libc::IFF_UP as u32 } else { 0 },
            mask: libc::IFF_UP as u32,
        };
        let request = link_request(libc::RTM_NEWLINK, REQUEST | ACKNOWLEDGE, change);
        let word = if up { "up" } else { "down" };
        self.ask(request, || format!("RTM_NEWLINK({index}, {word})"))
            .map(drop)
    }

    /// Moves a device into another network namespace and gives it a name there, in one step.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the name is taken there. `EINVAL`: a device that cannot leave
    /// its namespace, such as the loopback one.
    pub fn move_link(
        &self,
        index: i32,
        namespace: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), SyscallError> {
        let flags = REQUEST | ACKNOWLEDGE;
        let mut request = link_request(libc::RTM_NEWLINK, flags, Change::of(index));
        put_name(&mut request, name);
        let number = namespace.as_raw_fd().to_ne_bytes();
        put(&mut request, libc::IFLA_NET_NS_FD, &number);
        self.ask(request, || {
            format!("RTM_NEWLINK({index}, IFLA_NET_NS_FD, {name:?})")
        })
        .map(drop)
    }

    /// Every address of a device.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn read_addresses(&self, index: i32) -> Result<Vec<Address>, SyscallError> {
        let mut request = header(libc::RTM_GETADDR, REQUEST | DUMP);
        request.extend([0; ADDRESS_BYTES]);
        let answers = self.ask(request, || "RTM_GETADDR(dump)".to_owned())?;
        let bodies = answers.iter().map(|(_, body)| body.as_slice());
        let of_this = bodies.filter(|body| index_of(body) == Some(index));
        Ok(of_this.filter_map(read_address).collect())
    }

    /// Gives a device an address that another had.
    ///
    /// # Errors
    ///
    /// `EEXIST`: it has it.
    pub fn add_address(&self, index: i32, address: &Address) -> Result<(), SyscallError> {
        let mut request = header(libc::RTM_NEWADDR, REQUEST | ACKNOWLEDGE | CREATE);
        request.extend([address.family, address.prefix_length, 0, address.scope]);
        request.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            put(&mut request, *kind, value);
        }
        let flags = address.flags & FLAGS_OF_PEOPLE;
        put(&mut request, FLAGS_ATTRIBUTE, &flags.to_ne_bytes());
        self.ask(request, || {
            let (_, bytes) = &address.attributes[0];
            format!("RTM_NEWADDR({index}, {bytes:?}/{})", address.prefix_length)
        })
        .map(drop)
    }

    /// Sends a request and takes all that is answered: type and body of each message.
    fn ask(
        &self,
        mut request: Vec<u8>,
        describe: impl Fn() -> String,
    ) -> Result<Vec<(u16, Vec<u8>)>, SyscallError> {
        let length = request.len() as u32;
        request[..4].copy_from_slice(&length.to_ne_bytes());
        let sent = rustix::net::send(&self.socket, &request, SendFlags::empty());
        if let Err(error) = sent {
            return finish(Err(error), describe);
        }
        let flags = u16::from_ne_bytes([request[6], request[7]]);
        let mut answers = Vec::new();
        let outcome = loop {
            let mut buffer = vec![0; 64 * 1024];
            match rustix::net::recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => buffer.truncate(length),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => break Err(Errno::from_raw(error.raw_os_error())),
            }
            if let Some(end) = take_messages(&buffer, flags, &mut answers) {
                break end;
            }
        };
        finish(outcome.map(|()| answers), describe)
    }
}

/// Splits what one receive brought; some result when the answer is complete.
fn take_messages(
    mut bytes: &[u8],
    flags: u16,
    answers: &mut Vec<(u16, Vec<u8>)>,
) -> Option<Result<(), Errno>> {
    while bytes.len() >= HEADER_BYTES {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if length < HEADER_BYTES || length > bytes.len() {
            return Some(Err(Errno::EBADMSG));
        }
        let body = &bytes[HEADER_BYTES..length];
        match i32::from(kind) {
            libc::NLMSG_DONE => return Some(Ok(())),
            libc::NLMSG_ERROR => {
                // 0 acknowledges; a negative errno refuses.
                let number = body
                    .first_chunk()
                    .map_or(-libc::EBADMSG, |four| i32::from_ne_bytes(*four));
                return Some(match number {
                    0 => Ok(()),
                    number => Err(Errno::from_raw(-number)),
                });
            }
            _ => answers.push((kind, body.to_vec())),
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    // A question that asked for neither a list nor a receipt has one answer.
    (flags & (DUMP | ACKNOWLEDGE) == 0).then_some(Ok(()))
}

/// What a `struct ifinfomsg` says.
#[derive(Clone, Copy)]
struct Change {
    index: i32,
    flags: u32,
    mask: u32,
}

impl Change {
    /// None, of a device.
    fn of(index: i32) -> Change {
        Change {
            index,
            flags: 0,
            mask: 0,
        }
    }
}

fn header(kind: u16, flags: u16) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}

fn link_request(kind: u16, flags: u16, change: Change) -> Vec<u8> {
    let mut message = header(kind, flags);
    message.extend([0; 4]);
    message.extend(change.index.to_ne_bytes());
    message.extend(change.flags.to_ne_bytes());
    message.extend(change.mask.to_ne_bytes());
    message
}

fn put_name(message: &mut Vec<u8>, name: &str) {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    put(message, libc::IFLA_IFNAME, &text);
}

/// Adds an attribute.
fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // A name or an address: a few dozen bytes.
    let length = (4 + value.len()) as u16;
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn index_of(body: &[u8]) -> Option<i32> {
    let number = body.get(4..8)?;
    Some(i32::from_ne_bytes(number.try_into().ok()?))
}

fn read_address(body: &[u8]) -> Option<Address> {
    let (head, mut rest) = body.split_at_checked(ADDRESS_BYTES)?;
    let mut address = Address {
        family: head[0],
        prefix_length: head[1],
        scope: head[3],
        flags: head[2].into(),
        attributes: Vec::new(),
    };
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        match kind {
            libc::IFA_ADDRESS | libc::IFA_LOCAL | libc::IFA_BROADCAST => {
                address.attributes.push((kind, value.to_vec()));
            }
            // More flags than fit into the head's one byte.
            FLAGS_ATTRIBUTE => address.flags = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Some(address).filter(|address| !address.attributes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{REQUEST, Routing, put_name, take_messages};
    use nix::errno::Errno;

    #[test]
    fn the_loopback_device_is_found() {
        let routing = Routing::open().expect("a socket");
        let lo = routing.find_link("lo").expect("every namespace has it");
        assert_eq!(lo.index, 1);
        let error = routing
            .find_link("no-such-link")
            .expect_err("there is none");
        assert_eq!(error.errno(), Errno::ENODEV);
        for address in routing.read_addresses(lo.index).expect("a list") {
            // Its own addresses have the scope of the host.
            assert!(!address.is_permanent_and_global(), "{address:?}");
        }
    }

    #[test]
    fn attributes_are_padded() {
        let mut message = Vec::new();
        put_name(&mut message, "eth0");
        assert_eq!(message, [9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let mut answers = Vec::new();
        let short = [200_u8, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let end = take_messages(&short, REQUEST, &mut answers);
        assert_eq!(end, Some(Err(Errno::EBADMSG)));
    }
}
