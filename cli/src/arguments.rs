//! The words of the command line.

use std::ffi::OsString;

use berth_cri::engine::Engine;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    agent, apply, attach, cluster, completion, cordon, cri, delete, describe, events, exec,
    explain, get, images, info, inspect, kill, load, logs, netd, node as node_process, ps, pull,
    remote, rm, rmi, rollout, run, scale, server, stats, stop, top, version, wait, worker,
};
use crate::error::{Context, Result};
use crate::node;
use crate::settings::Settings;

/// Pods on this machine: no daemon, no cluster.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    propagate_version = false,
    max_term_width = 100
)]
#[command(after_help = "Begin with: berth run examples/web.yaml")]
pub struct Program {
    /// What all commands share
    #[command(flatten)]
    pub settings: Settings,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What `berth` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pod: from a manifest, or from an image with docker's flags
    Run(Box<run::flags::RunArguments>),
    /// List what runs
    Ps(ps::PsArguments),
    /// Print what containers wrote
    Logs(logs::LogsArguments),
    /// Run one more program in a container
    Exec(exec::ExecArguments),
    /// Join this terminal and a container that runs
    Attach(attach::AttachArguments),
    /// End pods in order
    Stop(stop::StopArguments),
    /// Send a signal to containers
    Kill(kill::KillArguments),
    /// Remove pods wholly
    Rm(rm::RmArguments),
    /// Wait until containers have ended, or a pod is ready
    Wait(wait::WaitArguments),
    /// Print all that is known of pods, containers and images
    Inspect(inspect::InspectArguments),
    /// Show what containers use
    Stats(stats::StatsArguments),
    /// Show the processes of containers
    Top(top::TopArguments),
    /// Print what happens, as it happens
    Events(events::EventsArguments),
    /// Pull images
    Pull(pull::PullArguments),
    /// List images
    Images(images::ImagesArguments),
    /// Remove images
    Rmi(rmi::RmiArguments),
    /// Remove images that no container uses
    Prune(rmi::PruneArguments),
    /// Load images from files
    Load(load::LoadArguments),
    /// Show where things are, and what this machine offers
    Info,
    /// Print the version
    Version,
    /// Serve a kubelet: the CRI, on a socket
    Cri(cri::CriArguments),
    /// Several machines as one: begin, join, leave, look
    Cluster(cluster::ClusterCommandArguments),
    /// Bring objects of manifests into the cluster
    Apply(apply::ApplyArguments),
    /// Show objects of the cluster
    Get(get::GetArguments),
    /// Show an object of the cluster with what happened to it
    Describe(describe::DescribeArguments),
    /// End objects of the cluster
    Delete(delete::DeleteArguments),
    /// Choose how many replicas there are
    Scale(scale::ScaleArguments),
    /// Follow updates of the cluster, and take them back
    Rollout(rollout::RolloutArguments),
    /// Keep new pods away from nodes
    Cordon(cordon::CordonArguments),
    /// Let pods onto nodes again
    Uncordon(cordon::CordonArguments),
    /// Send the pods of nodes elsewhere
    Drain(cordon::DrainArguments),
    /// Say for each node why a pod can or cannot run there
    Explain(explain::ExplainArguments),
    /// Be this machine's part of the cluster: server, network, runtime and agent
    Node(node_process::NodeArguments),
    /// Be the cluster's server alone
    Server(server::ServerArguments),
    /// Be the cluster's agent on this machine alone
    Agent(agent::AgentArguments),
    /// Be the cluster's network on this machine alone
    Netd(netd::NetdArguments),
    /// Print a script that completes commands in a shell
    Completion(completion::CompletionArguments),
    /// What `run -d` starts
    #[command(hide = true)]
    Worker,
}

impl Program {
    /// Reads the words of a command line; ends the program where they are wrong,
    /// or where they ask for help.
    ///
    /// Behind an image every word belongs to the container's command. Behind a
    /// manifest there is no command, so its options may stand on either side.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Program {
        let words: Vec<OsString> = words.into_iter().collect();
        let program = Program::parse_from(&words);
        match &program.command {
            Command::Run(arguments) if arguments.has_words_behind_a_manifest() => {
                let command = Program::command().mut_subcommand("run", |run| {
                    run.mut_arg("words", |words| {
                        words.trailing_var_arg(false).allow_hyphen_values(false)
                    })
                });
                Program::from_arg_matches(&command.get_matches_from(&words))
                    .unwrap_or_else(|error| error.exit())
            }
            _ => program,
        }
    }

    /// Does what the words say; the exit code of the program.
    ///
    /// # Errors
    ///
    /// Whatever the command could not reach.
    pub fn run(self) -> Result<u8> {
        let settings = self
            .settings
            .absolute()
            .context("read the working directory")?;
        match &self.command {
            // A server says what its file wants to hear.
            Command::Cri(arguments) if arguments.serves() => {}
            Command::Node(_) | Command::Server(_) | Command::Agent(_) | Command::Netd(_) => {
                settings.start_server_tracing();
            }
            Command::Cluster(arguments) if arguments.serves() => settings.start_server_tracing(),
            _ => settings.start_tracing(),
        }
        match self.command {
            Command::Run(arguments) => run::run(&settings, &arguments),
            Command::Worker => worker::run(&settings),
            Command::Cri(arguments) => cri::run(&settings, &arguments),
            Command::Cluster(arguments) => cluster::run(&settings, &arguments),
            Command::Node(arguments) => node_process::run(&settings, &arguments),
            Command::Server(arguments) => server::run(&settings, &arguments),
            Command::Agent(arguments) => agent::run(&settings, &arguments),
            Command::Netd(arguments) => netd::run(&settings, &arguments),
            Command::Completion(arguments) => completion::run(&arguments),
            Command::Version => version::run(settings.format),
            command if command.is_of_cluster() => node::block_on(command.run_in_cluster(&settings)),
            command => node::block_on(async {
                let engine = node::open(&settings).await?;
                command.run_on(&settings, &engine).await
            }),
        }
    }
}

impl Command {
    /// Whether the command asks the cluster's API and nothing of this machine.
    fn is_of_cluster(&self) -> bool {
        match self {
            Command::Logs(arguments) => arguments.remote.cluster,
            Command::Exec(arguments) => arguments.remote.cluster,
            Command::Apply(_)
            | Command::Get(_)
            | Command::Describe(_)
            | Command::Delete(_)
            | Command::Scale(_)
            | Command::Rollout(_)
            | Command::Cordon(_)
            | Command::Uncordon(_)
            | Command::Drain(_)
            | Command::Explain(_) => true,
            _ => false,
        }
    }

    /// The commands that ask the cluster's API.
    async fn run_in_cluster(self, settings: &Settings) -> Result<u8> {
        use cordon::Schedulable;
        match self {
            Command::Logs(arguments) => remote::logs::run(settings, &arguments).await,
            Command::Exec(arguments) => remote::exec::run(settings, &arguments).await,
            Command::Apply(arguments) => apply::run(settings, &arguments).await,
            Command::Get(arguments) => get::run(settings, &arguments).await,
            Command::Describe(arguments) => describe::run(settings, &arguments).await,
            Command::Delete(arguments) => delete::run(settings, &arguments).await,
            Command::Scale(arguments) => scale::run(settings, &arguments).await,
            Command::Rollout(arguments) => rollout::run(settings, &arguments).await,
            Command::Cordon(arguments) => cordon::run(settings, &arguments, Schedulable::No).await,
            Command::Uncordon(arguments) => {
                cordon::run(settings, &arguments, Schedulable::Yes).await
            }
            Command::Drain(arguments) => cordon::drain(settings, &arguments).await,
            Command::Explain(arguments) => explain::run(settings, &arguments).await,
            _ => unreachable!("Command::is_of_cluster has chosen"),
        }
    }

    /// The commands that ask the engine.
    async fn run_on(self, settings: &Settings, engine: &Engine) -> Result<u8> {
        match self {
            Command::Ps(arguments) => ps::run(settings, engine, &arguments).await,
            Command::Logs(arguments) => logs::run(settings, engine, &arguments).await,
            Command::Exec(arguments) => exec::run(engine, &arguments).await,
            Command::Attach(arguments) => attach::run(settings, engine, &arguments).await,
            Command::Stop(arguments) => stop::run(settings, engine, &arguments).await,
            Command::Kill(arguments) => kill::run(settings, engine, &arguments).await,
            Command::Rm(arguments) => rm::run(settings, engine, &arguments).await,
            Command::Wait(arguments) => wait::run(settings, engine, &arguments).await,
            Command::Inspect(arguments) => inspect::run(settings, engine, &arguments).await,
            Command::Stats(arguments) => stats::run(settings, engine, &arguments).await,
            Command::Top(arguments) => top::run(settings, engine, &arguments).await,
            Command::Events(arguments) => events::run(settings, engine, &arguments).await,
            Command::Pull(arguments) => pull::run(settings, engine, &arguments).await,
            Command::Images(arguments) => images::run(settings, engine.images(), &arguments),
            Command::Rmi(arguments) => rmi::remove(engine.images(), engine, &arguments).await,
            Command::Prune(arguments) => rmi::prune(engine.images(), engine, &arguments).await,
            Command::Load(arguments) => load::run(engine.images(), &arguments).await,
            Command::Info => info::run(settings, engine).await,
            Command::Run(_)
            | Command::Worker
            | Command::Cri(_)
            | Command::Completion(_)
            | Command::Version
            | Command::Cluster(_)
            | Command::Node(_)
            | Command::Server(_)
            | Command::Agent(_)
            | Command::Netd(_)
            | Command::Apply(_)
            | Command::Get(_)
            | Command::Describe(_)
            | Command::Delete(_)
            | Command::Scale(_)
            | Command::Rollout(_)
            | Command::Cordon(_)
            | Command::Uncordon(_)
            | Command::Drain(_)
            | Command::Explain(_) => {
                unreachable!("these need no engine, and Program::run has run them")
            }
        }
    }
}
