//! Where manifests come from: files, URLs, standard input.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::error::{Context, Error, Result};

/// A manifest of more bytes is a mistake, or an attack.
const LIMIT_BYTES: u64 = 16 << 20;

/// Whether a word names a manifest rather than an image.
///
/// An image's name has no scheme and, in its last part, no `.yaml`. A file that
/// is there but is named otherwise must be told apart by the way it is written:
/// `./pod` or `-f pod`; a file called `nginx` shall not hide the image.
pub fn is_manifest(word: &str) -> bool {
    let named = |ending: &str| word.len() > ending.len() && word.ends_with(ending);
    word == "-"
        || word.starts_with("http://")
        || word.starts_with("https://")
        || word.starts_with("file://")
        || word.starts_with('/')
        || word.starts_with("./")
        || word.starts_with("../")
        || named(".yaml")
        || named(".yml")
        || named(".json")
        || (word.contains('/') && Path::new(word).is_file())
}

/// The text, and what to call it in messages.
///
/// # Errors
///
/// The file, the URL or the input cannot be read, or is not UTF-8.
pub fn read(name: &str) -> Result<(String, String)> {
    if name == "-" {
        let text = read_limited(std::io::stdin().lock()).context("read standard input")?;
        return Ok((text, "standard input".to_owned()));
    }
    if name.starts_with("http://") || name.starts_with("https://") {
        return Ok((
            fetch(name).context(format!("fetch {name}"))?,
            name.to_owned(),
        ));
    }
    let path = name.strip_prefix("file://").unwrap_or(name);
    let file = std::fs::File::open(path).context(format!("read {path}"))?;
    let text = read_limited(file).context(format!("read {path}"))?;
    Ok((text, path.to_owned()))
}

fn read_limited(source: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    source
        .take(LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .context("read")?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(Error::new(format!(
            "more than {LIMIT_BYTES} bytes: no manifest is that long"
        )));
    }
    let text = std::str::from_utf8(&bytes).context("expected UTF-8")?;
    Ok(text.to_owned())
}

fn fetch(url: &str) -> Result<String> {
    // A process has one provider of cryptography; another part may have set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(60))
            .build()
            .context("make a client")?;
        let mut response = client
            .get(url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(reqwest::Error::without_url)
            .context("the server")?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.context("read the answer")? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > LIMIT_BYTES {
                break;
            }
        }
        read_limited(bytes.as_slice())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_manifest_or_an_image() {
        for word in [
            "-",
            "pod.yaml",
            "a/pod.yml",
            "x.json",
            "http://h/p",
            "./pod",
            "/pod",
        ] {
            assert!(is_manifest(word), "{word}");
        }
        for word in [
            "nginx",
            "docker.io/library/nginx:1.29",
            "localhost:5000/x",
            ".yaml",
        ] {
            assert!(!is_manifest(word), "{word}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = read("/nowhere/pod.yaml").unwrap_err();
        assert!(
            error.chain().starts_with("read /nowhere/pod.yaml: "),
            "{}",
            error.chain()
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod.yaml");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        let error = read(&path.to_string_lossy()).unwrap_err();
        assert!(
            error.chain().contains("expected UTF-8"),
            "{}",
            error.chain()
        );
    }
}
