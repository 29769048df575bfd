//! What a person sees of a running pod: progress, messages, lines of logs.
//!
//! Progress bars redraw the last lines of the terminal. Everything else that is
//! printed meanwhile goes through [`Screen`], which takes the bars away for the
//! moment.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::logs::print::{Printer, Style};
use crate::output::short_id;

/// How far one layer of an image is; also sent from a worker in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The image, as it was asked for.
    pub image: String,
    /// The layer.
    pub digest: String,
    /// Its size as it is transferred, where known.
    pub total_bytes: Option<u64>,
    /// What is done with it.
    pub phase: LayerPhase,
    /// How much of that is done.
    pub done_bytes: u64,
}

/// What is done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerPhase {
    /// It waits for its turn.
    Waiting,
    /// It was here before.
    Exists,
    /// It comes over the network.
    Downloading,
    /// It becomes files.
    Unpacking,
    /// It is there.
    Done,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// Failures alone.
    Quiet,
    /// Progress, warnings, and when the pod is ready.
    Normal,
    /// Every event.
    Verbose,
}

/// The terminal of a command that runs or pulls.
#[derive(Debug)]
pub struct Screen {
    talk: Talk,
    bars: MultiProgress,
    layers: Mutex<BTreeMap<(String, String), ProgressBar>>,
    printer: Mutex<Printer>,
}

impl Screen {
    /// Nothing has been shown yet. `style` is for lines of logs.
    pub fn new(talk: Talk, style: Style) -> Screen {
        let hidden = talk == Talk::Quiet || !io::stderr().is_terminal();
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Screen {
            talk,
            bars: MultiProgress::with_draw_target(target),
            layers: Mutex::new(BTreeMap::new()),
            printer: Mutex::new(Printer::new(style)),
        }
    }

    /// How much is said.
    pub fn talk(&self) -> Talk {
        self.talk
    }

    /// One line for a person, unless silence was asked for.
    pub fn say(&self, line: &str) {
        if self.talk != Talk::Quiet {
            self.warn(line);
        }
    }

    /// One line for a person, in any case.
    pub fn warn(&self, line: &str) {
        // A raw terminal does not go back to the line's beginning by itself.
        let end = if crate::terminal::is_raw() {
            "\r\n"
        } else {
            "\n"
        };
        self.bars.suspend(|| {
            // Nobody may be reading; the pod matters more.
            let _ = io::Write::write_all(&mut io::stderr(), format!("{line}{end}").as_bytes());
        });
    }

    /// Entries of a container's log.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn print_log(&self, container: &str, entries: &[Vec<u8>]) -> io::Result<()> {
        self.bars
            .suspend(|| lock(&self.printer).print(container, entries))
    }

    /// Moves the bar of a layer.
    pub fn show_layer(&self, report: &LayerReport) {
        let mut layers = lock(&self.layers);
        let key = (report.image.clone(), report.digest.clone());
        if report.phase == LayerPhase::Exists && !layers.contains_key(&key) {
            return;
        }
        let bar = layers.entry(key).or_insert_with(|| {
            let bar = self
                .bars
                .add(ProgressBar::new(report.total_bytes.unwrap_or(0)));
            bar.set_style(layer_style());
            bar.set_prefix(short_id(&report.digest));
            bar
        });
        if let Some(total) = report.total_bytes {
            bar.set_length(total);
        }
        bar.set_message(match report.phase {
            LayerPhase::Waiting => "waiting",
            LayerPhase::Exists => "is here",
            LayerPhase::Downloading => "downloading",
            LayerPhase::Unpacking => "unpacking",
            LayerPhase::Done => "done",
        });
        match report.phase {
            LayerPhase::Done | LayerPhase::Exists => bar.finish(),
            _ => bar.set_position(report.done_bytes),
        }
    }

    /// Takes the bars of an image away.
    pub fn end_pull(&self, image: &str) {
        let mut layers = lock(&self.layers);
        layers.retain(|(of, _), bar| {
            if of == image {
                bar.finish_and_clear();
                self.bars.remove(bar);
            }
            of != image
        });
    }
}

fn layer_style() -> ProgressStyle {
    let template = "  {prefix} {msg:11} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another task leaves a line half printed at worst.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// `1.2s`, for how long something took.
pub fn write_elapsed(elapsed: Duration) -> String {
    format!("{:.1}s", elapsed.as_secs_f64())
}
