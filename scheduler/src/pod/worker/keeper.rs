//! One container, kept as its pod wants it.
//!
//! ```text
//!        ┌────────────── back-off ──────────────┐
//!        ▼                                      │
//!  image ─▶ create ─▶ start ─▶ postStart ─▶ attend ─▶ exit ─▶ done
//!                                 │             │
//!                                 └── fails ────┴─ probe fails, order ─▶ end
//! ```
//!
//! *end* is the same wherever it comes from: `preStop`, the stop signal, the
//! rest of the grace, SIGKILL.

use std::{sync::Arc, time::Duration};

use berth_cri::v1;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    exit::{self, Exit},
    hooks,
    life::{Fetch, Life, Sandbox},
    order::{self, Order},
    status,
};
use crate::pod::{
    plan::{
        container::ContainerPlan,
        names,
        restart::{AfterExit, Role},
    },
    probes::{
        ask::Respondent,
        machine::{Answer, Effect, ProbeKind, ProbeMachine},
    },
};

/// Launching: image, configuration, create, start.
mod launch;
/// Other resources for a container that runs.
mod resize;

use resize::Resized;

/// How a container's keeping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended and is not started again.
    Done(AfterExit),
    /// It was ordered to end.
    Stopped,
    /// Its sandbox is gone.
    Abandoned,
}

/// Keeps one container in one sandbox.
pub struct Keeper {
    life: Arc<Life>,
    sandbox: Arc<Sandbox>,
    plan: ContainerPlan,
    orders: watch::Receiver<Order>,
    existing: Option<v1::ContainerStatus>,
    fetch: Option<Fetch>,
    up: Option<oneshot::Sender<()>>,
    /// The number of the next start.
    attempt: u32,
    /// Starts in a row that did not last.
    restarts: u32,
    /// The container that ended last.
    previous: Option<String>,
    /// The one whose log is kept beside the one that runs.
    older: Option<String>,
}

/// A container that was started.
struct Running {
    id: String,
    /// When it started, for the delays of its probes.
    since: Instant,
    /// Whether this worker started it, and has its hook to run.
    fresh: bool,
}

/// Why a container ended.
#[derive(Clone, Copy)]
enum Cause {
    /// By itself, or by somebody else's signal.
    Itself,
    /// The worker found it beyond help.
    Doomed,
}

/// What takes a container's keeper away from watching it.
enum Attention {
    Exited(Exit),
    Ordered(Order),
    /// A probe or a hook found it beyond help.
    Doomed {
        grace: Duration,
    },
}

impl Keeper {
    /// A keeper that will begin with the container's first start.
    pub fn new(
        life: &Arc<Life>,
        sandbox: &Arc<Sandbox>,
        plan: &ContainerPlan,
        orders: watch::Receiver<Order>,
    ) -> Keeper {
        let attempt = life.board.read(|known| {
            let mut containers = known.containers.iter();
            let own = containers.find(|container| container.status.name == plan.name());
            own.map_or(0, |container| container.next_attempt())
        });
        Keeper {
            life: Arc::clone(life),
            sandbox: Arc::clone(sandbox),
            plan: plan.clone(),
            orders,
            existing: None,
            fetch: None,
            up: None,
            attempt,
            restarts: 0,
            previous: None,
            older: None,
        }
    }

    /// Begins with what an earlier worker left: a container, the number of
    /// starts; and with an image that is being fetched already.
    pub fn with(
        mut self,
        existing: Option<v1::ContainerStatus>,
        starts: u32,
        fetch: Option<Fetch>,
    ) -> Keeper {
        self.existing = existing;
        self.attempt = self.attempt.max(starts);
        self.fetch = fetch;
        self
    }

    /// Tells when the container has come up for the first time.
    pub fn announcing(mut self) -> (Keeper, oneshot::Receiver<()>) {
        let (up, told) = oneshot::channel();
        self.up = Some(up);
        (self, told)
    }

    /// Keeps the container until it is done or ordered to end.
    pub async fn keep(mut self) -> Ending {
        loop {
            let (exit, cause) = match self.run_once().await {
                Ok(ended) => ended,
                Err(ending) => return ending,
            };
            self.show_exit(&exit);
            let after = match cause {
                Cause::Itself => self.plan.restart.after_exit(exit.code),
                Cause::Doomed => self.plan.restart.after_doom(exit.code),
            };
            match after {
                AfterExit::Restart => {}
                outcome => {
                    self.life.board.update_container(self.plan.name(), |known| {
                        known.outcome = Some(outcome);
                    });
                    return Ending::Done(outcome);
                }
            }
            if *self.orders.borrow() != Order::Run {
                return self.ending();
            }
            if self.life.sandbox_is_gone(&self.sandbox.id).await {
                return Ending::Abandoned;
            }
            if let Err(ending) = self.back_off(&exit).await {
                return ending;
            }
        }
    }

    /// One start of the container, from its image to its exit.
    async fn run_once(&mut self) -> Result<(Exit, Cause), Ending> {
        let running = match self.existing.take() {
            Some(existing) => match self.take_over(existing).await {
                Ok(running) => running,
                Err(Some(exit)) => return Ok((exit, Cause::Itself)),
                // It never ran: begin with it anew.
                Err(None) => match self.launch().await? {
                    Ok(running) => running,
                    Err(exit) => return Ok((exit, Cause::Itself)),
                },
            },
            None => match self.launch().await? {
                Ok(running) => running,
                Err(exit) => return Ok((exit, Cause::Itself)),
            },
        };
        let id = running.id.clone();
        let ended = match self.attend(&running).await {
            Attention::Exited(exit) => (exit, Cause::Itself),
            Attention::Ordered(Order::Abandon) => {
                let exit = exit::observe_last(&self.life, &id).await;
                self.show_exit(&exit);
                return Err(Ending::Abandoned);
            }
            Attention::Ordered(order) => {
                let exit = self.end(&id, order).await;
                self.show_exit(&exit);
                return Err(Ending::Stopped);
            }
            Attention::Doomed { grace } => {
                let by = Instant::now() + grace;
                (self.end(&id, Order::Stop { by }).await, Cause::Doomed)
            }
        };
        self.previous = Some(id);
        Ok(ended)
    }

    /// Goes on with a container of an earlier worker.
    async fn take_over(&mut self, existing: v1::ContainerStatus) -> Result<Running, Option<Exit>> {
        self.attempt = existing.metadata.as_ref().map_or(0, |m| m.attempt);
        let started = exit::timestamp(existing.started_at);
        match existing.state() {
            v1::ContainerState::ContainerRunning => {}
            v1::ContainerState::ContainerCreated => {
                let request = v1::RemoveContainerRequest {
                    container_id: existing.id.clone(),
                };
                // It never ran. If it stays, making its like will say so.
                let _ = self.life.service.remove_container(request).await;
                return Err(None);
            }
            v1::ContainerState::ContainerExited | v1::ContainerState::ContainerUnknown => {
                self.show_running(&existing.id, started, &existing.image_ref);
                self.attempt += 1;
                self.previous = Some(existing.id.clone());
                return Err(Some(Exit::of(&existing)));
            }
        }
        let age = Duration::try_from(jiff::Timestamp::now().duration_since(started));
        self.show_running(&existing.id, started, &existing.image_ref);
        self.attempt += 1;
        let name = self.plan.name();
        let edited = existing.annotations.get(names::CONTAINER_HASH) != Some(&self.plan.hash);
        let restarts = match edited {
            true => Some(format!(
                "Container {name} definition changed, will be restarted"
            )),
            false => match self.resize(&existing).await {
                Resized::Runs => None,
                Resized::WantsRestart => Some(format!("Container {name} resize requires restart")),
            },
        };
        if let Some(text) = restarts {
            self.life.board.normal(Some(name), "Killing", text);
            let by = Instant::now() + self.life.plan.grace;
            self.end(&existing.id, Order::Stop { by }).await;
            self.previous = Some(existing.id);
            return Err(None);
        }
        let now = Instant::now();
        Ok(Running {
            id: existing.id,
            since: now.checked_sub(age.unwrap_or_default()).unwrap_or(now),
            fresh: false,
        })
    }

    /// Watches a container until something has to be done.
    async fn attend(&mut self, running: &Running) -> Attention {
        let respondent = Respondent {
            service: Arc::clone(&self.life.service),
            container_id: running.id.clone(),
            spec: self.plan.spec.clone(),
            address: self.sandbox.addresses.first().copied(),
        };
        let life = Arc::clone(&self.life);
        let exited = exit::wait(&life, &running.id);
        tokio::pin!(exited);
        let mut orders = self.orders.clone();
        if running.fresh
            && let Some(hook) = self.post_start()
        {
            let failed = tokio::select! {
                done = hooks::run(&hook, &respondent) => done.err(),
                exit = &mut exited => return Attention::Exited(exit),
                order = order::ended(&mut orders) => return Attention::Ordered(order),
            };
            if let Some(reason) = failed {
                let name = Some(self.plan.name());
                let text = format!("PostStartHook failed: {reason}");
                life.board.warning(name, "FailedPostStartHook", text);
                return Attention::Doomed {
                    grace: life.plan.grace,
                };
            }
        }
        let questions = self.question(respondent, running);
        tokio::select! {
            exit = &mut exited => Attention::Exited(exit),
            order = order::ended(&mut orders) => Attention::Ordered(order),
            grace = questions => Attention::Doomed { grace },
        }
    }

    fn post_start(&self) -> Option<k8s_openapi::api::core::v1::LifecycleHandler> {
        self.plan.spec.lifecycle.as_ref()?.post_start.clone()
    }

    /// Asks the container's probes for as long as it lives; returns its grace
    /// when one finds it beyond help.
    async fn question(&mut self, respondent: Respondent, running: &Running) -> Duration {
        let since = running.since;
        let mut machine = ProbeMachine::new(&self.plan.spec);
        if !running.fresh {
            // An earlier worker's findings hold until a probe says otherwise: who only
            // changes workers must not be taken out of service.
            let (started, ready) = self.life.board.read(|known| {
                let mut containers = known.containers.iter();
                let own = containers.find(|one| one.status.name == self.plan.name());
                own.map_or((false, false), |own| {
                    (own.status.started == Some(true), own.status.ready)
                })
            });
            machine.resume(started, ready, since.elapsed());
        }
        self.show_health(&machine);
        let mut asked: Vec<ProbeKind> = Vec::new();
        let mut answers = tokio::task::JoinSet::new();
        loop {
            let now = since.elapsed();
            for (kind, probe) in machine.due(now) {
                // A slow answer must not hold back another question, and none
                // is asked twice at a time.
                if !asked.contains(&kind) {
                    asked.push(kind);
                    let respondent = respondent.clone();
                    answers.spawn(async move { (kind, respondent.ask(&probe).await) });
                }
            }
            let next = machine.next_due_except(&asked);
            let alarm = async {
                match next {
                    Some(due) => tokio::time::sleep_until(since + due).await,
                    None => std::future::pending().await,
                }
            };
            let (kind, answer) = tokio::select! {
                Some(Ok(answer)) = answers.join_next(), if !answers.is_empty() => answer,
                () = alarm => continue,
            };
            asked.retain(|other| *other != kind);
            let effects = machine.record(kind, &answer, since.elapsed());
            self.show_answer(kind, &answer);
            for effect in effects {
                if let Effect::Kill { kind, grace } = effect {
                    self.show_doom(kind);
                    return grace.unwrap_or(self.life.plan.grace);
                }
            }
            self.show_health(&machine);
        }
    }

    /// Ends a container: hook, signal, grace, SIGKILL; faster if ordered to.
    async fn end(&mut self, id: &str, order: Order) -> Exit {
        let name = self.plan.name().to_owned();
        self.life.board.update_container(&name, |known| {
            known.status.ready = false;
        });
        let text = format!("Stopping container {name}");
        self.life.board.normal(Some(&name), "Killing", text);
        let mut order = order;
        let mut heard = *self.orders.borrow();
        // A stricter order than what ends it now (a doomed container's own
        // grace) may have come meanwhile.
        if heard != Order::Run {
            order = stricter(order, heard);
        }
        let mut orders = self.orders.clone();
        let mut hooked = false;
        loop {
            let ending = self.end_by(id, order, &mut hooked);
            tokio::select! {
                exit = ending => return exit,
                harsher = order::hastened(&mut orders, heard) => {
                    heard = harsher;
                    order = stricter(order, harsher);
                }
            }
        }
    }

    /// One try at an orderly end; `hooked` says whether `preStop` had its turn.
    async fn end_by(&self, id: &str, order: Order, hooked: &mut bool) -> Exit {
        /// Less than this is no chance to end in order.
        const LEAST: Duration = Duration::from_secs(2);
        let grace = order.grace();
        let hook = self.plan.spec.lifecycle.as_ref();
        if let Some(hook) = hook.and_then(|hooks| hooks.pre_stop.as_ref())
            && !*hooked
            && !grace.is_zero()
        {
            *hooked = true;
            let respondent = Respondent {
                service: Arc::clone(&self.life.service),
                container_id: id.to_owned(),
                spec: self.plan.spec.clone(),
                address: self.sandbox.addresses.first().copied(),
            };
            let done = tokio::time::timeout(grace, hooks::run(hook, &respondent)).await;
            let failed = match done {
                Ok(done) => done.err(),
                Err(_) => Some("the grace was over before it ended".to_owned()),
            };
            if let Some(reason) = failed {
                let name = Some(self.plan.name());
                let text = format!("PreStopHook failed: {reason}");
                self.life.board.warning(name, "FailedPreStopHook", text);
            }
        }
        let rest = match order {
            // After a hook that took it all, a signal that can be heard.
            Order::Stop { .. } if *hooked => order.grace().max(LEAST),
            order => order.grace(),
        };
        exit::stop(&self.life, id, rest).await
    }

    /// Waits before the next start, unless an order comes.
    async fn back_off(&mut self, exit: &Exit) -> Result<(), Ending> {
        let backoff = self.life.config.restart_backoff;
        if exit.ran_for() >= backoff.reset_after {
            self.restarts = 0;
        }
        // Measured from the exit: a container that was found dead has waited.
        let pause = backoff.wait(self.restarts).saturating_sub(exit.age());
        self.restarts += 1;
        if pause.is_zero() {
            return Ok(());
        }
        let name = self.plan.name();
        let pod = &self.life.plan.identity;
        let text = format!(
            "back-off {}s restarting failed container={name} pod={}_{}({})",
            pause.as_secs().max(1),
            pod.name,
            pod.namespace,
            pod.uid
        );
        self.life.board.warning(
            Some(name),
            "BackOff",
            format!(
                "Back-off restarting failed container {name} in pod {}",
                pod.name
            ),
        );
        self.show_waiting("CrashLoopBackOff", Some(text));
        self.pause(pause).await
    }

    /// Sleeps, unless an order comes.
    async fn pause(&mut self, pause: Duration) -> Result<(), Ending> {
        let mut orders = self.orders.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = order::ended(&mut orders) => {
                // What it last did is its state again; nothing waits any more.
                self.life.board.update_container(self.plan.name(), |known| {
                    let last = known.status.last_state.clone();
                    if let Some(last) = last.filter(|last| last.terminated.is_some()) {
                        known.status.state = Some(last);
                    }
                });
                Err(self.ending())
            }
        }
    }

    fn ending(&self) -> Ending {
        match *self.orders.borrow() {
            Order::Abandon => Ending::Abandoned,
            Order::Run | Order::Stop { .. } | Order::Kill => Ending::Stopped,
        }
    }

    fn show_waiting(&self, reason: &str, message: Option<String>) {
        self.life.board.update_container(self.plan.name(), |known| {
            let state = known.status.state.take();
            if let Some(state) = state.filter(|state| state.terminated.is_some()) {
                known.status.last_state = Some(state);
            }
            known.status.state = Some(status::waiting(reason, message));
            known.status.ready = false;
        });
    }

    fn show_running(&self, id: &str, started: jiff::Timestamp, image: &str) {
        let restarts = i32::try_from(self.attempt).unwrap_or(i32::MAX);
        let id = format!("{}://{id}", self.life.config.runtime_name);
        self.life.board.update_container(self.plan.name(), |known| {
            let state = known.status.state.take();
            if let Some(state) = state.filter(|state| state.terminated.is_some()) {
                known.status.last_state = Some(state);
            }
            known.status.state = Some(exit::running(started));
            known.status.restart_count = restarts;
            // Taken over, it has the image's full name already.
            if known.status.container_id.as_ref() != Some(&id) || known.status.image_id.is_empty() {
                known.status.image_id = image.to_owned();
            }
            known.status.container_id = Some(id);
        });
    }

    fn show_exit(&self, exit: &Exit) {
        let path = &self.plan.spec.termination_message_path;
        let attempt = self.attempt.saturating_sub(1);
        let message = path
            .as_ref()
            .and_then(|_| exit.last_words(&self.life, &self.plan, attempt));
        let role = self.plan.role;
        let runtime = &self.life.config.runtime_name;
        self.life.board.update_container(self.plan.name(), |known| {
            known.status.state = Some(exit.state(runtime, message));
            // An init container that ended well is ready for good.
            known.status.ready = role == Role::Init && exit.code == 0;
            known.status.started = Some(false);
        });
    }

    fn show_health(&mut self, machine: &ProbeMachine) {
        let (started, ready) = (machine.is_started(), machine.is_ready());
        let role = self.plan.role;
        self.life.board.update_container(self.plan.name(), |known| {
            known.status.started = Some(started);
            known.status.ready = ready && role != Role::Init;
        });
        if started && let Some(up) = self.up.take() {
            // Nobody waits any more if the pod is ending.
            let _ = up.send(());
        }
    }

    fn show_answer(&self, kind: ProbeKind, answer: &Answer) {
        let (word, reason) = match answer {
            Answer::Success => return,
            Answer::Failure(reason) => ("failed", reason),
            Answer::Unasked(reason) => ("errored", reason),
        };
        self.life.board.warning(
            Some(self.plan.name()),
            "Unhealthy",
            format!("{} probe {word}: {reason}", kind.name()),
        );
    }

    fn show_doom(&self, kind: ProbeKind) {
        let name = self.plan.name();
        let probe = kind.name().to_lowercase();
        self.life.board.normal(
            Some(name),
            "Killing",
            format!("Container {name} failed {probe} probe, will be restarted"),
        );
    }
}

/// The stricter of two orders to end.
fn stricter(one: Order, other: Order) -> Order {
    match (one, other) {
        (Order::Stop { by: one }, Order::Stop { by: other }) => Order::Stop { by: one.min(other) },
        (Order::Stop { .. } | Order::Run, other) => other,
        (one, _) => one,
    }
}
