use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::authority::{Authority, NODE_LIFE, SERVER_HOST, node_host, request};
use super::credential::Credential;
use super::tls::{self, Found, Pinned, Shown};
use super::token::{Invitation, Token, TokenError};
use super::*;

fn node(authority: &Authority, name: &str) -> Credential {
    let (key, request) = request().unwrap();
    let issued = authority.node(name, &request, NODE_LIFE).unwrap();
    Credential {
        certificate: issued.certificate,
        key,
        authority: authority.certificate().to_owned(),
    }
}

fn server(authority: &Authority) -> Credential {
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    authority.server(&["host-1".to_owned()], &[here]).unwrap()
}

/// A handshake in memory, and one byte each way: with TLS 1.3 a client learns only
/// then that its certificate was refused.
fn handshake(client: ClientConfig, server: ServerConfig, name: &str) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..8 {
        bytes.clear();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    client.writer().write_all(b"?").unwrap();
    client.write_tls(&mut bytes).unwrap();
    bytes.clear();
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn shown(credential: Credential) -> Arc<Shown> {
    Shown::new(credential).unwrap()
}

#[test]
fn the_server_is_known_to_its_clients_and_no_node_can_stand_in_for_it() {
    let authority = Authority::create().unwrap();
    let api = shown(server(&authority));
    let client = shown(node(&authority, "n1"));
    for name in [SERVER_HOST, "host-1", "127.0.0.1"] {
        let outcome = handshake(
            tls::client(&client).unwrap(),
            tls::api_server(&api).unwrap(),
            name,
        );
        assert_eq!(outcome, Ok(()), "{name}");
    }
    // A node that takes the server's port, under the worst of names.
    for name in ["kubernetes", "localhost"] {
        let thief = shown(node(&authority, name));
        let outcome = handshake(
            tls::client(&client).unwrap(),
            tls::api_server(&thief).unwrap(),
            name,
        );
        assert!(outcome.is_err(), "{name}");
    }
}

#[test]
fn an_agent_lets_nobody_in_but_the_server() {
    let authority = Authority::create().unwrap();
    let agent = shown(node(&authority, "n1"));
    let to_agent = |credential| {
        handshake(
            tls::client(&shown(credential)).unwrap(),
            tls::agent_server(&agent).unwrap(),
            &node_host("n1"),
        )
    };
    assert_eq!(to_agent(authority.server_client().unwrap()), Ok(()));
    assert!(to_agent(node(&authority, "n2")).is_err(), "another node");
    assert!(to_agent(authority.admin().unwrap()).is_err(), "the admin");
    let foreign = Authority::create().unwrap().server_client().unwrap();
    let trusting = Credential {
        authority: authority.certificate().to_owned(),
        ..foreign
    };
    assert!(to_agent(trusting).is_err(), "another cluster's server");
    let wrong = handshake(
        tls::client(&shown(authority.server_client().unwrap())).unwrap(),
        tls::agent_server(&agent).unwrap(),
        &node_host("n2"),
    );
    assert!(wrong.is_err(), "another node's port");
}

#[test]
fn a_joining_machine_speaks_only_to_the_authority_of_its_token() {
    let authority = Authority::create().unwrap();
    let api = shown(server(&authority));
    let pin = Pinned::new(authority.hash().unwrap());
    let outcome = handshake(
        tls::pinned(pin.clone()).unwrap(),
        tls::api_server(&api).unwrap(),
        SERVER_HOST,
    );
    assert_eq!(outcome, Ok(()));
    assert!(matches!(pin.found(), Found::Authority(_)));

    let foreign = Pinned::new([7; 32]);
    let outcome = handshake(
        tls::pinned(foreign.clone()).unwrap(),
        tls::api_server(&api).unwrap(),
        SERVER_HOST,
    );
    assert!(outcome.is_err());
    assert_eq!(foreign.found(), Found::Foreign);

    // The right authority's certificate is public: showing it proves nothing.
    let thief = Authority::create().unwrap();
    let mixed = shown(Credential {
        authority: authority.certificate().to_owned(),
        ..server(&thief)
    });
    let pin = Pinned::new(authority.hash().unwrap());
    let outcome = handshake(
        tls::pinned(pin.clone()).unwrap(),
        tls::api_server(&mixed).unwrap(),
        SERVER_HOST,
    );
    assert!(outcome.is_err());
    assert_eq!(pin.found(), Found::Nothing);
}

#[test]
fn a_certificate_says_who_its_holder_is() {
    let authority = Authority::create().unwrap();
    let subject = node(&authority, "n1.rack-2").subject().unwrap();
    assert_eq!(subject.user, "system:node:n1.rack-2");
    assert_eq!(subject.groups, [NODES]);
    assert_eq!(subject.node(), Some("n1.rack-2"));
    let life = subject
        .not_after
        .duration_since(subject.not_before)
        .unwrap();
    assert!(life > NODE_LIFE && life < NODE_LIFE + Duration::from_mins(10));
    assert!(subject.renewal() > SystemTime::now() + Duration::from_hours(24 * 59));
    assert!(register::is_in_date(&subject, SystemTime::now()));
    assert!(!register::is_in_date(&subject, subject.not_after));
    let admin = authority.admin().unwrap().subject().unwrap();
    assert_eq!((admin.user.as_str(), admin.node()), ("admin", None));
    assert_eq!(admin.groups, [MASTERS]);
}

#[test]
fn a_request_does_not_choose_its_names() {
    let authority = Authority::create().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![SERVER_HOST.to_owned()]).unwrap();
    params.distinguished_name = authority::named("admin", &[MASTERS]);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = authority.node("n1", &request, NODE_LIFE).unwrap();
    assert_eq!(issued.subject.user, "system:node:n1");
    assert_eq!(issued.subject.groups, [NODES]);
    let der = credential::parse_certificate(&issued.certificate).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!parsed.is_ca());
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
}

#[test]
fn names_that_are_no_hosts_are_refused() {
    let authority = Authority::create().unwrap();
    let (_, request) = request().unwrap();
    for name in [
        "",
        "A",
        "a_b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a/b",
        "ä",
        &"a".repeat(64),
    ] {
        let refused = authority.node(name, &request, NODE_LIFE);
        assert!(
            matches!(refused, Err(TrustError::NodeName { .. })),
            "{name:?}"
        );
    }
}

#[test]
fn files_are_roots_alone_and_are_read_as_they_were_written() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("server/pki");
    assert!(Authority::read(&place).unwrap().is_none());
    let authority = Authority::create().unwrap();
    authority.write(&place).unwrap();
    let again = Authority::read(&place).unwrap().unwrap();
    assert_eq!(again.hash().unwrap(), authority.hash().unwrap());
    server(&again).write(&place, "server").unwrap();
    let credential = Credential::read(&place, "server").unwrap().unwrap();
    Shown::new(credential).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    let files: Vec<_> = std::fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[test]
fn files_of_other_things_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let authority = Authority::create().unwrap();
    authority.write(place).unwrap();
    Authority::create()
        .unwrap()
        .write(&place.join("b"))
        .unwrap();
    std::fs::write(place.join("ca.key"), "not a key").unwrap();
    let error = Authority::read(place).unwrap_err().to_string();
    assert!(error.contains("ca.key"), "{error}");
    // The key of another certificate is found out when it is to be shown.
    let mut credential = server(&authority);
    credential.key = server(&authority).key;
    assert!(Shown::new(credential).is_err());
}

#[test]
fn what_is_shown_can_be_replaced() {
    let authority = Authority::create().unwrap();
    let first = node(&authority, "n1");
    let second = node(&authority, "n1");
    let shown = shown(first.clone());
    shown.replace(second.clone()).unwrap();
    assert_eq!(shown.credential().certificate, second.certificate);
    let broken = Credential {
        key: first.key,
        ..second.clone()
    };
    assert!(shown.replace(broken).is_err());
    assert_eq!(shown.credential().certificate, second.certificate);
}

#[test]
fn secrets_are_not_printed() {
    let authority = Authority::create().unwrap();
    let credential = server(&authority);
    let token = Token {
        invitation: Invitation::create(),
        authority: [1; 32],
    };
    let printed = format!("{authority:?} {credential:?} {token:?}");
    assert!(!printed.contains("PRIVATE KEY"));
    assert!(!printed.contains(token.invitation.secret()));
}

#[test]
fn tokens_with_mistakes_are_told_what_is_wrong() {
    let hash = "0".repeat(64);
    let wrong = |words: &str| words.parse::<Token>().unwrap_err().to_string();
    assert!(wrong("hello").contains("berth-1-"));
    assert!(wrong("berth-9-a").contains("form 9"));
    assert!(wrong("berth-1-abcdef").contains("'-'"));
    assert!(wrong(&format!("berth-1-abcdef-{hash}")).contains("'.'"));
    assert!(wrong(&format!("berth-1-abcde.0123456789abcdef-{hash}")).contains("ID"));
    let secret = format!("berth-1-abcdef.0123456789ABCDEF-{hash}");
    assert!(wrong(&secret).contains("SECRET"));
    assert!(
        !wrong(&secret).contains("ABCDEF"),
        "the secret is told again"
    );
    assert!(wrong("berth-1-abcdef.0123456789abcdef-12").contains("HASH"));
    assert_eq!(
        "berth-12-x".parse::<Token>(),
        Err(TokenError::Version("12".to_owned()))
    );
}

proptest! {
    #[test]
    fn a_token_is_read_as_it_was_written(authority: [u8; 32]) {
        let token = Token { invitation: Invitation::create(), authority };
        prop_assert_eq!(token.words().parse::<Token>(), Ok(token));
    }

    #[test]
    fn no_words_make_the_reader_fall(words in "(berth-[0-9]*-?)?[a-z0-9.\\-é]{0,90}") {
        let _ = words.parse::<Token>();
    }

    #[test]
    fn only_the_secret_proves(other in "[a-z0-9]{0,20}") {
        let invitation = Invitation::create();
        prop_assert!(invitation.is_proved_by(invitation.secret()));
        prop_assert_eq!(invitation.is_proved_by(&other), other == invitation.secret());
    }
}

#[test]
fn an_authority_lives_for_twenty_years() {
    let authority = Authority::create().unwrap();
    let der = credential::parse_certificate(authority.certificate()).unwrap();
    let subject = credential::subject(&der).unwrap();
    let life = subject.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(life > Duration::from_hours(24 * 365 * 19));
}
