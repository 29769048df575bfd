//! Numbers for the user's name and groups.
//!
//! A name means something only in the image, so it is looked up in the image's
//! own `/etc/passwd` and `/etc/group`. These files come from a stranger: they
//! may be symbolic links that lead out of the root directory. openat2(2) with
//! `RESOLVE_IN_ROOT` follows such links as a process inside would, so that no
//! file of the host is ever read in their stead.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::engine::error::{Error, ErrorKind};
use crate::engine::records::RunAs;
use crate::v1;

/// More than any image needs; a stranger's file does not fill our memory.
const FILE_LIMIT_BYTES: u64 = 4 << 20;
const CONTEXT: &str = "linux.security_context";

/// The image's databases of users and groups, as text.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// `/etc/passwd` (passwd(5)), empty when the image has none.
    pub passwd: String,
    /// `/etc/group` (group(5)), empty when the image has none.
    pub group: String,
}

/// A user, with what else is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The numbers.
    pub run_as: RunAs,
    /// The home directory; `/` when the image does not know the user.
    pub home: String,
}

/// One line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Reads the databases of a mounted image.
///
/// # Errors
///
/// `Image` when a file is there and cannot be read, or is too large.
pub fn read_accounts(rootfs: &Path) -> Result<Accounts, Error> {
    Ok(Accounts {
        passwd: read_confined(rootfs, "etc/passwd")?,
        group: read_confined(rootfs, "etc/group")?,
    })
}

/// A file below `rootfs`, whatever links the image holds; empty when absent.
fn read_confined(rootfs: &Path, path: &str) -> Result<String, Error> {
    let failed = |error: std::io::Error| {
        Error::caused(
            ErrorKind::Image,
            format!("read /{path} of the image"),
            error,
        )
    };
    let root = rustix::fs::open(
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| failed(errno.into()))?;
    // NONBLOCK: a pipe under this name would hold us for ever.
    let file = match rustix::fs::openat2(
        &root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(failed(std::io::Error::other(format!(
            "larger than {FILE_LIMIT_BYTES} bytes"
        ))));
    }
    // A name that is not UTF-8 cannot be asked for, the other lines can.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The user that a request and an image ask for.
///
/// The request's number wins over its name, which wins over the image's `USER`
/// (`user`, `uid`, `user:group`, …).
///
/// # Errors
///
/// `Invalid` with the field's name, for a name that the image does not know too.
pub fn resolve_user(
    context: &v1::LinuxContainerSecurityContext,
    image_user: &str,
    accounts: &Accounts,
) -> Result<ResolvedUser, Error> {
    let (user, mut group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let (field, wanted) = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(number), _) => (format!("{CONTEXT}.run_as_user"), number.value.to_string()),
        (None, "") => ("the image's user".to_owned(), user.to_owned()),
        (None, name) => (format!("{CONTEXT}.run_as_username"), name.to_owned()),
    };
    let stated = context.run_as_user.is_some() || !context.run_as_username.is_empty();
    if stated {
        // The image's group belongs to the image's user.
        group = None;
    }
    let account = find_account(&field, &wanted, accounts)?;
    let gid = match (&context.run_as_group, group) {
        (Some(_), _) if !stated => {
            return Err(Error::invalid(format!(
                "{CONTEXT}.run_as_group: needs run_as_user or run_as_username"
            )));
        }
        (Some(number), _) => id_of(&format!("{CONTEXT}.run_as_group"), number.value)?,
        (None, Some(group)) if !group.is_empty() => find_group(group, accounts)?,
        (None, _) => account.gid,
    };
    let home = match account.home {
        "" => "/",
        home => home,
    };
    Ok(ResolvedUser {
        home: home.to_owned(),
        run_as: RunAs {
            uid: account.uid,
            gid,
            additional_gids: additional_groups(context, &account, gid, accounts)?,
        },
    })
}

/// `Merge`: those of the image's /etc/group and those asked for; `Strict`: the latter.
fn additional_groups(
    context: &v1::LinuxContainerSecurityContext,
    account: &Account<'_>,
    gid: u32,
    accounts: &Accounts,
) -> Result<Vec<u32>, Error> {
    let policy = v1::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy)
        .map_err(|_| {
            Error::invalid(format!(
                "{CONTEXT}.supplemental_groups_policy: {} is not a policy of the CRI",
                context.supplemental_groups_policy
            ))
        })?;
    let mut groups = vec![gid];
    if policy == v1::SupplementalGroupsPolicy::Merge && !account.name.is_empty() {
        for line in accounts.group.lines() {
            let fields: Vec<&str> = line.trim().split(':').collect();
            let [_, _, number, members, ..] = fields.as_slice() else {
                continue;
            };
            if members.split(',').any(|member| member == account.name)
                && let Ok(number) = number.parse()
            {
                groups.push(number);
            }
        }
    }
    for number in &context.supplemental_groups {
        groups.push(id_of(&format!("{CONTEXT}.supplemental_groups"), *number)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|group| seen.insert(*group));
    Ok(groups)
}

/// The account of a name or a number; a number needs no line in the file.
fn find_account<'a>(
    field: &str,
    wanted: &str,
    accounts: &'a Accounts,
) -> Result<Account<'a>, Error> {
    // No user at all is root (image-spec config.md, `User`).
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    if let Some(account) = lines(accounts).find(|account| account.name == wanted) {
        return Ok(account);
    }
    let Ok(number) = wanted.parse::<i64>() else {
        return Err(Error::invalid(format!(
            "{field}: the image's /etc/passwd has no user {wanted:?}"
        )));
    };
    let uid = id_of(field, number)?;
    let known = lines(accounts).find(|account| account.uid == uid);
    Ok(known.unwrap_or(Account {
        name: "",
        uid,
        gid: 0,
        home: if uid == 0 { "/root" } else { "/" },
    }))
}

fn find_group(wanted: &str, accounts: &Accounts) -> Result<u32, Error> {
    for line in accounts.group.lines() {
        let mut fields = line.trim().split(':');
        if fields.next() == Some(wanted)
            && let Some(Ok(number)) = fields.nth(1).map(str::parse)
        {
            return Ok(number);
        }
    }
    let number = wanted.parse::<i64>().map_err(|_| {
        Error::invalid(format!(
            "the image's user: the image's /etc/group has no group {wanted:?}"
        ))
    })?;
    id_of("the image's group", number)
}

fn lines(accounts: &Accounts) -> impl Iterator<Item = Account<'_>> {
    accounts.passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next();
        Some(Account {
            name,
            uid,
            gid,
            home: fields.next().unwrap_or_default(),
        })
    })
}

/// The kernel's ids have 32 bits, and the last one stands for "none".
fn id_of(field: &str, number: i64) -> Result<u32, Error> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::invalid(format!("{field}: {number} is not between 0 and 4294967294")))
}

#[cfg(test)]
mod tests;
