//! rustls configurations: who shows what, and who checks what.
//!
//! ```text
//!   who                shows                      asks of its peer
//!   API server :6443   server.crt                 a certificate of the authority, if any
//!   a client of it     node.crt, admin.crt, …     the authority, known as "kubernetes"
//!   an agent :10250    node.crt                   the API server's certificate, no other
//!   the API server     apiserver-client.crt       the authority, known as NODE.node.berth.internal
//!   a joining machine  nothing                    an authority with the pinned key, "kubernetes"
//! ```

use std::sync::{Arc, Mutex, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use subtle::ConstantTimeEq as _;

use super::credential::{Credential, parse_certificate, public_key_hash, subject};
use super::{SERVER_USER, TrustError};

/// A credential that may be replaced while connections are made with it.
#[derive(Debug)]
pub struct Shown {
    current: RwLock<(Arc<CertifiedKey>, Credential)>,
}

impl Shown {
    /// Shows this credential, until another is put in its place.
    ///
    /// # Errors
    ///
    /// The key is not the certificate's.
    pub fn new(credential: Credential) -> Result<Arc<Shown>, TrustError> {
        let current = RwLock::new((certified(&credential)?, credential));
        Ok(Arc::new(Shown { current }))
    }

    /// Shows another from now on; connections that are open stay as they are.
    ///
    /// # Errors
    ///
    /// The key is not the certificate's; the old one is shown on.
    pub fn replace(&self, credential: Credential) -> Result<(), TrustError> {
        let new = (certified(&credential)?, credential);
        *self.write() = new;
        Ok(())
    }

    /// What is shown now.
    pub fn credential(&self) -> Credential {
        self.read().1.clone()
    }

    fn key(&self) -> Arc<CertifiedKey> {
        self.read().0.clone()
    }

    // A poisoned lock guards a pair that is replaced in one step: it is whole.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, (Arc<CertifiedKey>, Credential)> {
        self.current
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, (Arc<CertifiedKey>, Credential)> {
        self.current
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn certified(credential: &Credential) -> Result<Arc<CertifiedKey>, TrustError> {
    let key = CertifiedKey::from_der(credential.chain()?, credential.key_der()?, &provider())?;
    key.keys_match()?;
    Ok(Arc::new(key))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The API server's port: a client may show a certificate, and then it must be one
/// of the authority's; a machine that joins has none.
///
/// # Errors
///
/// The authority is not a certificate.
pub fn api_server(shown: &Arc<Shown>) -> Result<ServerConfig, TrustError> {
    let roots = roots(&shown.credential().authority)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TrustError::certificate("check clients' certificates", error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// An agent's port: nobody gets in but the API server. A pod that reaches it, or
/// another node, has no certificate that would do.
///
/// # Errors
///
/// The authority is not a certificate.
pub fn agent_server(shown: &Arc<Shown>) -> Result<ServerConfig, TrustError> {
    let roots = roots(&shown.credential().authority)?;
    let authority = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .build()
        .map_err(|error| TrustError::certificate("check the server's certificate", error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(OnlyServer { authority }))
        .with_cert_resolver(shown.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that shows a certificate and trusts one authority.
///
/// # Errors
///
/// The authority is not a certificate.
pub fn client(shown: &Arc<Shown>) -> Result<ClientConfig, TrustError> {
    let roots = roots(&shown.credential().authority)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_cert_resolver(shown.clone());
    // Upgrades (exec, attach, port-forward) exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A ticket would carry the old certificate into new connections.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A client that shows nothing and trusts the authority whose public key has this hash.
///
/// # Errors
///
/// TLS cannot be set up.
pub fn pinned(pin: Arc<Pinned>) -> Result<ClientConfig, TrustError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pin)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(authority: &str) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add(parse_certificate(authority)?)?;
    Ok(roots)
}

/// Accepts what the authority signed for the API server, and nothing else it signed.
#[derive(Debug)]
struct OnlyServer {
    authority: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for OnlyServer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .authority
            .verify_client_cert(end_entity, intermediates, now)?;
        let user = subject(end_entity)
            .map_err(|_| CertificateError::BadEncoding)?
            .user;
        if user == SERVER_USER {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.supported_verify_schemes()
    }
}

/// Accepts a server whose chain ends in the authority with this public key.
///
/// The check is part of the handshake: where it fails, no byte of a request was sent.
#[derive(Debug)]
pub struct Pinned {
    hash: [u8; 32],
    found: Mutex<Found>,
}

/// What a server has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet.
    #[default]
    Nothing,
    /// A chain without the authority that was asked for.
    Foreign,
    /// The authority that was asked for.
    Authority(CertificateDer<'static>),
}

impl Pinned {
    /// Waits for the authority with this hash.
    pub fn new(hash: [u8; 32]) -> Arc<Pinned> {
        Arc::new(Pinned {
            hash,
            found: Mutex::default(),
        })
    }

    /// What the server has shown.
    pub fn found(&self) -> Found {
        self.found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn tell(&self, found: Found) {
        *self
            .found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = found;
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |certificate: &&CertificateDer<'_>| {
            public_key_hash(certificate).is_ok_and(|hash| hash.ct_eq(&self.hash).into())
        };
        let Some(authority) = intermediates.iter().find(pinned) else {
            self.tell(Found::Foreign);
            return Err(CertificateError::UnknownIssuer.into());
        };
        let authority = authority.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verified = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        self.tell(Found::Authority(authority));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
