//! `nginx`, with the libraries it loads, from Debian's `nginx-light`.
//!
//! The dynamic loader says itself what a program needs: `ldd` runs it with
//! `LD_TRACE_LOADED_OBJECTS` set, and it prints the files it would map
//! (`ld.so(8)`). Those files, at those paths, are the whole of the image's
//! libraries.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::layer::Entry;
use super::{ImagePlan, LayerPlan, busybox, host_file};

const PROGRAM: &str = "/usr/sbin/nginx";

/// The page that is served when nothing is mounted over it.
pub const WELCOME: &str =
    "<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n";

/// The image `nginx`: busybox's layer below, the server above.
///
/// # Errors
///
/// `nginx-light` or `busybox-static` is not installed.
pub fn plan() -> Result<ImagePlan> {
    ensure!(
        Path::new(PROGRAM).exists(),
        "{PROGRAM} is missing: apt-get install nginx-light"
    );
    let mut entries = folders();
    entries.push(host_file(Path::new(PROGRAM), "usr/sbin/nginx")?);
    for library in libraries(PROGRAM)? {
        add_with_parents(&mut entries, &library)?;
    }
    entries.push(Entry::file(
        "etc/nginx/nginx.conf",
        0o644,
        configuration(80),
    ));
    entries.push(host_file(
        Path::new("/etc/nginx/mime.types"),
        "etc/nginx/mime.types",
    )?);
    entries.push(Entry::file(
        "usr/share/nginx/html/index.html",
        0o644,
        WELCOME,
    ));
    let server = LayerPlan {
        entries,
        ..LayerPlan::default()
    };
    let config = json!({
        "Cmd": ["nginx", "-g", "daemon off;"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "ExposedPorts": {"80/tcp": {}},
        // Nginx ends its connections in order on QUIT and cuts them on TERM.
        "StopSignal": "SIGQUIT",
    });
    Ok(ImagePlan {
        layers: vec![busybox::layer()?, server],
        config,
    })
}

/// Listens on a port over IPv4 and IPv6 and serves `/usr/share/nginx/html`. One
/// worker: a test's nginx has nothing to do in parallel.
pub fn configuration(port: u16) -> String {
    format!(
        "\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events {{ worker_connections 256; }}
http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    server {{
        listen {port};
        listen [::]:{port};
        root /usr/share/nginx/html;
        index index.html;
    }}
}}
"
    )
}

/// The files that the dynamic loader would map for a program.
///
/// # Errors
///
/// `ldd` cannot read the program, or a library is missing on this machine.
pub fn libraries(program: &str) -> Result<Vec<String>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && !text.contains("not found"),
        "ldd {program}: {text}"
    );
    // "libz.so.1 => /lib/…/libz.so.1 (0x…)" or "/lib64/ld-linux….so.2 (0x…)";
    // the kernel's own vdso has no path.
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}

/// Adds a file of this machine at its own path, its folders before it. Two programs may
/// need one library; an archive that had it twice would be refused by some engines.
///
/// # Errors
///
/// The file cannot be read.
pub fn add_with_parents(entries: &mut Vec<Entry>, library: &str) -> Result<()> {
    let target = library.trim_start_matches('/');
    for (index, _) in target.match_indices('/') {
        let parent = &target[..index];
        if !entries.iter().any(|entry| entry.path == parent) {
            entries.push(Entry::directory(parent, 0o755));
        }
    }
    if !entries.iter().any(|entry| entry.path == target) {
        entries.push(host_file(Path::new(library), target)?);
    }
    Ok(())
}

fn folders() -> Vec<Entry> {
    let mut entries: Vec<Entry> = [
        "etc/nginx",
        "usr/share",
        "usr/share/nginx",
        "usr/share/nginx/html",
        "var/lib",
        "var/log",
        "var/log/nginx",
    ]
    .into_iter()
    .map(|path| Entry::directory(path, 0o755))
    .collect();
    // Bodies of requests that do not fit into memory go here.
    entries.push(Entry::directory("var/lib/nginx", 0o755).owned_by(33, 33));
    entries
}
