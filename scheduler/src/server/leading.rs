//! What only one server may do: controllers, placement, and the book of who is there.
//!
//! ```text
//!   campaign ──▶ reign ──▶ controllers, placement, tending ──▶ lost, or told to end ──▶ again
//!                  │                    │ every write
//!                  └── fence ──────────▶│ "and the leader key is still the one of my term"
//! ```
//!
//! A server that loses its reign ends all of that before it campaigns again. One that was
//! frozen wakes up in the middle of a write and does not know yet: the fence is part of each
//! write's transaction, so etcd refuses it whatever this process believes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::roster::{self, Roll};
use crate::api::{Api, Identity, local};
use crate::controllers::{self, ControllersConfig};
use crate::placement::{self, PlacementConfig};
use crate::store::election::{Election, Reign};
use crate::trust::register::{self, Register};

/// How long to wait after a campaign that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What a leader works with.
#[derive(Clone)]
pub struct Office {
    /// The API of this server.
    pub api: Arc<Api>,
    /// Who is refused.
    pub register: Arc<Register>,
    /// Which servers there are.
    pub roll: Roll,
    /// Where this server answers: its name among the servers.
    pub address: SocketAddr,
    /// What the controllers are told.
    pub controllers: ControllersConfig,
    /// What placement is told.
    pub placement: PlacementConfig,
}

/// Leads whenever it is elected, until `shutdown`.
pub async fn run(office: Office, election: Arc<dyn Election>, shutdown: CancellationToken) {
    let mut told = None;
    while !shutdown.is_cancelled() {
        let campaign = tokio::select! {
            campaign = election.campaign() => campaign,
            () = shutdown.cancelled() => return,
        };
        let reign = match campaign {
            Ok(reign) => reign,
            Err(error) => {
                // Said once: while the store is away each second brings the same.
                let words = error.to_string();
                if told.replace(words).is_none() {
                    tracing::warn!("who leads cannot be found out: {error}");
                }
                shutdown
                    .run_until_cancelled(tokio::time::sleep(PAUSE))
                    .await;
                continue;
            }
        };
        told = None;
        let term = reign.term;
        tracing::info!(
            term,
            "this server leads: controllers and placement run here"
        );
        govern(&office, &reign, &shutdown).await;
        if !shutdown.is_cancelled() {
            tracing::warn!(term, "this server leads no longer");
        }
        reign.resign().await;
    }
}

/// Does a leader's work until the reign is lost or `shutdown`; nothing of it runs afterwards.
async fn govern(office: &Office, reign: &Reign, shutdown: &CancellationToken) {
    let api = match &reign.store {
        Some(fenced) => office.api.through(fenced.clone()),
        None => office.api.clone(),
    };
    let client = local::client(api, Identity::master("system:berth"));
    let end = shutdown.child_token();
    let ending = async {
        tokio::select! {
            () = reign.lost.cancelled() => {}
            () = end.cancelled() => {}
        }
        end.cancel();
    };
    let tending = end.run_until_cancelled(register::tend(client.clone(), office.register.clone()));
    let telling = end.run_until_cancelled(roster::keep(
        client.clone(),
        office.roll.clone(),
        office.address,
    ));
    let placing = placement::run(client.clone(), office.placement.clone(), end.clone());
    let controlling = controllers::run(client, office.controllers.clone(), end.clone());
    tokio::join!(ending, tending, telling, placing, controlling);
}
