//! Who is told how a run goes: a person at a terminal, or, from a process in
//! the background, the one that started it.

use serde::{Deserialize, Serialize};

use crate::screen::{LayerReport, Screen, Talk};

/// Is told how a run goes.
pub trait Audience: Send + Sync {
    /// A line worth reading.
    fn say(&self, line: &str);
    /// A line that must be read.
    fn warn(&self, line: &str);
    /// A detail.
    fn detail(&self, line: &str);
    /// A layer of an image moved on.
    fn layer(&self, report: &LayerReport);
    /// An image is there, or will not be.
    fn end_pull(&self, image: &str);
    /// Entries of a container's log.
    fn log(&self, container: &str, entries: &[Vec<u8>]);
    /// A pod is ready.
    fn ready(&self, pod: &str, line: &str);
    /// A pod has ended, or is about to, without having been ready.
    fn failed(&self, pod: &str, reason: &str, exit_code: u8);
    /// A pod is not ready and goes on trying.
    fn struggles(&self, pod: &str, reason: &str);
}

impl Audience for Screen {
    fn say(&self, line: &str) {
        Screen::say(self, line);
    }

    fn warn(&self, line: &str) {
        Screen::warn(self, line);
    }

    fn detail(&self, line: &str) {
        if self.talk() == Talk::Verbose {
            Screen::warn(self, line);
        }
    }

    fn layer(&self, report: &LayerReport) {
        self.show_layer(report);
    }

    fn end_pull(&self, image: &str) {
        Screen::end_pull(self, image);
    }

    fn log(&self, container: &str, entries: &[Vec<u8>]) {
        // When nobody reads the logs, the pod runs on.
        let _ = self.print_log(container, entries);
    }

    fn ready(&self, _pod: &str, line: &str) {
        Screen::say(self, line);
    }

    fn failed(&self, _pod: &str, _reason: &str, _exit_code: u8) {
        // The command's own error says it.
    }

    fn struggles(&self, _pod: &str, _reason: &str) {
        // The event that says so is shown.
    }
}

/// What a process in the background tells the one that started it, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    /// [`Audience::say`].
    Say {
        /// The line.
        line: String,
    },
    /// [`Audience::warn`].
    Warn {
        /// The line.
        line: String,
    },
    /// [`Audience::layer`].
    Layer(LayerReport),
    /// [`Audience::end_pull`].
    EndPull {
        /// The image.
        image: String,
    },
    /// [`Audience::ready`].
    Ready {
        /// The pod.
        pod: String,
        /// What to print.
        line: String,
    },
    /// [`Audience::failed`].
    Failed {
        /// The pod.
        pod: String,
        /// Why.
        reason: String,
        /// For the program that waits.
        exit_code: u8,
    },
    /// [`Audience::struggles`].
    Struggles {
        /// The pod.
        pod: String,
        /// Why.
        reason: String,
    },
}

/// The audience of a process in the background: its standard output, while
/// somebody reads it, and its log.
#[derive(Debug, Default)]
pub struct Starter;

impl Starter {
    fn tell(&self, message: &Message) {
        use std::io::Write;
        let Ok(mut line) = serde_json::to_vec(message) else {
            return;
        };
        line.push(b'\n');
        // The starter goes as soon as it knows enough.
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

impl Audience for Starter {
    fn say(&self, line: &str) {
        tracing::info!("{line}");
        self.tell(&Message::Say {
            line: line.to_owned(),
        });
    }

    fn warn(&self, line: &str) {
        tracing::warn!("{line}");
        self.tell(&Message::Warn {
            line: line.to_owned(),
        });
    }

    fn detail(&self, line: &str) {
        tracing::info!("{line}");
    }

    fn layer(&self, report: &LayerReport) {
        self.tell(&Message::Layer(report.clone()));
    }

    fn end_pull(&self, image: &str) {
        self.tell(&Message::EndPull {
            image: image.to_owned(),
        });
    }

    fn log(&self, _container: &str, _entries: &[Vec<u8>]) {
        // Logs are in their files; nobody follows them here.
    }

    fn ready(&self, pod: &str, line: &str) {
        tracing::info!("{line}");
        self.tell(&Message::Ready {
            pod: pod.to_owned(),
            line: line.to_owned(),
        });
    }

    fn failed(&self, pod: &str, reason: &str, exit_code: u8) {
        tracing::error!("pod {pod}: {reason}");
        let (pod, reason) = (pod.to_owned(), reason.to_owned());
        self.tell(&Message::Failed {
            pod,
            reason,
            exit_code,
        });
    }

    fn struggles(&self, pod: &str, reason: &str) {
        tracing::warn!("pod {pod}: {reason}");
        self.tell(&Message::Struggles {
            pod: pod.to_owned(),
            reason: reason.to_owned(),
        });
    }
}
