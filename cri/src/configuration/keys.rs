//! Every key of `cri.toml`: its kind, its default, what it is for.
//!
//! This table is the one source. `berth cri config default` prints it, a file is
//! checked against it, and what a file leaves out is taken from it.

use super::kinds::Kind;

/// A table of the file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// As it stands between the brackets.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// In the order in which they are written.
    pub keys: &'static [Key],
}

/// One key of a section.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What a value must be.
    pub kind: Kind,
    /// The value when the file says nothing, as TOML.
    pub default: &'static str,
    /// When a change of the file becomes true.
    pub change: Change,
    /// One line.
    pub about: &'static str,
}

/// When a change of the file becomes true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// With the next reload (SIGHUP).
    Reload,
    /// With the next start.
    Restart,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        change: Change::Restart,
        about,
    }
}

const fn live(key: Key) -> Key {
    Key {
        change: Change::Reload,
        ..key
    }
}

/// The name under which handlers stand: `[handlers.NAME]`.
pub const HANDLERS: &str = "handlers";

/// The keys of each `[handlers.NAME]`; `path` must be there.
pub const HANDLER_KEYS: &[Key] = &[
    live(key(
        "path",
        Kind::Program,
        "\"\"",
        "the OCI runtime's program",
    )),
    live(key(
        "arguments",
        Kind::Words,
        "[]",
        "given to it before the verb",
    )),
];

/// All sections but the handlers, in the order in which they are written.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "socket",
        about: "Where a kubelet finds the server. A socket of systemd's wins over this.",
        keys: &[
            key(
                "path",
                Kind::PathOrNone,
                "\"\"",
                "\"\" is berth.sock in the run directory",
            ),
            key(
                "mode",
                Kind::Mode,
                "\"0660\"",
                "who may open it may do all that root may",
            ),
            key(
                "group",
                Kind::Text,
                "\"\"",
                "a group's name or number; \"\" is the server's own",
            ),
        ],
    },
    Section {
        name: "streaming",
        about: "Exec, attach and port-forward. No protection but a one-time token.",
        keys: &[
            key(
                "address",
                Kind::Address,
                "\"127.0.0.1:0\"",
                "port 0 is any that is free",
            ),
            key(
                "idle_timeout",
                Kind::Duration,
                "\"4h\"",
                "a stream that is silent for so long is ended",
            ),
            key(
                "creation_timeout",
                Kind::Duration,
                "\"30s\"",
                "how long a client may take to open what it asked for",
            ),
        ],
    },
    Section {
        name: "log",
        about: "What the server says on standard error.",
        keys: &[
            live(key(
                "level",
                Kind::Choice(&LEVELS),
                "\"info\"",
                "error, warn, info, debug or trace",
            )),
            key(
                "format",
                Kind::Choice(&["text", "json"]),
                "\"text\"",
                "text, or json with one object a line",
            ),
        ],
    },
    Section {
        name: "runtime",
        about: "How containers are made.",
        keys: &[
            live(key(
                "default_handler",
                Kind::Text,
                "\"\"",
                "the handler of pods that name none; \"\" is berth-oci",
            )),
            key(
                "cgroup_driver",
                Kind::Choice(&["auto", "cgroupfs", "systemd"]),
                "\"auto\"",
                "auto is systemd where it is the machine's init, else cgroupfs",
            ),
        ],
    },
    Section {
        name: "image",
        about: "Where images come from.",
        keys: &[
            live(key(
                "registries",
                Kind::PathOrNone,
                "\"\"",
                "\"\" is $BERTH_REGISTRIES_CONFIG, else /etc/berth/registries.toml",
            )),
            key(
                "layers_at_once",
                Kind::Count { most: 64 },
                "0",
                "layers of one image on their way at once; 0 is one a processor, at least 3",
            ),
        ],
    },
    Section {
        name: "network",
        about: "The pods' network. A kubelet's pod range wins over these ranges.",
        keys: &[
            key(
                "bridge",
                Kind::Text,
                "\"berth0\"",
                "the bridge that pods are behind",
            ),
            key(
                "subnets",
                Kind::Subnets,
                "[\"10.88.64.0/20\", \"fdbe:2788:64::/64\"]",
                "at most one of each family",
            ),
            key(
                "mtu",
                Kind::Count { most: 65_535 },
                "0",
                "bytes; 0 is that of the default route",
            ),
            key(
                "masquerade",
                Kind::Switch,
                "true",
                "what leaves the ranges takes the machine's address",
            ),
        ],
    },
    Section {
        name: "cni",
        about: "Plugins of CNI that make the pods' network instead (docs/network.md).",
        keys: &[
            key(
                "conf_dir",
                Kind::PathOrNone,
                "\"\"",
                "such as /etc/cni/net.d, which is watched; \"\" is berth's own network",
            ),
            key(
                "bin_dirs",
                Kind::Paths,
                "[\"/opt/cni/bin\"]",
                "where the programs are, looked through in this order",
            ),
            key(
                "timeout",
                Kind::Duration,
                "\"1m\"",
                "how long one run of a program may take",
            ),
        ],
    },
    Section {
        name: "defaults",
        about: "What a container gets that states nothing.",
        keys: &[
            key(
                "pids_limit",
                Kind::Count { most: 4_194_304 },
                "0",
                "processes and threads of one container; 0 is no limit",
            ),
            key(
                "seccomp_profile",
                Kind::PathOrNone,
                "\"\"",
                "the filter called RuntimeDefault; \"\" is the one that comes with berth",
            ),
            key(
                "capabilities",
                Kind::Capabilities,
                "[\"AUDIT_WRITE\", \"CHOWN\", \"DAC_OVERRIDE\", \"FOWNER\", \"FSETID\", \"KILL\", \
                 \"MKNOD\", \"NET_BIND_SERVICE\", \"NET_RAW\", \"SETFCAP\", \"SETGID\", \
                 \"SETPCAP\", \"SETUID\", \"SYS_CHROOT\"]",
                "what a request adds to and drops from",
            ),
        ],
    },
    Section {
        name: "metrics",
        about: "The server's own numbers, for Prometheus.",
        keys: &[key(
            "address",
            Kind::AddressOrNone,
            "\"\"",
            "such as 127.0.0.1:9478; \"\" is off",
        )],
    },
    Section {
        name: "traces",
        about: "OpenTelemetry: a span for each call, with the caller's as its parent.",
        keys: &[
            key(
                "endpoint",
                Kind::UrlOrNone,
                "\"\"",
                "an OTLP collector over gRPC, such as http://127.0.0.1:4317; \"\" is off",
            ),
            key(
                "ca",
                Kind::PathOrNone,
                "\"\"",
                "PEM file of the authorities that vouch for a collector at https://; \"\" is the machine's own",
            ),
            key(
                "sampling",
                Kind::Share,
                "1.0",
                "share of the calls that begin a trace here; a caller's choice is kept",
            ),
        ],
    },
];

/// From the fewest words to the most.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The section of a name.
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}
