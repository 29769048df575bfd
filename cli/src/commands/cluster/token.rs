//! `berth cluster token`: makes, shows and takes back what lets machines join.

use std::net::SocketAddr;

use berth_scheduler::trust::credential::{parse_certificate, public_key_hash};
use berth_scheduler::trust::join::Role;
use berth_scheduler::trust::token::{Invitation, Token};
use berth_scheduler::trust::tokens::{self, Allowance, KnownToken};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::cluster::api::{self, ClusterArguments};
use crate::cluster::file::NodeFile;
use crate::cluster::{ConfigArgument, Places};
use crate::error::{Context, Error, Result};
use crate::output::{Rows, print_line, print_list};
use crate::settings::Settings;

/// `berth cluster token`.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// What to do
    #[command(subcommand)]
    pub command: TokenCommand,
    /// Which cluster
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// What `berth cluster token` can do.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print the line that joins
    Create(NewToken),
    /// Print the line that joins, for a token that is good
    Show {
        /// Which; without, the one for nodes that is good for longest
        id: Option<String>,
    },
    /// List tokens, without their secrets
    List,
    /// Make a token and take back all others
    Rotate(NewToken),
    /// Take tokens back
    Revoke {
        /// Which, by the six letters before the '.'
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// What a new token allows.
#[derive(Debug, Args)]
pub struct NewToken {
    /// How long it is good, like 30m or 24h; 0 is for ever
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub ttl: String,
    /// How many machines may use it [default: any number]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// Let in further servers too: they get the key of the cluster's authority
    #[arg(long)]
    pub server: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// Print the token alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// Does what was asked.
///
/// # Errors
///
/// The cluster does not answer, or there is no such token.
pub async fn run(settings: &Settings, arguments: &TokenArguments) -> Result<u8> {
    let places = Places::new(settings, &arguments.config);
    let wanted = match &arguments.command {
        TokenCommand::Create(new) | TokenCommand::Rotate(new) => Some(allowance(new)?),
        _ => None,
    };
    if wanted.as_ref().is_some_and(|new| new.role == Role::Server) {
        refuse_embedded(&places)?;
    }
    let client = api::connect(settings, &arguments.cluster).await?;
    match &arguments.command {
        TokenCommand::Create(new) => {
            let wanted = wanted.unwrap_or_default();
            let token = create(&client, &places, &wanted).await?;
            tell(&places, &token, wanted.role, new.quiet)?;
        }
        TokenCommand::Rotate(new) => {
            let before = tokens::list(&client).await.context("list tokens")?;
            let wanted = wanted.unwrap_or_default();
            let token = create(&client, &places, &wanted).await?;
            for old in before {
                let revoked = tokens::revoke(&client, &old.invitation.id).await;
                revoked.context("take back the older tokens")?;
            }
            tell(&places, &token, wanted.role, new.quiet)?;
        }
        TokenCommand::Show { id } => {
            let known = tokens::list(&client).await.context("list tokens")?;
            let found = choose(&known, id.as_deref())?;
            let words = words(&places, &found.invitation)?;
            tell(&places, &words, found.allowance.role, false)?;
        }
        TokenCommand::List => list(settings, &client).await?,
        TokenCommand::Revoke { ids } => revoke(&client, ids).await?,
    }
    Ok(0)
}

/// No token lets a server into a cluster that can have one only.
fn refuse_embedded(places: &Places) -> Result<()> {
    let server = NodeFile::read(&places.config)?.and_then(|file| file.server);
    if server.is_none_or(|server| server.store != "embedded") {
        return Ok(());
    }
    Err(Error::new(
        "--server: this cluster can have no further server: its memory is a file on this machine, and several servers share an etcd ('berth cluster init --store etcd://HOST:PORT,…' begins such a cluster); no token was made",
    ))
}

/// A token for a day, as init prints it; its words.
///
/// # Errors
///
/// The cluster does not answer.
pub async fn create_default(client: &kube::Client, places: &Places) -> Result<String> {
    let mut allowance = Allowance::within(SignedDuration::from_hours(24));
    allowance.description = "made by cluster init".to_owned();
    create(client, places, &allowance).await
}

async fn create(client: &kube::Client, places: &Places, allowance: &Allowance) -> Result<String> {
    let made = tokens::create(client, allowance).await;
    words(places, &made.context("make a token")?)
}

/// A token's words, with the hash of this cluster's authority.
fn words(places: &Places, invitation: &Invitation) -> Result<String> {
    let attempt = "read the cluster's authority";
    let read = |path| berth_scheduler::trust::files::read(path).context(attempt);
    let ours = places.server_pki().join("ca.crt");
    let pem = match read(&ours)? {
        Some(pem) => pem,
        None => read(&places.node_pki().join("ca.crt"))?.ok_or_else(|| {
            Error::new(format!(
                "{attempt}: there is no {}: run this on a machine of the cluster",
                ours.display()
            ))
        })?,
    };
    let certificate = parse_certificate(&pem).context(attempt)?;
    let token = Token {
        invitation: invitation.clone(),
        authority: public_key_hash(&certificate).context(attempt)?,
    };
    Ok(token.words())
}

fn tell(places: &Places, token: &str, role: Role, quiet: bool) -> Result<()> {
    if quiet {
        return print_line(token);
    }
    let file = NodeFile::read(&places.config)?;
    let server = file.and_then(|file| file.servers.first().map(SocketAddr::to_string));
    let server = server.unwrap_or_else(|| "ADDRESS".to_owned());
    let flag = match role {
        Role::Server => "--server ",
        Role::Node => "",
    };
    print_line(&format!(
        "berth cluster join {flag}--token {token} {server}"
    ))
}

fn allowance(new: &NewToken) -> Result<Allowance> {
    Ok(Allowance {
        uses: new.uses,
        role: match new.server {
            true => Role::Server,
            false => Role::Node,
        },
        description: new.description.clone(),
        ..Allowance::within(parse_ttl(&new.ttl)?)
    })
}

fn parse_ttl(text: &str) -> Result<SignedDuration> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let ttl: Option<SignedDuration> = text.parse().ok();
    ttl.filter(|ttl| !ttl.is_negative()).ok_or_else(|| {
        Error::new(format!(
            "--ttl {text}: expected a time like 30m or 24h, or 0 for ever; no token was made"
        ))
    })
}

fn choose<'a>(known: &'a [KnownToken], id: Option<&str>) -> Result<&'a KnownToken> {
    let now = Timestamp::now();
    if let Some(id) = id {
        let found = known.iter().find(|token| token.invitation.id == id);
        let token = found.ok_or_else(|| {
            Error::new(format!(
                "there is no token {id:?}; see 'berth cluster token list'"
            ))
        })?;
        return match token.ended(now) {
            None => Ok(token),
            Some(refusal) => Err(Error::new(format!("token {id}: {refusal}"))),
        };
    }
    let good = known.iter().filter(|token| token.ended(now).is_none());
    let rank = |token: &&KnownToken| {
        // Who adds a node shall not hand out by chance what makes servers.
        let is_for_nodes = token.allowance.role == Role::Node;
        (
            is_for_nodes,
            token.allowance.expires.unwrap_or(Timestamp::MAX),
        )
    };
    good.max_by_key(rank).ok_or_else(|| {
        Error::new("there is no token that is good; make one with 'berth cluster token create'")
    })
}

async fn list(settings: &Settings, client: &kube::Client) -> Result<()> {
    let known = tokens::list(client).await.context("list tokens")?;
    let now = Timestamp::now();
    let state = |token: &KnownToken| match token.ended(now) {
        None => "good",
        Some(tokens::Refusal::Expired { .. }) => "expired",
        Some(_) => "spent",
    };
    let values: Vec<_> = known
        .iter()
        .map(|token| {
            json!({
                "id": token.invitation.id,
                "state": state(token),
                "expires": token.allowance.expires.map(|expires| expires.to_string()),
                "usesLeft": token.allowance.uses,
                "for": purpose(token),
                "description": token.allowance.description,
            })
        })
        .collect();
    let name = |value: &serde_json::Value| value["id"].as_str().unwrap_or_default().to_owned();
    print_list(settings.format, &values, name, || Rows {
        heads: vec!["ID", "STATE", "EXPIRES", "USES LEFT", "FOR", "DESCRIPTION"],
        wide_columns: 0,
        rows: known
            .iter()
            .map(|token| {
                let expires = token.allowance.expires.map(|expires| expires.to_string());
                let uses = token.allowance.uses.map(|uses| uses.to_string());
                vec![
                    token.invitation.id.clone(),
                    state(token).to_owned(),
                    expires.unwrap_or_else(|| "never".to_owned()),
                    uses.unwrap_or_else(|| "any".to_owned()),
                    purpose(token).to_owned(),
                    token.allowance.description.clone(),
                ]
            })
            .collect(),
    })
}

/// Whom a token lets in.
fn purpose(token: &KnownToken) -> &'static str {
    match token.allowance.role {
        Role::Node => "nodes",
        Role::Server => "servers",
    }
}

async fn revoke(client: &kube::Client, ids: &[String]) -> Result<()> {
    let mut missing = Vec::new();
    for id in ids {
        // People paste more than the name.
        let id = id.trim_start_matches("berth-1-");
        let id = id.split_once('.').map_or(id, |(id, _)| id);
        let revoked = tokens::revoke(client, id).await;
        if revoked.context(format!("take back token {id}"))? {
            print_line(&format!("token {id} was taken back"))?;
        } else {
            missing.push(id);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "there is no token {}",
        missing.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_ttl("0").unwrap(), SignedDuration::ZERO);
        assert_eq!(parse_ttl("30m").unwrap(), SignedDuration::from_mins(30));
        assert_eq!(parse_ttl("24h").unwrap(), SignedDuration::from_hours(24));
        for text in ["", "-1h", "soon", "5"] {
            assert!(parse_ttl(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_token_that_is_good_for_longest_is_shown() {
        let token = |expires: Option<i64>, uses| KnownToken {
            invitation: Invitation::create(),
            allowance: Allowance {
                expires: expires.map(|hours| Timestamp::now() + SignedDuration::from_hours(hours)),
                uses,
                role: Role::Node,
                description: String::new(),
            },
        };
        let known = [
            token(Some(-1), None),
            token(Some(1), None),
            token(Some(5), None),
            token(None, Some(0)),
        ];
        let mut for_servers = token(Some(9), None);
        for_servers.allowance.role = Role::Server;
        let known: Vec<KnownToken> = known.into_iter().chain([for_servers]).collect();
        let id = |index: usize| known[index].invitation.id.clone();
        assert_eq!(choose(&known, None).unwrap().invitation.id, id(2));
        let expired = choose(&known, Some(&id(0))).unwrap_err().chain();
        assert!(expired.contains("expired"), "{expired}");
        let spent = choose(&known, Some(&id(3))).unwrap_err().chain();
        assert!(spent.contains("spent"), "{spent}");
        assert!(choose(&known, Some("nobody")).is_err());
        assert!(choose(&known[..1], None).is_err());
    }
}
