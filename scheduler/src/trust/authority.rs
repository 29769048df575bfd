//! The authority: the key above all, and every certificate it signs.
//!
//! A certificate's names are chosen here and never taken from a request: who asks
//! proves a key (the request is signed by it, [RFC 2986]) and nothing more.
//!
//! [RFC 2986]: https://www.rfc-editor.org/rfc/rfc2986

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use super::credential::{self, Credential, Subject};
use super::{MASTERS, NODE_USER_PREFIX, NODES, SERVER_USER, TrustError, check_node_name, files};

/// How long the authority itself holds.
pub const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 365 * 20);
/// How long a node's certificate holds.
pub const NODE_LIFE: Duration = Duration::from_hours(24 * 90);
/// How long the server's own certificates hold; it makes new ones at each start.
pub const SERVER_LIFE: Duration = Duration::from_hours(24 * 365);
/// How long the administrator's certificate holds.
pub const ADMIN_LIFE: Duration = Duration::from_hours(24 * 365);
/// Certificates hold from a little in the past: clocks differ.
const CLOCKS_DIFFER_BY: Duration = Duration::from_mins(5);

/// The name under which every server is known in its certificate, whatever the
/// address by which it is reached.
pub const SERVER_HOST: &str = "kubernetes";

/// The name under which a node's agent is known in its certificate. It is under a
/// domain that no server has: no name of a node makes a certificate that a client
/// would take for the API server's.
pub fn node_host(node: &str) -> String {
    format!("{node}.node.berth.internal")
}

/// The key that signs, and its certificate.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A key is not for logs.
impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("Authority")
    }
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub fn create() -> Result<Authority, TrustError> {
        let attempt = "make the cluster's authority";
        let fail = |error: rcgen::Error| TrustError::certificate(attempt, error);
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = params(&named("berth", &[]), AUTHORITY_LIFE)?;
        // Nothing below it may sign in its turn.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).map_err(fail)?.pem();
        Authority::from_pem(certificate, key.serialize_pem())
    }

    /// The authority of these two texts.
    ///
    /// # Errors
    ///
    /// They are not a certificate and its key.
    pub fn from_pem(certificate: String, key: String) -> Result<Authority, TrustError> {
        let fail =
            |error: rcgen::Error| TrustError::certificate("read the cluster's authority", error);
        let pair = KeyPair::from_pem(&key).map_err(fail)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, pair).map_err(fail)?;
        Ok(Authority {
            certificate,
            key,
            issuer,
        })
    }

    /// Reads `ca.crt` and `ca.key`; `None` if the key is not there.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not what it should be.
    pub fn read(directory: &Path) -> Result<Option<Authority>, TrustError> {
        let path = directory.join("ca.key");
        let key = files::read(&path)?;
        let certificate = files::read(&directory.join("ca.crt"))?;
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return Ok(None);
        };
        let authority = Authority::from_pem(certificate, key);
        authority.map(Some).map_err(|_| TrustError::Damaged {
            path,
            expected: "the key of ca.crt beside it",
        })
    }

    /// Writes `ca.key` and `ca.crt`.
    ///
    /// # Errors
    ///
    /// [`TrustError::File`].
    pub fn write(&self, directory: &Path) -> Result<(), TrustError> {
        files::write(&directory.join("ca.key"), self.key.as_bytes())?;
        files::write(&directory.join("ca.crt"), self.certificate.as_bytes())
    }

    /// The certificate that everyone may see, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key that signs, PEM: for the other servers of the cluster, and nobody else.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The SHA-256 of its public key: what a join token pins.
    ///
    /// # Errors
    ///
    /// [`TrustError::Certificate`].
    pub fn hash(&self) -> Result<[u8; 32], TrustError> {
        credential::public_key_hash(&credential::parse_certificate(&self.certificate)?)
    }

    /// What the API server shows to its clients: known as `kubernetes`, and by
    /// these names and addresses.
    ///
    /// # Errors
    ///
    /// A name is none that a certificate can hold.
    pub fn server(&self, names: &[String], addresses: &[IpAddr]) -> Result<Credential, TrustError> {
        let mut params = params(&named("berth-server", &[]), SERVER_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = [SERVER_HOST, "localhost"]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .map(dns_name)
            .collect::<Result<_, _>>()?;
        let addresses = addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        self.issue(params)
    }

    /// What the API server is when it asks an agent.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub fn server_client(&self) -> Result<Credential, TrustError> {
        self.client(&named(SERVER_USER, &[]), SERVER_LIFE)
    }

    /// The administrator: may do everything.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub fn admin(&self) -> Result<Credential, TrustError> {
        self.client(&named("admin", &[MASTERS]), ADMIN_LIFE)
    }

    /// A client with a name and groups of its own.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub fn client(
        &self,
        name: &DistinguishedName,
        life: Duration,
    ) -> Result<Credential, TrustError> {
        let mut params = params(name, life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A node's certificate for the key of its request, both for asking the API
    /// and for its agent's port. The request's own names count for nothing.
    ///
    /// # Errors
    ///
    /// The request is not one, or not signed by its key; the name cannot be a node's.
    pub fn node(&self, node: &str, request: &str, life: Duration) -> Result<Issued, TrustError> {
        check_node_name(node)?;
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| TrustError::certificate("read the certificate request", error))?;
        let user = format!("{NODE_USER_PREFIX}{node}");
        let mut params = params(&named(&user, &[NODES]), life)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.subject_alt_names = vec![dns_name(&node_host(node))?];
        self.sign(params, &request.public_key)
    }

    fn issue(&self, params: CertificateParams) -> Result<Credential, TrustError> {
        let key = KeyPair::generate()
            .map_err(|error| TrustError::certificate("make a private key", error))?;
        let issued = self.sign(params, &key)?;
        Ok(Credential {
            certificate: issued.certificate,
            key: key.serialize_pem(),
            authority: self.certificate.clone(),
        })
    }

    fn sign(
        &self,
        params: CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Issued, TrustError> {
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(|error| TrustError::certificate("sign a certificate", error))?;
        let der: CertificateDer = certificate.der().clone();
        Ok(Issued {
            certificate: certificate.pem(),
            subject: credential::subject(&der)?,
        })
    }
}

/// A certificate that was signed just now.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// What it says.
    pub subject: Subject,
}

/// A new key (PEM) and a request for a certificate for it (PEM).
///
/// # Errors
///
/// The system has no randomness.
pub fn request() -> Result<(String, String), TrustError> {
    let fail = |error: rcgen::Error| TrustError::certificate("ask for a certificate", error);
    let key = KeyPair::generate().map_err(fail)?;
    // The authority chooses the names; what stands here is not looked at.
    let request = CertificateParams::default()
        .serialize_request(&key)
        .map_err(fail)?;
    Ok((key.serialize_pem(), request.pem().map_err(fail)?))
}

/// A subject of a common name and organizations: in Kubernetes, a user and its groups.
pub fn named(user: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    for group in groups {
        name.push(DnType::OrganizationName, *group);
    }
    name
}

fn dns_name(name: &str) -> Result<SanType, TrustError> {
    let name = name.to_owned().try_into();
    name.map(SanType::DnsName)
        .map_err(|error: rcgen::Error| TrustError::certificate("name a server", error))
}

fn params(name: &DistinguishedName, life: Duration) -> Result<CertificateParams, TrustError> {
    let mut serial = [0; 16];
    rand::fill(&mut serial);
    // A serial number is a positive integer of at most 20 bytes (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = name.clone();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| TrustError::certificate("read the clock", "it is before 1970"))?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // What is added before the beginning counts as time that is over, and a short life
    // must not be due for renewal when it begins.
    let before = CLOCKS_DIFFER_BY.min(life / 10);
    params.not_before = epoch + now.saturating_sub(before);
    params.not_after = epoch + now + life;
    Ok(params)
}
