//! `berth pull`: images from their registries.

use std::sync::Arc;
use std::time::Instant;

use berth_cri::engine::Engine;
use berth_cri::images::PullRequest;
use berth_cri::images::registries::Credentials;
use clap::Args;

use super::run::audience::Audience;
use super::run::lookout::Bars;
use crate::error::{Context, Error, Result};
use crate::logs::print::Style;
use crate::output::{print_line, short_id};
use crate::screen::{Screen, Talk, write_elapsed};
use crate::settings::Settings;

/// `berth pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Mirrors, certificates and passwords stand in /etc/berth/registries.toml, or in the file
that BERTH_REGISTRIES_CONFIG names; passwords of 'docker login' are used too.")]
pub struct PullArguments {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// USER:PASSWORD for the registry
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "BERTH_CREDENTIALS",
        hide_env_values = true
    )]
    pub credentials: Option<String>,
    /// Print the ids alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// Pulls images, one after the other, and prints their ids.
///
/// # Errors
///
/// An image cannot be pulled; those before it are there.
pub async fn run(settings: &Settings, engine: &Engine, arguments: &PullArguments) -> Result<u8> {
    let talk = match (arguments.quiet, settings.verbose) {
        (true, _) => Talk::Quiet,
        (false, 0) => Talk::Normal,
        (false, _) => Talk::Verbose,
    };
    let screen = Arc::new(Screen::new(talk, Style::default()));
    let credentials = arguments
        .credentials
        .as_deref()
        .map(read_credentials)
        .transpose()?;
    for name in &arguments.images {
        let began = Instant::now();
        screen.say(&format!("pulling {name}"));
        let audience: Arc<dyn Audience> = Arc::clone(&screen) as _;
        let request = PullRequest {
            credentials: credentials.clone(),
            progress: Arc::new(Bars {
                image: name.clone(),
                audience,
            }),
            platform: None,
        };
        let pulled = engine.images().pull(name, request).await;
        Screen::end_pull(&screen, name);
        let image = pulled.context("pull")?;
        let elapsed = write_elapsed(began.elapsed());
        screen.say(&format!(
            "pulled {name} in {elapsed}: {}",
            short_id(&image.id)
        ));
        print_line(&image.id)?;
    }
    Ok(0)
}

fn read_credentials(text: &str) -> Result<Credentials> {
    let (username, password) = text
        .split_once(':')
        .ok_or_else(|| Error::new("--credentials: expected USER:PASSWORD"))?;
    Ok(Credentials::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}
