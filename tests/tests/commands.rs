//! Each command of `berth` on pods that run: real images, real terminals, real kills.

/// Images from archives, images in use.
#[path = "commands/images.rs"]
mod images;
/// What the image form's flags are inside the container.
#[path = "commands/inside.rs"]
mod inside;
/// Jobs, Deployments, and objects beside a Pod.
#[path = "commands/jobs.rs"]
mod jobs;
/// Starting, joining, ending and taking over.
#[path = "commands/life.rs"]
mod life;
/// What containers wrote.
#[path = "commands/logs.rs"]
mod logs;
/// Tables and JSON.
#[path = "commands/shown.rs"]
mod shown;
/// Keys typed at a terminal.
#[path = "commands/typed.rs"]
mod typed;
