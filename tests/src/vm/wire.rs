//! The wire between guests: two sockets of a pair, each one QEMU's standard input.
//!
//! ```text
//!   guest "one"                             guest "two"
//!   eth0 10.98.0.1                          eth0 10.98.0.2
//!     │ virtio-net                            │ virtio-net
//!   QEMU ── descriptor 0 ═══ socketpair ═══ descriptor 0 ── QEMU
//! ```
//!
//! A frame travels as its length and its bytes (`-netdev socket`). No interface, bridge
//! or port of this machine takes part, so nothing needs to be made or taken away, and
//! no other run can be in the way. When one QEMU ends, the other's wire is dead.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};

/// The guests' names, in the order of their addresses.
pub const NAMES: [&str; 2] = ["one", "two"];

/// A guest's end of the wire.
#[derive(Debug)]
pub struct End {
    /// Its place in [`NAMES`].
    pub place: u8,
    /// QEMU's standard input.
    pub socket: OwnedFd,
}

/// A wire, by its two ends.
///
/// # Errors
///
/// The kernel gives no descriptors.
pub fn lay() -> Result<[End; 2]> {
    let (one, two) = UnixStream::pair().context("make a wire")?;
    Ok([
        End {
            place: 0,
            socket: one.into(),
        },
        End {
            place: 1,
            socket: two.into(),
        },
    ])
}

/// A guest's address.
pub fn address(place: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 0, place + 1)
}

impl End {
    /// The guest's name, which is its host's name too.
    pub fn name(&self) -> &'static str {
        NAMES[usize::from(self.place)]
    }

    /// QEMU's words for the guest's network card.
    pub fn device(&self) -> [String; 4] {
        [
            "-netdev".to_owned(),
            "socket,id=wire,fd=0".to_owned(),
            "-device".to_owned(),
            format!(
                "virtio-net-pci,netdev=wire,mac=52:54:00:be:72:{:02x}",
                self.place + 1
            ),
        ]
    }

    /// The kernel's words, by which the guest knows which one it is. Machines have a
    /// number each; two of the same system would have the same.
    pub fn kernel_words(&self) -> String {
        format!(
            "net.ifnames=0 systemd.hostname={} systemd.machine_id=b0e27{:027x} berth.address={}",
            self.name(),
            self.place + 1,
            address(self.place),
        )
    }
}

/// The guest's part, for a shell: its address, a default route to a gateway that does not
/// answer, as in a network without a way out, and the variable by which the suite knows
/// all machines.
pub fn script() -> String {
    let all: Vec<String> = (0..)
        .zip(NAMES)
        .map(|(place, _)| address(place).to_string())
        .collect();
    format!(
        "address=
for word in $(cat /proc/cmdline); do
  case $word in berth.address=*) address=${{word#*=}} ;; esac
done
if [ -n \"$address\" ]; then
  udevadm settle --timeout=60
  ip address add \"$address/24\" dev eth0
  ip link set eth0 up
  ip route add default via 10.98.0.254
  export BERTH_MACHINES={}
fi
",
        all.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::{lay, script};

    #[test]
    fn ends_differ_in_all_that_names_a_machine() {
        let [one, two] = lay().expect("descriptors");
        assert_eq!((one.name(), two.name()), ("one", "two"));
        assert_ne!(one.device(), two.device());
        let [first, second] = [one.kernel_words(), two.kernel_words()];
        for word in first
            .split_whitespace()
            .filter(|word| *word != "net.ifnames=0")
        {
            assert!(!second.contains(word), "{word} is of both");
        }
        let number = first.split("machine_id=").nth(1).expect("there");
        assert_eq!(number.split(' ').next().map(str::len), Some(32));
        assert!(script().contains("BERTH_MACHINES=10.98.0.1,10.98.0.2\n"));
    }
}
