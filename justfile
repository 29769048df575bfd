# Daily tasks. `./x` does the work, so that nobody needs `just` to begin.

# list the recipes
default:
    @just --list

# install what is missing
setup:
    ./x setup

# build berth and berth-oci into target/berth/
build:
    ./x build

# write anew which of berth-oci's functions lie side by side (runtime/text-order.ld)
order:
    ./x order

# run the example pod and show its page
run *ARGS:
    ./x run {{ARGS}}

# every test, or one suite: just test oci
test *ARGS:
    ./x test {{ARGS}}

# one crate's own tests: just unit runtime
unit CRATE:
    cargo test -p berth-{{CRATE}}

# the OCI suite against another runtime: just referee runc
referee RUNTIME:
    RUNTIME_UNDER_TEST={{RUNTIME}} cargo test -p berth-tests --test oci

# a real kubelet on berth, built once: just kubelet streams
kubelet *ARGS:
    ./x kubelet {{ARGS}}

# one suite on a machine with systemd and cgroup v2 only: just vm-test oci cgroups::, just vm-test cluster (two machines)
vm-test *ARGS:
    ./x vm-test {{ARGS}}

# format, lints, tidy
check:
    ./x check

# format in place
fmt:
    cargo fmt --all

# the licence policy (wants cargo-deny)
deny:
    cargo deny check licenses bans sources

# berth beside its peers, into docs/performance.md
bench *ARGS:
    ./x bench {{ARGS}}

# write docs/stages.md anew from the table that the program runs
stages:
    cargo run --quiet -p berth-runtime --bin berth-oci -- stages --format markdown > docs/stages.md

# what the gate runs
ci:
    bash .ci/run
