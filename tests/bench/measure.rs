//! Runs contenders in turn and reduces their times.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// One program, or one way, that is measured.
pub struct Contender<'a> {
    /// As the table's row names it.
    pub name: String,
    /// One run, from outside: what is timed.
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
    /// Between runs, not timed: takes back what the run left.
    pub reset: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl<'a> Contender<'a> {
    /// One that leaves nothing behind.
    pub fn new(name: impl Into<String>, run: impl FnMut() -> Result<()> + 'a) -> Self {
        Contender {
            name: name.into(),
            run: Box::new(run),
            reset: Box::new(|| Ok(())),
        }
    }
}

/// The times of one contender, shortest first.
pub struct Times {
    /// As the table's row names it.
    pub name: String,
    sorted: Vec<Duration>,
}

impl Times {
    /// Of what was measured otherwise than by [`in_turn`].
    pub fn of(name: impl Into<String>, mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times {
            name: name.into(),
            sorted: times,
        }
    }

    /// The middle one.
    pub fn median(&self) -> Duration {
        self.sorted[self.sorted.len() / 2]
    }

    /// The shortest.
    pub fn min(&self) -> Duration {
        self.sorted[0]
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.sorted[self.sorted.len() - 1]
    }
}

/// How often a benchmark that wants `full` rounds goes round: `BERTH_BENCH_ROUNDS`
/// makes it less, for a look whether it works.
pub fn rounds(full: usize) -> usize {
    few_rounds().map_or(full, |few| few.clamp(1, full))
}

/// What [`rounds`] was asked for. A table of so few is not for the page.
pub fn few_rounds() -> Option<usize> {
    std::env::var("BERTH_BENCH_ROUNDS").ok()?.parse().ok()
}

/// Runs every contender once uncounted, then `rounds` times in turn.
///
/// # Errors
///
/// The first run that fails ends the measurement: a time of a failure is none.
pub fn in_turn(contenders: &mut [Contender<'_>], rounds: usize) -> Result<Vec<Times>> {
    assert!(rounds > 0, "a median needs at least one round");
    let mut times: Vec<Times> = contenders
        .iter()
        .map(|contender| Times {
            name: contender.name.clone(),
            sorted: Vec::with_capacity(rounds),
        })
        .collect();
    for round in 0..=rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (contender.run)().with_context(|| format!("{} in round {round}", contender.name))?;
            let taken = start.elapsed();
            (contender.reset)().with_context(|| format!("resetting {}", contender.name))?;
            // The first round fills caches and is nobody's measure.
            if round > 0 {
                times.sorted.push(taken);
            }
        }
    }
    for times in &mut times {
        times.sorted.sort_unstable();
    }
    Ok(times)
}

/// Runs a program that must succeed; its complaints are for the error.
pub fn quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
