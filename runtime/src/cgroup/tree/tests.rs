use std::path::{Path, PathBuf};

use proptest::prelude::{any, proptest};

use super::{CgroupVersion, parse_tree};

const HYBRID: &[u8] = b"\
23 27 0:22 / /sys rw - sysfs sysfs rw
27 1 254:0 / / rw - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

const OWN: &[u8] = b"9:name=systemd:/s\n4:memory:/process_api/28\n1:cpu,cpuacct:/\n0::/u/v\n";

#[test]
fn a_hybrid_tree_has_both_worlds() {
    let tree = parse_tree(HYBRID, OWN);
    let seen: Vec<_> = tree
        .hierarchies
        .iter()
        .map(|one| {
            (
                one.version,
                one.controllers.join(","),
                one.own_group.clone(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                CgroupVersion::V1,
                "cpu,cpuacct".to_owned(),
                PathBuf::from("")
            ),
            (
                CgroupVersion::V1,
                "memory".to_owned(),
                PathBuf::from("process_api/28")
            ),
            (
                CgroupVersion::V1,
                "name=systemd".to_owned(),
                PathBuf::from("s")
            ),
            (CgroupVersion::V2, String::new(), PathBuf::from("u/v")),
        ]
    );
    assert!(!tree.is_pure_v2());
}

#[test]
fn a_mount_that_shows_a_part_is_the_top() {
    let mountinfo = b"1 1 0:1 / / rw - ext4 a rw\n\
                      2 1 0:2 /docker/c1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    let own = |text: &[u8]| parse_tree(mountinfo, text).hierarchies[0].own_group.clone();
    assert_eq!(own(b"0::/docker/c1/inner\n"), Path::new("inner"));
    assert_eq!(own(b"0::/docker/c1\n"), Path::new(""));
    assert_eq!(own(b"0::/elsewhere\n"), Path::new(""));
    assert!(parse_tree(mountinfo, b"").is_pure_v2());
}

#[test]
fn a_mount_under_another_is_out_of_reach() {
    let mountinfo = b"1 1 0:1 / / rw - ext4 a rw\n\
                      2 1 0:2 / /cg rw - cgroup cgroup rw,pids\n\
                      3 2 0:3 / /cg rw - tmpfs tmpfs rw\n\
                      4 3 0:2 / /cg/pids rw - cgroup cgroup rw,pids\n\
                      5 3 0:5 / /cg/a\\040b rw - cgroup cgroup rw,cpu\n";
    let points: Vec<_> = parse_tree(mountinfo, b"")
        .hierarchies
        .into_iter()
        .map(|one| one.mount_point)
        .collect();
    assert_eq!(points, [Path::new("/cg/pids"), Path::new("/cg/a b")]);
}

#[test]
fn a_second_mount_of_a_hierarchy_is_not_a_second_hierarchy() {
    let mountinfo = b"1 1 0:1 / / rw - ext4 a rw\n\
                      2 1 0:2 / /one rw - cgroup cgroup rw,pids\n\
                      3 1 0:2 / /two rw - cgroup cgroup rw,pids\n";
    assert_eq!(parse_tree(mountinfo, b"").hierarchies.len(), 1);
}

proptest! {
    #[test]
    fn no_text_is_too_strange(mountinfo in any::<Vec<u8>>(), own in any::<Vec<u8>>()) {
        parse_tree(&mountinfo, &own);
    }

    #[test]
    fn no_line_is_too_strange(fields in proptest::collection::vec("[-/0-9a-z\\\\]{0,6}", 0..14)) {
        let line = format!("{}\n{} - cgroup cgroup rw,cpu\n", fields.join(" "), fields.join(" "));
        parse_tree(line.as_bytes(), line.as_bytes());
    }
}
