//! The private certificate authority: one for etcd, coordinators, agents and operators.
//!
//! ECDSA P-256 throughout. The authority lives ten years; certificates two, so that yearly renewal leaves a year of slack.
//! The subject says who it is: CN the name (`operator`, `coordinator`, `node:web-1`), OU the role. etcd maps the CN to its
//! user; the artifact server reads the OU.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Life of the authority, in years.
pub const AUTHORITY_YEARS: i16 = 10;
/// Life of a certificate, in years.
pub const CERTIFICATE_YEARS: i16 = 2;
/// The authority's certificate, below its directory.
pub const CA_FILE: &str = "ca.pem";
/// The authority's key, below its directory.
pub const CA_KEY_FILE: &str = "ca-key.pem";

/// What a certificate is for; its OU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A member of etcd: server, and client of its peers.
    EtcdServer,
    /// A person or CI at `coordctl`.
    Operator,
    /// A coordinator: etcd's client, and server of artifacts and pages.
    Coordinator,
    /// An agent.
    Node,
}

impl Role {
    const ALL: [Self; 4] = [Self::EtcdServer, Self::Operator, Self::Coordinator, Self::Node];

    /// As it stands in the OU.
    pub fn name(self) -> &'static str {
        match self {
            Self::EtcdServer => "etcd",
            Self::Operator => "operator",
            Self::Coordinator => "coordinator",
            Self::Node => "node",
        }
    }

    /// The role and common name in a certificate (DER) whose chain was verified.
    pub fn of_certificate(der: &[u8]) -> Option<(Self, String)> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let unit = subject.iter_organizational_unit().next()?.as_str().ok()?;
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let role = Self::ALL.into_iter().find(|role| role.name() == unit)?;
        Some((role, name.to_owned()))
    }

    fn serves(self) -> bool {
        matches!(self, Self::EtcdServer | Self::Coordinator)
    }
}

/// Why the authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {doing} {}", .path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a certificate authority's file", .path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("cannot make the certificate for {name}")]
    Certificate {
        name: String,
        #[source]
        source: rcgen::Error,
    },
}

/// Certificate and key of one holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The authority, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    /// Makes an authority: `ca.pem` and `ca-key.pem` (0600) in `dir`, which is made. Never overwrites one.
    ///
    /// # Errors
    /// Files that cannot be written, or that are there already.
    pub fn create(dir: &Path) -> Result<Self, PkiError> {
        let of = |source| PkiError::Certificate { name: "the authority".to_owned(), source };
        std::fs::create_dir_all(dir).map_err(|source| PkiError::File { doing: "make", path: dir.into(), source })?;
        let mut params = params("Coord authority", None, AUTHORITY_YEARS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(of)?;
        let certificate = params.self_signed(&key).map_err(of)?;
        write_new(&dir.join(CA_KEY_FILE), &key.serialize_pem(), 0o600)?;
        write_new(&dir.join(CA_FILE), &certificate.pem(), 0o644)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate: dir.join(CA_FILE) })
    }

    /// Reads the authority in `dir`.
    ///
    /// # Errors
    /// Files that cannot be read or are not an authority's.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let (certificate, key_path) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|source| PkiError::Authority { path: key_path, source })?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, key)
            .map_err(|source| PkiError::Authority { path: certificate.clone(), source })?;
        Ok(Self { issuer, certificate })
    }

    /// The authority in `dir`, made when there is none.
    ///
    /// # Errors
    /// As [`Authority::create`] and [`Authority::load`].
    pub fn ensure(dir: &Path) -> Result<Self, PkiError> {
        if dir.join(CA_FILE).exists() { Self::load(dir) } else { Self::create(dir) }
    }

    /// The certificate that others verify with.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Writes `<file>.pem` and `<file>-key.pem` (0600) into `dir`, replacing what is there; the common name is `name`, its
    /// `:` becomes `-` in the file name. `sans` are host names and addresses, for roles that serve.
    ///
    /// # Errors
    /// A name that is no host name or address, files that cannot be written.
    pub fn issue(&self, dir: &Path, name: &str, role: Role, sans: &[&str]) -> Result<CertificateFiles, PkiError> {
        let of = |source| PkiError::Certificate { name: name.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(|source| PkiError::File { doing: "make", path: dir.into(), source })?;
        let mut params = params(name, Some(role), CERTIFICATE_YEARS);
        let names: Vec<String> = sans.iter().map(|&san| san.to_owned()).collect();
        params.subject_alt_names = CertificateParams::new(names).map_err(of)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A server is a client too: etcd members of their peers (and of themselves, for the JSON gateway), coordinators of etcd.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role.serves() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(of)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(of)?;
        let stem = name.replace(':', "-");
        let files = CertificateFiles { certificate: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}-key.pem")) };
        replace(&files.key, &key.serialize_pem(), 0o600)?;
        replace(&files.certificate, &certificate.pem(), 0o644)?;
        Ok(files)
    }
}

fn params(name: &str, role: Option<Role>, years: i16) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(role) = role {
        subject.push(DnType::OrganizationalUnitName, role.name());
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    // From yesterday: a server whose clock is a little behind must not refuse it.
    let start = (Timestamp::now() - Duration::from_secs(24 * 3600)).to_zoned(TimeZone::UTC).date();
    let day = |year: i16| rcgen::date_time_ymd(year.into(), start.month().unsigned_abs(), start.day().unsigned_abs().min(28));
    params.not_before = day(start.year());
    params.not_after = day(start.year() + years);
    params
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { doing: "read", path: path.into(), source })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    crate::new_file::write(path, text, mode).map_err(|source| PkiError::File { doing: "write", path: path.into(), source })
}

/// Beside and then renamed: a program that re-reads its certificate never finds half of one.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let fail = |source| PkiError::File { doing: "write", path: path.into(), source };
    let beside = path.with_extension("pem.new");
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    write_new(&beside, text, mode)?;
    std::fs::rename(&beside, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn der(path: &Path) -> Vec<u8> {
        let text = std::fs::read(path).expect("readable");
        x509_parser::pem::parse_x509_pem(&text).expect("PEM").1.contents
    }

    #[test]
    fn certificate_says_who_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = Authority::create(dir.path()).expect("made").issue(dir.path(), "node:web-1", Role::Node, &[]).expect("issued");
        assert_eq!(files.certificate, dir.path().join("node-web-1.pem"));
        assert_eq!(Role::of_certificate(&der(&files.certificate)), Some((Role::Node, "node:web-1".to_owned())));
        assert_eq!(Role::of_certificate(&der(&dir.path().join(CA_FILE))), None);
        assert_eq!(Role::of_certificate(b"no certificate"), None);
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = Authority::create(dir.path()).expect("made").issue(dir.path(), "operator", Role::Operator, &[]).expect("issued");
        for key in [files.key, dir.path().join(CA_KEY_FILE)] {
            assert_eq!(std::fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600, "{}", key.display());
        }
    }

    #[test]
    fn an_authority_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Authority::create(dir.path()).expect("made");
        let before = read(&dir.path().join(CA_KEY_FILE)).expect("there");
        assert!(Authority::create(dir.path()).is_err());
        Authority::ensure(dir.path()).expect("loaded");
        assert_eq!(read(&dir.path().join(CA_KEY_FILE)).expect("there"), before);
    }

    #[test]
    fn a_loaded_authority_signs_like_the_one_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Authority::create(dir.path()).expect("made");
        let issued = Authority::load(dir.path()).expect("loaded").issue(dir.path(), "coordinator", Role::Coordinator, &["127.0.0.1"]);
        let (leaf, root) = (der(&issued.expect("issued").certificate), der(&dir.path().join(CA_FILE)));
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).expect("a certificate");
        let (_, root) = x509_parser::parse_x509_certificate(&root).expect("a certificate");
        assert_eq!(leaf.issuer(), root.subject());
        let usage = leaf.extended_key_usage().expect("one").expect("present").value;
        assert!(usage.client_auth && usage.server_auth);
        let years = (leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()) / (365 * 24 * 3600);
        assert_eq!(years, i64::from(CERTIFICATE_YEARS));
    }
}
