//! When which question is due, and what an answer means.
//!
//! Time is a [`Duration`] since the container started, told by the caller, so
//! that every path through this machine can be tested in no time.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Has it come up?
    Startup,
    /// Is it beyond help?
    Liveness,
    /// Should it be sent work?
    Readiness,
}

impl ProbeKind {
    /// As the kubelet's events write it.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Success,
    /// It is not, in one sentence.
    Failure(String),
    /// The question was not asked: the runtime is away. It says nothing of the container.
    Unasked(String),
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The container has come up.
    Started,
    /// It can be sent work.
    Ready,
    /// It can no longer.
    Unready,
    /// It is to be killed, with this grace if the probe names one.
    Kill {
        /// The question that failed too often.
        kind: ProbeKind,
        /// The probe's own grace.
        grace: Option<Duration>,
    },
}

/// The probes of one started container.
#[derive(Debug, Clone)]
pub struct ProbeMachine {
    startup: Option<Question>,
    liveness: Option<Question>,
    readiness: Option<Question>,
    started: bool,
    ready: bool,
}

/// One probe and its answers in a row.
#[derive(Debug, Clone)]
struct Question {
    probe: Probe,
    due: Duration,
    successes: i32,
    failures: i32,
}

impl ProbeMachine {
    /// The probes of a container that has just started.
    pub fn new(container: &Container) -> ProbeMachine {
        let question = |probe: &Option<Probe>| probe.clone().map(Question::new);
        let startup = question(&container.startup_probe);
        let readiness = question(&container.readiness_probe);
        let started = startup.is_none();
        ProbeMachine {
            ready: started && readiness.is_none(),
            started,
            startup,
            liveness: question(&container.liveness_probe),
            readiness,
        }
    }

    /// Goes on with what was found before; nothing is asked twice for it.
    pub fn resume(&mut self, started: bool, ready: bool, now: Duration) {
        if started && !self.started {
            self.come_up(now);
        }
        if started && ready {
            self.ready = true;
        }
    }

    /// Whether the container has come up.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether it can be sent work.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The questions that are due at this time.
    pub fn due(&self, now: Duration) -> Vec<(ProbeKind, Probe)> {
        self.asked()
            .filter(|(_, question)| question.due <= now)
            .map(|(kind, question)| (kind, question.probe.clone()))
            .collect()
    }

    /// When the next question is due; never, if there is none.
    pub fn next_due(&self) -> Option<Duration> {
        self.next_due_except(&[])
    }

    /// As [`ProbeMachine::next_due`], without questions that are being asked.
    pub fn next_due_except(&self, asked: &[ProbeKind]) -> Option<Duration> {
        self.asked()
            .filter(|(kind, _)| !asked.contains(kind))
            .map(|(_, question)| question.due)
            .min()
    }

    /// Takes an answer that came at this time.
    pub fn record(&mut self, kind: ProbeKind, answer: &Answer, now: Duration) -> Vec<Effect> {
        let question = match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        };
        let Some(question) = question else {
            return Vec::new();
        };
        question.due = now + question.period();
        let (passed, failed) = question.count(answer);
        let kill = Effect::Kill {
            kind,
            grace: question.own_grace(),
        };
        match kind {
            ProbeKind::Startup if passed => self.come_up(now),
            ProbeKind::Startup | ProbeKind::Liveness if failed => vec![kill],
            ProbeKind::Readiness if passed && !self.ready => {
                self.ready = true;
                vec![Effect::Ready]
            }
            ProbeKind::Readiness if failed && self.ready => {
                self.ready = false;
                vec![Effect::Unready]
            }
            _ => Vec::new(),
        }
    }

    /// The startup probe passed: it is asked no more, the others begin.
    fn come_up(&mut self, now: Duration) -> Vec<Effect> {
        self.startup = None;
        self.started = true;
        // At once, where their delay is over: who waited long enough to come up
        // need not wait for another period to be found ready.
        for question in [&mut self.liveness, &mut self.readiness]
            .into_iter()
            .flatten()
        {
            question.due = question.due.max(now);
        }
        if self.readiness.is_none() {
            self.ready = true;
            return vec![Effect::Started, Effect::Ready];
        }
        vec![Effect::Started]
    }

    /// The questions that may be asked in this state.
    fn asked(&self) -> impl Iterator<Item = (ProbeKind, &Question)> {
        let later = self.started.then_some([
            (ProbeKind::Liveness, &self.liveness),
            (ProbeKind::Readiness, &self.readiness),
        ]);
        [(ProbeKind::Startup, &self.startup)]
            .into_iter()
            .chain(later.into_iter().flatten())
            .filter_map(|(kind, question)| Some((kind, question.as_ref()?)))
    }
}

impl Question {
    fn new(probe: Probe) -> Question {
        Question {
            due: seconds(probe.initial_delay_seconds.unwrap_or(0)),
            successes: 0,
            failures: 0,
            probe,
        }
    }

    /// Whether this answer reaches the threshold of passing, or of failing.
    fn count(&mut self, answer: &Answer) -> (bool, bool) {
        match answer {
            Answer::Success => {
                self.successes = self.successes.saturating_add(1);
                self.failures = 0;
            }
            Answer::Failure(_) => {
                self.failures = self.failures.saturating_add(1);
                self.successes = 0;
            }
            Answer::Unasked(_) => return (false, false),
        }
        let success_threshold = self.probe.success_threshold.unwrap_or(1).max(1);
        let failure_threshold = self.probe.failure_threshold.unwrap_or(3).max(1);
        (
            self.successes >= success_threshold,
            self.failures >= failure_threshold,
        )
    }

    fn period(&self) -> Duration {
        seconds(self.probe.period_seconds.unwrap_or(10).max(1))
    }

    fn own_grace(&self) -> Option<Duration> {
        let grace = self.probe.termination_grace_period_seconds?;
        Some(Duration::from_secs(u64::try_from(grace).unwrap_or(0)))
    }
}

fn seconds(value: i32) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{Answer, Effect, ProbeKind, ProbeMachine};
    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn machine(fields: Value) -> ProbeMachine {
        let container: Container = serde_json::from_value(fields).unwrap();
        ProbeMachine::new(&container)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn bad() -> Answer {
        Answer::Failure("no".to_owned())
    }

    fn kinds(machine: &ProbeMachine, now: Duration) -> Vec<ProbeKind> {
        machine.due(now).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn what_was_found_before_holds_until_a_probe_says_otherwise() {
        let mut machine = machine(json!({"name": "a",
            "startupProbe": {"periodSeconds": 1},
            "readinessProbe": {"periodSeconds": 1, "failureThreshold": 1}}));
        machine.resume(true, true, at(100));
        assert!(machine.is_started() && machine.is_ready());
        assert_eq!(kinds(&machine, at(100)), [ProbeKind::Readiness]);
        let effects = machine.record(ProbeKind::Readiness, &bad(), at(101));
        assert_eq!(effects, [Effect::Unready]);
    }

    #[test]
    fn without_probes_a_container_is_ready_as_it_starts() {
        let machine = machine(json!({"name": "a"}));
        assert!(machine.is_started() && machine.is_ready());
        assert_eq!(machine.next_due(), None);
    }

    #[test]
    fn startup_holds_the_others_back() {
        let mut machine = machine(json!({"name": "a",
            "startupProbe": {"periodSeconds": 1, "failureThreshold": 3},
            "livenessProbe": {"periodSeconds": 5},
            "readinessProbe": {"periodSeconds": 5, "initialDelaySeconds": 20}}));
        assert_eq!(kinds(&machine, at(0)), [ProbeKind::Startup]);
        assert_eq!(machine.record(ProbeKind::Startup, &bad(), at(0)), []);
        assert_eq!(machine.record(ProbeKind::Startup, &bad(), at(1)), []);
        assert!(kinds(&machine, at(1)).is_empty());
        let effects = machine.record(ProbeKind::Startup, &Answer::Success, at(2));
        assert_eq!(effects, [Effect::Started]);
        assert!(!machine.is_ready());
        assert_eq!(kinds(&machine, at(2)), [ProbeKind::Liveness]);
        let both = [ProbeKind::Liveness, ProbeKind::Readiness];
        assert_eq!(kinds(&machine, at(20)), both);
    }

    #[test]
    fn startup_that_fails_too_often_kills() {
        let mut machine = machine(json!({"name": "a", "startupProbe":
            {"failureThreshold": 2, "terminationGracePeriodSeconds": 3}}));
        assert_eq!(machine.record(ProbeKind::Startup, &bad(), at(0)), []);
        let kill = Effect::Kill {
            kind: ProbeKind::Startup,
            grace: Some(at(3)),
        };
        assert_eq!(machine.record(ProbeKind::Startup, &bad(), at(10)), [kill]);
    }

    #[test]
    fn liveness_kills_after_failures_in_a_row_only() {
        let mut machine = machine(json!({"name": "a", "livenessProbe": {"failureThreshold": 2}}));
        assert!(machine.is_ready());
        let mut effects = Vec::new();
        for (second, answer) in [bad(), Answer::Success, bad(), bad()].iter().enumerate() {
            let now = at(second as u64 * 10);
            assert_eq!(kinds(&machine, now), [ProbeKind::Liveness]);
            effects.push(machine.record(ProbeKind::Liveness, answer, now));
        }
        let kill = Effect::Kill {
            kind: ProbeKind::Liveness,
            grace: None,
        };
        assert_eq!(effects, [vec![], vec![], vec![], vec![kill]]);
    }

    #[test]
    fn readiness_comes_and_goes_by_its_thresholds() {
        let mut machine = machine(json!({"name": "a", "readinessProbe":
            {"successThreshold": 2, "failureThreshold": 2, "periodSeconds": 1}}));
        let answers = [
            Answer::Success,
            Answer::Success,
            bad(),
            Answer::Success,
            bad(),
            bad(),
            bad(),
        ];
        let ready: Vec<bool> = answers
            .iter()
            .enumerate()
            .map(|(second, answer)| {
                machine.record(ProbeKind::Readiness, answer, at(second as u64));
                machine.is_ready()
            })
            .collect();
        assert_eq!(ready, [false, true, true, true, true, false, false]);
    }

    #[test]
    fn an_answer_to_a_question_that_is_over_means_nothing() {
        let mut machine = machine(json!({"name": "a", "startupProbe": {"failureThreshold": 1}}));
        machine.record(ProbeKind::Startup, &Answer::Success, at(0));
        assert_eq!(machine.record(ProbeKind::Startup, &bad(), at(1)), []);
        assert_eq!(machine.next_due(), None);
    }

    #[test]
    fn a_question_that_was_not_asked_says_nothing() {
        let mut machine = machine(json!({"name": "a",
            "livenessProbe": {"exec": {"command": ["true"]}, "failureThreshold": 2}}));
        let away = Answer::Unasked("nobody listens".to_owned());
        for second in 0..9 {
            let at = Duration::from_secs(second);
            assert_eq!(machine.record(ProbeKind::Liveness, &away, at), []);
        }
        // Failures count on where they were.
        let at = Duration::from_secs;
        assert_eq!(machine.record(ProbeKind::Liveness, &bad(), at(10)), []);
        assert_eq!(machine.record(ProbeKind::Liveness, &away, at(11)), []);
        assert_eq!(machine.record(ProbeKind::Liveness, &bad(), at(12)).len(), 1);
    }

    #[test]
    fn a_slow_answer_moves_the_next_question() {
        let mut machine = machine(json!({"name": "a", "livenessProbe": {"periodSeconds": 2}}));
        machine.record(ProbeKind::Liveness, &Answer::Success, at(7));
        assert_eq!(machine.next_due(), Some(at(9)));
    }
}
