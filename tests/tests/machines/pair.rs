//! Both machines, as the first sees them.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_tests::image::examples;
use berth_tests::patience::stretched;
use berth_tests::registry::{Access, Registry};
use serde_json::Value;

use crate::errand::{self, Errand, Office, Outcome};

/// The environment of every command: what `./x install` installs is found first.
const PATH: &str = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One of the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the story is told, and the cluster's server is.
    One,
    /// The other one.
    Two,
}

/// Both.
pub const BOTH: [Place; 2] = [Place::One, Place::Two];

/// The machines, and the registry that both pull from.
#[derive(Debug)]
pub struct Pair {
    office: Office,
    registry: Registry,
    addresses: [IpAddr; 2],
    begun: Instant,
}

impl Place {
    /// The node's name.
    pub fn name(self) -> &'static str {
        match self {
            Place::One => "one",
            Place::Two => "two",
        }
    }
}

impl Pair {
    /// Serves the examples' images on the first machine and waits for the second.
    ///
    /// # Errors
    ///
    /// Debian's packages for the images are not installed, or the second is not there.
    pub fn meet(one: IpAddr, two: IpAddr) -> Result<Pair> {
        let registry = Registry::start_on(SocketAddr::new(one, 5000), Access::Open)?;
        let pair = Pair {
            office: Office::open(one)?,
            registry,
            addresses: [one, two],
            begun: Instant::now(),
        };
        examples::push_all(&pair.registry)?;
        let mirrors = pair.registry.mirror_configuration();
        for place in BOTH {
            pair.write(place, "/etc/berth/registries.toml", &mirrors);
        }
        Ok(pair)
    }

    /// A machine's address on the wire.
    pub fn address(&self, place: Place) -> IpAddr {
        match place {
            Place::One => self.addresses[0],
            Place::Two => self.addresses[1],
        }
    }

    /// Says what goes on, past the test's capture: such a run takes minutes.
    pub fn say(&self, what: &str) {
        let seconds = self.begun.elapsed().as_secs();
        let _ = writeln!(std::io::stderr(), "{seconds:>4} s  {what}");
    }

    /// Runs a command on a machine; how it ended.
    pub fn output(&self, place: Place, words: &[&str], input: &str) -> Outcome {
        let errand = Errand {
            words: ["env", PATH]
                .iter()
                .chain(words)
                .map(|word| (*word).to_owned())
                .collect(),
            input: input.to_owned(),
        };
        let outcome = match place {
            Place::One => errand::run(&errand),
            Place::Two => self.office.send(&errand),
        };
        outcome
            .with_context(|| format!("{} on {place:?}", words.join(" ")))
            .unwrap()
    }

    /// Runs a command on a machine, which must succeed; what it wrote.
    pub fn run(&self, place: Place, words: &[&str]) -> String {
        self.run_with(place, words, "")
    }

    /// The same with standard input.
    pub fn run_with(&self, place: Place, words: &[&str], input: &str) -> String {
        let outcome = self.output(place, words, input);
        assert_eq!(
            outcome.code,
            Some(0),
            "{} on {place:?}:\n{}{}",
            words.join(" "),
            outcome.stdout,
            outcome.stderr,
        );
        outcome.stdout
    }

    /// Runs a command that may fail for a while; what it wrote, or what went wrong.
    pub fn try_run(&self, place: Place, words: &[&str]) -> Result<String> {
        let outcome = self.output(place, words, "");
        ensure!(
            outcome.code == Some(0),
            "{} on {place:?}: {:?} {}{}",
            words.join(" "),
            outcome.code,
            outcome.stdout,
            outcome.stderr
        );
        Ok(outcome.stdout)
    }

    /// `berth` on the first machine, which must succeed; what it wrote.
    pub fn berth(&self, words: &[&str]) -> String {
        self.run(Place::One, &[&["berth"], words].concat())
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        self.run_with(Place::One, &["berth", "apply", "-f", "-"], manifest);
    }

    /// Objects of the cluster, as the API has them.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn objects(&self, words: &[&str]) -> Result<Vec<Value>> {
        let all = [&["berth", "-o", "json", "get"], words].concat();
        let found: Value = serde_json::from_str(&self.try_run(Place::One, &all)?)?;
        Ok(match found {
            Value::Array(items) => items,
            Value::Object(mut object) => match object.remove("items") {
                Some(Value::Array(items)) => items,
                _ => vec![Value::Object(object)],
            },
            _ => Vec::new(),
        })
    }

    /// The page at an address, asked from a machine itself.
    ///
    /// # Errors
    ///
    /// No answer, or another status than 200.
    pub fn ask(&self, place: Place, address: &str) -> Result<String> {
        let limit = stretched(Duration::from_secs(5)).as_secs().to_string();
        self.try_run(
            place,
            &["curl", "-sSf", "-m", &limit, &format!("http://{address}/")],
        )
    }

    /// What a command of a pod wrote; the pod may be on any machine.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.try_run(
            Place::One,
            &[&["berth", "exec", "--cluster", pod], words].concat(),
        )
    }

    /// Writes a file on a machine.
    pub fn write(&self, place: Place, path: &str, text: &str) {
        let folder = Path::new(path).parent().unwrap().display().to_string();
        self.run(place, &["mkdir", "-p", &folder]);
        self.run_with(place, &["tee", path], text);
    }

    /// Waits until something holds.
    ///
    /// # Panics
    ///
    /// The time is over; the message holds what `is` said last, and what the nodes did.
    pub fn until(&self, what: &str, limit: Duration, mut is: impl FnMut() -> Result<()>) {
        let deadline = Instant::now() + stretched(limit);
        loop {
            let Err(error) = is() else { return };
            assert!(
                Instant::now() < deadline,
                "{what} within {:?}: {error:#}\n{}",
                stretched(limit),
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until a node is ready, or is not.
    pub fn until_ready(&self, place: Place, wanted: &str) {
        let name = place.name();
        self.until(
            &format!("node {name} is ready: {wanted}"),
            Duration::from_secs(60),
            || {
                let nodes = self.objects(&["node", name])?;
                let conditions = &nodes[0]["status"]["conditions"];
                let found = conditions
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|condition| condition["type"] == "Ready");
                ensure!(
                    found.is_some_and(|ready| ready["status"] == wanted),
                    "{found:?}"
                );
                Ok(())
            },
        );
    }

    /// The end of what both nodes' processes said.
    pub fn logs(&self) -> String {
        let words = [
            "journalctl",
            "-u",
            "berth-node",
            "-n",
            "80",
            "--no-pager",
            "-o",
            "cat",
        ];
        let said = BOTH.map(|place| self.output(place, &words, "").stdout);
        format!("one said:\n{}\ntwo said:\n{}", said[0], said[1])
    }
}
