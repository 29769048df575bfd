//! The distribution's packages, as the first disk.
//!
//! `mmdebstrap(1)` makes a system from the same sources that this machine's apt
//! uses. Everything that decides what the system will be goes into a key, and a
//! system that was made under that key is taken again: making one costs one to two
//! minutes, and a run of the suite should not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::{initramfs, kernel, output_of, pack_ext4};

/// What the guest needs, as Debian and Ubuntu name it. BusyBox and nginx become the
/// suites' images.
const PACKAGES: &str = "base-files base-passwd bash coreutils dash debianutils diffutils dpkg \
    findutils grep gzip hostname libc-bin login passwd sed tar util-linux mount perl-base \
    init-system-helpers sysvinit-utils systemd systemd-sysv dbus udev kmod \
    runc crun libseccomp2 uidmap iproute2 nftables procps busybox-static strace attr libcap2-bin \
    podman netavark catatonit skopeo umoci nginx-light docker-registry ca-certificates curl";

/// Services that the packages would start. The suites start their own.
const UNWANTED: &[&str] = &[
    "nginx.service",
    "docker-registry.service",
    "podman.service",
    "podman.socket",
    "podman-auto-update.timer",
    "podman-restart.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-timesyncd.service",
    "systemd-pstore.service",
];

/// Runs what the second disk brings, and ends the machine whatever comes of it.
const UNIT: &str = "[Unit]
Description=A suite of berth
After=basic.target dbus.service systemd-logind.service

[Service]
Type=oneshot
ExecStartPre=/bin/mount -o ro /dev/vdb /payload
ExecStart=/bin/sh /payload/run
ExecStopPost=/bin/systemctl --force --force poweroff
";

/// Enough for the packages and all that the suites write.
const DISK_MIB: u64 = 6144;

/// A system that was made and can be started.
#[derive(Debug, Clone)]
pub struct System {
    folder: PathBuf,
}

impl System {
    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The archive that the kernel unpacks first.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("system.ext4")
    }
}

/// The system for this distribution, made below `place` where it is not there yet.
/// One that was made from other packages is removed.
///
/// # Errors
///
/// The distribution is neither Debian nor Ubuntu, or packages cannot be fetched.
pub fn prepare(place: &Path) -> Result<System> {
    let release = fs::read_to_string("/etc/os-release").context("which distribution this is")?;
    let distribution = distribution(&release)?;
    let name = key(&distribution);
    let folder = place.join(&name);
    if !folder.exists() {
        eprintln!(
            "making the virtual machine's system from packages, into {}",
            folder.display()
        );
        let unfinished = place.join("system.new");
        remove_folder(&unfinished)?;
        fs::create_dir_all(&unfinished)?;
        make(&distribution, &unfinished)?;
        remove_others(place)?;
        fs::rename(&unfinished, &folder)?;
    }
    Ok(System { folder })
}

/// What differs between distributions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Distribution {
    /// The release's name in the package sources.
    codename: String,
    /// The package that stands for the newest kernel for virtual machines.
    kernel: &'static str,
    /// The file that names the package sources.
    sources: &'static str,
}

fn distribution(os_release: &str) -> Result<Distribution> {
    let field = |name: &str| {
        os_release
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches('"').to_owned())
    };
    let (kernel, sources) = match field("ID").as_deref() {
        Some("debian") => ("linux-image-cloud-amd64", "debian.sources"),
        Some("ubuntu") => ("linux-image-virtual", "ubuntu.sources"),
        other => bail!("ID in /etc/os-release is {other:?}, where debian or ubuntu is expected"),
    };
    Ok(Distribution {
        codename: field("VERSION_CODENAME")
            .ok_or_else(|| anyhow!("VERSION_CODENAME is not in /etc/os-release"))?,
        kernel,
        sources,
    })
}

fn key(distribution: &Distribution) -> String {
    let mut hash = Sha256::new();
    for part in [
        &distribution.codename,
        distribution.kernel,
        PACKAGES,
        UNIT,
        initramfs::INIT,
        &UNWANTED.join(" "),
        &initramfs::MODULES.join(" "),
    ] {
        hash.update(part);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let digits: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{}-{digits}", distribution.codename)
}

fn make(distribution: &Distribution, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    let kernel_files = folder.join("kernel");
    install_packages(distribution, &root)?;
    let version = kernel::unpack(distribution.kernel, &kernel_files)?;
    take_modules(&kernel_files, &root, &version)?;
    configure(&root)?;
    let image = kernel_files.join(format!("boot/vmlinuz-{version}"));
    fs::copy(&image, folder.join("vmlinuz")).with_context(|| image.display().to_string())?;
    fs::write(folder.join("initramfs"), first_archive(&root, &version)?)?;
    pack_ext4(&root, &folder.join("system.ext4"), DISK_MIB)?;
    remove_folder(&root)?;
    remove_folder(&kernel_files)
}

fn install_packages(distribution: &Distribution, root: &Path) -> Result<()> {
    let listed = PathBuf::from("/etc/apt/sources.list.d").join(distribution.sources);
    // Where releases before the one with such files keep them.
    let sources = if listed.exists() {
        listed
    } else {
        PathBuf::from("/etc/apt/sources.list")
    };
    let packages: Vec<&str> = PACKAGES.split_whitespace().collect();
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--quiet", "--mode=root", "--variant=custom"])
        .args(
            ["doc", "man", "locale", "info"]
                .map(|kind| format!("--dpkgopt=path-exclude=/usr/share/{kind}/*")),
        )
        .arg(format!("--include={}", packages.join(",")))
        .arg(&distribution.codename)
        .arg(root)
        .arg(sources);
    output_of(&mut mmdebstrap).map(drop)
}

/// Moves the modules in and lists what each needs.
fn take_modules(kernel_files: &Path, root: &Path, version: &str) -> Result<()> {
    let modules = root.join("lib/modules");
    fs::create_dir_all(&modules)?;
    fs::rename(
        kernel_files.join("lib/modules").join(version),
        modules.join(version),
    )?;
    output_of(
        Command::new("chroot")
            .arg(root)
            .args(["/sbin/depmod", version]),
    )
    .map(drop)
}

fn configure(root: &Path) -> Result<()> {
    let units = root.join("etc/systemd/system");
    for unit in UNWANTED {
        let place = units.join(unit);
        if fs::symlink_metadata(&place).is_ok() {
            fs::remove_file(&place)?;
        }
        symlink("/dev/null", place)?;
    }
    fs::write(units.join("berth-vm.service"), UNIT)?;
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink(
        "/etc/systemd/system/berth-vm.service",
        wants.join("berth-vm.service"),
    )?;
    fs::create_dir_all(root.join("payload"))?;
    fs::write(root.join("etc/hostname"), "berth-vm\n")?;
    fs::write(root.join("etc/fstab"), "")?;
    // Without a number systemd takes the boot for the first one and sets up again.
    fs::write(
        root.join("etc/machine-id"),
        "b0e2700000000000000000000000b0e2\n",
    )?;
    // The root of ordinary users' containers is asked for by name in podman.
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

fn first_archive(root: &Path, version: &str) -> Result<Vec<u8>> {
    let modules = root.join("lib/modules").join(version);
    let order = kernel::load_order(
        &fs::read_to_string(modules.join("modules.dep"))?,
        initramfs::MODULES,
    );
    let mut entries: Vec<_> = ["bin", "dev", "proc", "root", "modules"]
        .map(initramfs::folder)
        .into();
    entries.push(initramfs::file("init", initramfs::INIT.into()));
    entries.push(initramfs::file(
        "bin/busybox",
        fs::read(root.join("bin/busybox"))?,
    ));
    let mut list = String::new();
    for (index, file) in order.iter().enumerate() {
        let name = format!("{index}.ko");
        let bytes = kernel::read_module(&modules.join(file))?;
        entries.push(initramfs::file(&format!("modules/{name}"), bytes));
        list.push_str(&name);
        list.push('\n');
    }
    entries.push(initramfs::file("modules/order", list.into()));
    Ok(initramfs::archive(&entries))
}

/// Systems of other keys, so that only one takes up space.
fn remove_others(place: &Path) -> Result<()> {
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path.join("system.ext4").exists() && !path.ends_with("system.new") {
            remove_folder(&path)?;
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{distribution, key};

    const DEBIAN: &str = "ID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID=\"12\"\n";

    #[test]
    fn the_guest_is_of_the_hosts_distribution() {
        let debian = distribution(DEBIAN).expect("known");
        assert_eq!(debian.codename, "bookworm");
        assert_eq!(debian.kernel, "linux-image-cloud-amd64");
        let ubuntu = distribution("ID=ubuntu\nVERSION_CODENAME=noble\n").expect("known");
        assert_eq!(ubuntu.kernel, "linux-image-virtual");
        assert_ne!(key(&debian), key(&ubuntu));
    }

    #[test]
    fn an_unknown_distribution_is_refused_by_name() {
        let error = distribution("ID=fedora\n").expect_err("not ours");
        assert!(error.to_string().contains("fedora"), "{error}");
    }
}
