//! What a person sees of the calls between a worker and its node: pulls as
//! bars, containers' output as lines or as bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use async_trait::async_trait;
use berth_cri::engine::Engine;
use berth_cri::images::registries::Credentials;
use berth_cri::images::{LayerState, PullProgress, PullRequest};
use berth_cri::v1;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;

use super::audience::Audience;
use super::watched::Onlooker;
use crate::error::Context;
use crate::screen::{LayerPhase, LayerReport, write_elapsed};
use crate::streams::{Input, attach, resize};
use crate::terminal::{self, RawMode};
use berth_scheduler::pod::logs::follow::Follower;

/// What becomes of containers' output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Lines, with the container's name before each.
    Lines,
    /// The same, with the pod's name too.
    LinesOfPods,
    /// Byte by byte, and input the other way.
    Streams(Input),
    /// It is in the log files and nowhere else.
    Files,
}

/// Looks on for an [`Audience`].
pub struct Lookout {
    engine: Arc<Engine>,
    run_dir: PathBuf,
    audience: Arc<dyn Audience>,
    output: Output,
    made: Mutex<BTreeMap<String, Made>>,
    readers: Mutex<BTreeMap<String, Reader>>,
    /// Standard input goes to one container, and to its first run.
    input_taken: AtomicBool,
}

/// A container that was made.
#[derive(Debug, Clone)]
struct Made {
    title: String,
    log_path: PathBuf,
    pod_dir: PathBuf,
}

/// What prints the output of one container.
struct Reader {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Lookout {
    /// Nothing has happened yet.
    pub fn new(
        engine: Arc<Engine>,
        run_dir: PathBuf,
        audience: Arc<dyn Audience>,
        output: Output,
    ) -> Lookout {
        Lookout {
            engine,
            run_dir,
            audience,
            output,
            made: Mutex::default(),
            readers: Mutex::default(),
            input_taken: AtomicBool::new(false),
        }
    }

    /// Prints what is left to print, when all has ended.
    pub async fn finish(&self) {
        let readers = std::mem::take(&mut *lock(&self.readers));
        for (_, reader) in readers {
            let _ = reader.stop.send(());
            // A panic there was printed there.
            let _ = reader.task.await;
        }
    }

    /// Follows a log file until told to stop, and then to its end.
    fn follow(&self, made: Made) -> std::io::Result<Reader> {
        let mut follower = Follower::new(&made.log_path)?;
        // Opened before the program begins, so that a file which is removed
        // with a pod that ended at once is still read.
        let first = follower.read()?;
        let audience = Arc::clone(&self.audience);
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            audience.log(&made.title, &first);
            loop {
                let over = tokio::select! {
                    changed = follower.changed() => changed.is_err(),
                    _ = &mut stopped => true,
                };
                match follower.read() {
                    Ok(entries) => audience.log(&made.title, &entries),
                    Err(error) => {
                        let path = made.log_path.display();
                        audience.warn(&format!("warning: read {path}: {error}"));
                        return;
                    }
                }
                if over {
                    return;
                }
            }
        });
        Ok(Reader { stop, task })
    }

    /// Joins the streams of a container that is about to start with this process's.
    async fn join(&self, id: &str, made: Made, input: Input) -> crate::error::Result<Reader> {
        let input = match self.input_taken.swap(true, Ordering::Relaxed) {
            false => input,
            true => Input::None,
        };
        let attached = attach(&made.pod_dir, id).await?;
        let mut raw = None;
        if input == Input::Terminal {
            if let Some((columns, rows)) = terminal::size() {
                resize(&made.pod_dir, id, columns, rows).await?;
            }
            raw = Some(RawMode::enter().context("make the terminal raw")?);
        }
        let audience = Arc::clone(&self.audience);
        // The connection ends with the container: nothing needs to stop it.
        let (stop, _) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ended = attached.join(input).await;
            drop(raw);
            if let Err(error) = ended {
                audience.warn(&format!("warning: {}: {}", made.title, error.chain()));
            }
        });
        Ok(Reader { stop, task })
    }
}

#[async_trait]
impl Onlooker for Lookout {
    async fn pull(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Status> {
        let name = request
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .unwrap_or_default();
        let began = Instant::now();
        self.audience.say(&format!("pulling {name}"));
        let bars = Bars {
            image: name.clone(),
            audience: Arc::clone(&self.audience),
        };
        let pulling = PullRequest {
            credentials: request.auth.and_then(credentials),
            progress: Arc::new(bars),
            platform: None,
        };
        let outcome = self.engine.images().pull(&name, pulling).await;
        self.audience.end_pull(&name);
        match outcome {
            Ok(image) => {
                let elapsed = write_elapsed(began.elapsed());
                self.audience.say(&format!("pulled {name} in {elapsed}"));
                Ok(v1::PullImageResponse {
                    image_ref: image.id,
                })
            }
            Err(error) => Err(Status::unknown(error.chain())),
        }
    }

    fn created(&self, id: &str, request: &v1::CreateContainerRequest) {
        let config = request.config.clone().unwrap_or_default();
        let sandbox = request.sandbox_config.clone().unwrap_or_default();
        let name = config.metadata.unwrap_or_default().name;
        let pod = sandbox.metadata.unwrap_or_default().name;
        let made = Made {
            title: match self.output {
                Output::LinesOfPods => format!("{pod}/{name}"),
                _ => name,
            },
            log_path: PathBuf::from(sandbox.log_directory).join(config.log_path),
            pod_dir: self.run_dir.join("pods").join(&request.pod_sandbox_id),
        };
        lock(&self.made).insert(id.to_owned(), made);
    }

    async fn before_start(&self, id: &str) {
        // A worker that took a pod over starts containers that it did not make.
        let Some(made) = lock(&self.made).get(id).cloned() else {
            return;
        };
        let title = made.title.clone();
        let reader = match self.output {
            Output::Files => return,
            Output::Lines | Output::LinesOfPods => self.follow(made).context("follow the log"),
            Output::Streams(input) => self.join(id, made, input).await,
        };
        match reader {
            Ok(reader) => {
                // An earlier run of the same container has ended.
                if let Some(before) = lock(&self.readers).insert(title, reader) {
                    let _ = before.stop.send(());
                }
            }
            // The pod matters more than who looks on.
            Err(error) => self
                .audience
                .warn(&format!("warning: {title}: {}", error.chain())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// As whom a pod's pull secrets say to ask.
fn credentials(auth: v1::AuthConfig) -> Option<Credentials> {
    if !auth.identity_token.is_empty() {
        return Some(Credentials::IdentityToken(auth.identity_token));
    }
    if !auth.registry_token.is_empty() {
        return Some(Credentials::RegistryToken(auth.registry_token));
    }
    (!auth.username.is_empty()).then_some(Credentials::Password {
        username: auth.username,
        password: auth.password,
    })
}

/// Tells an audience how far an image's layers are.
pub struct Bars {
    /// The image, as it was asked for.
    pub image: String,
    /// Who is told.
    pub audience: Arc<dyn Audience>,
}

impl PullProgress for Bars {
    fn layer(&self, digest: &str, total_bytes: Option<u64>, state: LayerState) {
        let (phase, done_bytes) = match state {
            LayerState::Waiting => (LayerPhase::Waiting, 0),
            LayerState::Exists => (LayerPhase::Exists, 0),
            LayerState::Downloading { done } => (LayerPhase::Downloading, done),
            LayerState::Unpacking { done } => (LayerPhase::Unpacking, done),
            LayerState::Done => (LayerPhase::Done, total_bytes.unwrap_or(0)),
        };
        self.audience.layer(&LayerReport {
            image: self.image.clone(),
            digest: digest.to_owned(),
            total_bytes,
            phase,
            done_bytes,
        });
    }
}
