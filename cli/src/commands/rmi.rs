//! `berth rmi` and `berth prune`: images that are not needed any more.

use std::collections::BTreeSet;

use berth_cri::images::{ImageStore, Prune, Removed};
use berth_cri::service::CriService;
use clap::Args;

use crate::amounts::write_size;
use crate::error::{Context, Error, Result};
use crate::objects::{FoundPod, container_name, observe_pods};
use crate::output::print_line;

/// `berth rmi`.
#[derive(Debug, Args)]
pub struct RmiArguments {
    /// Images, by name, digest or id
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Also an image that containers use; they run on
    #[arg(short, long)]
    pub force: bool,
}

/// `berth prune`.
#[derive(Debug, Args)]
pub struct PruneArguments {
    /// Every image that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
}

/// Removes images. A name goes first; the content when no name is left.
///
/// # Errors
///
/// An image is not there, or a container uses it.
pub async fn remove(
    store: &ImageStore,
    service: &dyn CriService,
    arguments: &RmiArguments,
) -> Result<u8> {
    let pods = observe_pods(service).await?;
    for name in &arguments.images {
        let attempt = || format!("remove image {name}");
        let image = store
            .find(name)
            .context(attempt())?
            .ok_or_else(|| Error::new(format!("there is no image {name:?}")))?;
        if let (Some(user), false) = (user_of(&pods, &image.id), arguments.force) {
            return Err(Error::new(format!(
                "image {name} is used by container {user}; '-f' removes its name all the same"
            )));
        }
        print_removed(&store.remove(name).context(attempt())?)?;
    }
    Ok(0)
}

fn user_of(pods: &[FoundPod], image_id: &str) -> Option<String> {
    pods.iter().find_map(|pod| {
        let user = pod.containers.iter().find(|container| {
            container.image_id == image_id || container.image_ref.contains(image_id)
        })?;
        Some(format!("{}/{}", pod.title(), container_name(user)))
    })
}

/// Removes what no container uses.
///
/// # Errors
///
/// The store cannot be changed.
pub async fn prune(
    store: &ImageStore,
    service: &dyn CriService,
    arguments: &PruneArguments,
) -> Result<u8> {
    let pods = observe_pods(service).await?;
    let containers = pods.iter().flat_map(|pod| &pod.containers);
    let used: BTreeSet<String> = containers
        .map(|container| container.image_id.clone())
        .filter(|id| !id.is_empty() && store.find(id).is_ok_and(|image| image.is_some()))
        .collect();
    let which = if arguments.all {
        Prune::Unused
    } else {
        Prune::Dangling
    };
    let removed = store.prune(which, &used).context("prune images")?;
    print_removed(&removed)?;
    print_line(&format!("freed {}", write_size(removed.bytes)))?;
    Ok(0)
}

fn print_removed(removed: &Removed) -> Result<()> {
    for name in &removed.names {
        print_line(&format!("untagged {name}"))?;
    }
    for id in &removed.images {
        print_line(&format!("removed {id}"))?;
    }
    Ok(())
}
