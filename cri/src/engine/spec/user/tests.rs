//! Users of an image, as values and from hostile files.

use super::*;

fn accounts() -> Accounts {
    Accounts {
        passwd: "root:x:0:0:root:/root:/bin/sh\n\
                 # comment\n\
                 app:x:1000:100:App:/home/app:/bin/sh\n\
                 broken:x:many:1::/:\n\
                 7:x:700:70::/seven:\n"
            .to_owned(),
        group: "root:x:0:\nusers:x:100:\nwheel:x:10:root,app\nvideo:x:44:app\n".to_owned(),
    }
}

fn context() -> v1::LinuxContainerSecurityContext {
    v1::LinuxContainerSecurityContext::default()
}

fn number(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn resolve(
    context: &v1::LinuxContainerSecurityContext,
    image: &str,
) -> Result<(u32, u32, Vec<u32>, String), Error> {
    let user = resolve_user(context, image, &accounts())?;
    Ok((
        user.run_as.uid,
        user.run_as.gid,
        user.run_as.additional_gids,
        user.home,
    ))
}

#[test]
fn the_images_user_in_all_its_spellings() {
    let of = |image: &str| resolve(&context(), image).unwrap();
    assert_eq!(of(""), (0, 0, vec![0, 10], "/root".to_owned()));
    assert_eq!(
        of("app"),
        (1000, 100, vec![100, 10, 44], "/home/app".to_owned())
    );
    assert_eq!(of("1000").1, 100);
    assert_eq!(of("1234"), (1234, 0, vec![0], "/".to_owned()));
    assert_eq!(of("app:video").1, 44);
    assert_eq!(of("1234:5678"), (1234, 5678, vec![5678], "/".to_owned()));
    // A name of digits is a name first.
    assert_eq!(of("7").0, 700);
}

#[test]
fn the_request_wins_over_the_image() {
    let mut by_number = context();
    by_number.run_as_user = number(1000);
    assert_eq!(resolve(&by_number, "root:video").unwrap().1, 100);
    by_number.run_as_group = number(3);
    assert_eq!(resolve(&by_number, "root").unwrap().1, 3);
    let mut by_name = context();
    by_name.run_as_username = "app".to_owned();
    assert_eq!(resolve(&by_name, "").unwrap().0, 1000);
}

#[test]
fn groups_are_merged_or_replaced() {
    let mut merged = context();
    merged.run_as_user = number(1000);
    merged.supplemental_groups = vec![44, 2000];
    assert_eq!(resolve(&merged, "").unwrap().2, [100, 10, 44, 2000]);
    merged.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict as i32;
    assert_eq!(resolve(&merged, "").unwrap().2, [100, 44, 2000]);
}

#[test]
fn wrong_users_are_refused_with_their_field() {
    let refused = |context: &v1::LinuxContainerSecurityContext, image: &str| {
        resolve(context, image).unwrap_err().to_string()
    };
    assert!(refused(&context(), "nobody").contains("no user \"nobody\""));
    assert!(refused(&context(), "app:nogroup").contains("no group \"nogroup\""));
    let mut negative = context();
    negative.run_as_user = number(-1);
    assert!(refused(&negative, "").contains("run_as_user: -1"));
    negative.run_as_user = number(i64::from(u32::MAX));
    assert!(refused(&negative, "").contains("4294967295"));
    let mut group_alone = context();
    group_alone.run_as_group = number(5);
    assert!(refused(&group_alone, "").contains("run_as_group: needs"));
    let mut policy = context();
    policy.supplemental_groups_policy = 9;
    assert!(refused(&policy, "").contains("supplemental_groups_policy"));
}

#[test]
fn links_of_the_image_do_not_lead_to_the_hosts_files() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, "evil:x:0:0::/:\n").unwrap();
    let rootfs = dir.path().join("rootfs");
    std::fs::create_dir_all(rootfs.join("etc")).unwrap();
    std::os::unix::fs::symlink(&outside, rootfs.join("etc/passwd")).unwrap();
    std::os::unix::fs::symlink("/../../outside", rootfs.join("etc/group")).unwrap();
    let accounts = read_accounts(&rootfs).unwrap();
    assert_eq!(
        (accounts.passwd.as_str(), accounts.group.as_str()),
        ("", "")
    );
    // A link that stays inside is followed, as a process inside would.
    std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
    std::fs::write(rootfs.join("accounts"), "in:x:5:5::/:\n").unwrap();
    std::os::unix::fs::symlink("/accounts", rootfs.join("etc/passwd")).unwrap();
    assert_eq!(read_accounts(&rootfs).unwrap().passwd, "in:x:5:5::/:\n");
}

#[test]
fn a_file_that_is_none_or_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read_accounts(dir.path()).unwrap().passwd, "");
    std::fs::create_dir_all(dir.path().join("etc/passwd")).unwrap();
    assert!(read_accounts(dir.path()).is_err());
    std::fs::remove_dir(dir.path().join("etc/passwd")).unwrap();
    let large = File::create(dir.path().join("etc/passwd")).unwrap();
    large.set_len(FILE_LIMIT_BYTES + 1).unwrap();
    let error = read_accounts(dir.path()).unwrap_err();
    assert!(error.chain().contains("larger than"), "{}", error.chain());
}
