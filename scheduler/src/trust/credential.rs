//! A certificate with its key and the authority above it, as a process holds them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{TrustError, files};

/// A certificate, its key, and the authority that signed it, all as PEM.
#[derive(Clone)]
pub struct Credential {
    /// What others see.
    pub certificate: String,
    /// What nobody else may see.
    pub key: String,
    /// Whom its holder trusts.
    pub authority: String,
}

/// A key is not for logs.
impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What a certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The common name: who.
    pub user: String,
    /// The organizations: which groups.
    pub groups: Vec<String>,
    /// The serial number, hexadecimal: which certificate.
    pub serial: String,
    /// From when it holds.
    pub not_before: SystemTime,
    /// Until when it holds.
    pub not_after: SystemTime,
}

impl Subject {
    /// The name of the node that this is, if it is one.
    pub fn node(&self) -> Option<&str> {
        let is_node = self.groups.iter().any(|group| group == super::NODES);
        self.user
            .strip_prefix(super::NODE_USER_PREFIX)
            .filter(|_| is_node)
    }

    /// When two thirds of its time are over: time enough is left for a server that
    /// is away for a month.
    pub fn renewal(&self) -> SystemTime {
        let whole = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + whole * 2 / 3
    }
}

impl Credential {
    /// Reads `NAME.crt`, `NAME.key` and `ca.crt` from a directory; `None` if the
    /// certificate or the key is not there.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or holds something else.
    pub fn read(directory: &Path, name: &str) -> Result<Option<Credential>, TrustError> {
        let path = directory.join(format!("{name}.crt"));
        let certificate = files::read(&path)?;
        let key = files::read(&directory.join(format!("{name}.key")))?;
        let authority = files::read(&directory.join("ca.crt"))?;
        let (Some(certificate), Some(key), Some(authority)) = (certificate, key, authority) else {
            return Ok(None);
        };
        let credential = Credential {
            certificate,
            key,
            authority,
        };
        let damaged = |expected| TrustError::Damaged {
            path: path.clone(),
            expected,
        };
        credential
            .subject()
            .map_err(|_| damaged("a certificate (PEM)"))?;
        credential
            .key_der()
            .map_err(|_| damaged("a certificate whose key lies beside it"))?;
        Ok(Some(credential))
    }

    /// Writes the three files. The key first: a certificate without its key would
    /// look whole to the next start.
    ///
    /// # Errors
    ///
    /// [`TrustError::File`].
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), TrustError> {
        files::write(&directory.join("ca.crt"), self.authority.as_bytes())?;
        files::write(&directory.join(format!("{name}.key")), self.key.as_bytes())?;
        files::write(
            &directory.join(format!("{name}.crt")),
            self.certificate.as_bytes(),
        )
    }

    /// What the certificate says.
    ///
    /// # Errors
    ///
    /// [`TrustError::Certificate`].
    pub fn subject(&self) -> Result<Subject, TrustError> {
        subject(&parse_certificate(&self.certificate)?)
    }

    /// The certificate and the authority's: what is shown to a peer. A machine that
    /// joins finds the authority whose key its token pins in there.
    ///
    /// # Errors
    ///
    /// [`TrustError::Certificate`].
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        Ok(vec![
            parse_certificate(&self.certificate)?,
            parse_certificate(&self.authority)?,
        ])
    }

    /// The key, parsed.
    ///
    /// # Errors
    ///
    /// [`TrustError::Certificate`].
    pub fn key_der(&self) -> Result<PrivateKeyDer<'static>, TrustError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| TrustError::certificate("read a private key", error))
    }
}

/// The first certificate of a PEM text.
///
/// # Errors
///
/// [`TrustError::Certificate`].
pub fn parse_certificate(pem: &str) -> Result<CertificateDer<'static>, TrustError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| TrustError::certificate("read a certificate", error))
}

/// What a certificate says of its holder.
///
/// # Errors
///
/// [`TrustError::Certificate`].
pub fn subject(certificate: &CertificateDer<'_>) -> Result<Subject, TrustError> {
    let attempt = "read a certificate";
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| TrustError::certificate(attempt, error))?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue| {
        attribute.as_str().map(str::to_owned).ok()
    };
    let user = parsed
        .subject()
        .iter_common_name()
        .find_map(text)
        .ok_or_else(|| TrustError::certificate(attempt, "it has no common name"))?;
    let time = |stamp: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp).unwrap_or_default())
    };
    Ok(Subject {
        user,
        groups: parsed
            .subject()
            .iter_organization()
            .filter_map(text)
            .collect(),
        serial: hexadecimal(parsed.raw_serial()),
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
    })
}

/// The SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), as
/// `kubeadm` prints it behind `sha256:`.
///
/// # Errors
///
/// [`TrustError::Certificate`].
pub fn public_key_hash(certificate: &CertificateDer<'_>) -> Result<[u8; 32], TrustError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| TrustError::certificate("read a certificate", error))?;
    Ok(Sha256::digest(parsed.public_key().raw).into())
}

/// Bytes in lower-case hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
