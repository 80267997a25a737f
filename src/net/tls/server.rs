//! TLS of our own listeners: the certificate with its key, and the server's side of the handshake (IN-30).
//!
//! The `openssl` crate and not native-tls: native-tls's acceptor speaks no TLS 1.3, offers 3DES and CBC, gives out
//! session tickets, and neither switches off renegotiation nor tells version and cipher.
//!
//! Files are read once, at the start as root if we are, and again at a reload as whoever we are by then.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslMethod, SslVersion};
use openssl::x509::X509;

use super::super::deadline::Deadline;
use super::super::socket::Socket;
use super::stream::{Tls, reasons};
use crate::clock::Timestamp;

/// IN-30: the longest handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(60);

/// Octets of a file that are read; a chain has a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// Whom a listener shows itself as: a certificate, what it was signed with, and its key. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    context: SslContext,
    cert: PathBuf,
    key: PathBuf,
    /// The file of the certificate as it was read: what a reload compares.
    octets: Vec<u8>,
    until: Option<Timestamp>,
}

/// SEC-10: nothing of the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.0.cert).finish()
    }
}

/// Why a certificate or a key cannot be used: the file, and the reason (CFG-8).
#[derive(Debug)]
pub struct IdentityError {
    text: String,
    /// We may not read it.
    denied: bool,
}

impl IdentityError {
    /// Whether it is only that we may not read the file.
    pub fn is_denied(&self) -> bool {
        self.denied
    }
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for IdentityError {}

/// What a reload found (CFG-5).
#[derive(Debug)]
pub enum Renewal {
    /// Other files, or another certificate in them.
    New(Identity),
    /// What is in use already.
    Same,
    /// We may not read the certificate, and cannot know: only a restart can.
    Unreadable(IdentityError),
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secured {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's registered name.
    pub cipher: &'static str,
}

/// As the log has it: one word.
impl std::fmt::Display for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.version, self.cipher)
    }
}

impl Identity {
    /// Reads a certificate with what it was signed with, and its key, both PEM.
    ///
    /// # Errors
    /// [`IdentityError`]: unreadable, no PEM, encrypted, not belonging together, too weak, or a key that group or others
    /// may read (CFG-7).
    pub fn load(cert: &Path, key: &Path) -> Result<Identity, IdentityError> {
        let octets = read(cert, false)?;
        let chain = chain(cert, &octets)?;
        let secret = read_key(key)?;
        let until = chain.first().and_then(|leaf| seconds(leaf.not_after()));
        Ok(Identity(Arc::new(Inner {
            context: context(chain, &secret, cert, key)?,
            cert: cert.to_owned(),
            key: key.to_owned(),
            octets,
            until,
        })))
    }

    /// Reads the files again, after root was given up. A certificate that did not change still goes with the key that
    /// we hold, so that a key which only root can read does not stand in the way of every reload.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn reload(&self, cert: &Path, key: &Path) -> Result<Renewal, IdentityError> {
        let error = match Identity::load(cert, key) {
            Ok(new) if new.0.octets == self.0.octets && self.is_of(cert, key) => {
                return Ok(Renewal::Same);
            }
            Ok(new) => return Ok(Renewal::New(new)),
            Err(error) => error,
        };
        if !error.denied || !self.is_of(cert, key) {
            return Err(error);
        }
        match read(cert, false) {
            Ok(octets) if octets == self.0.octets => Ok(Renewal::Same),
            Err(error) if error.denied => Ok(Renewal::Unreadable(error)),
            _ => Err(error),
        }
    }

    fn is_of(&self, cert: &Path, key: &Path) -> bool {
        self.0.cert == cert && self.0.key == key
    }

    /// The file of the certificate.
    pub fn file(&self) -> &Path {
        &self.0.cert
    }

    /// When the certificate ends.
    pub fn until(&self) -> Option<Timestamp> {
        self.0.until
    }

    /// The server's handshake.
    pub(in crate::net) fn accept(
        &self,
        socket: Socket,
        deadline: Deadline,
        wanted: &dyn Fn() -> bool,
    ) -> io::Result<(Tls, Secured)> {
        let tls = Tls::accept(Ssl::new(&self.0.context)?, socket, deadline, wanted)?;
        let ssl = tls.ssl();
        let cipher = ssl.current_cipher();
        let secured = Secured {
            version: ssl.version_str(),
            cipher: cipher.map_or("unknown", |c| c.standard_name().unwrap_or(c.name())),
        };
        Ok((tls, secured))
    }
}

/// Reads a private key, PEM.
///
/// # Errors
/// As [`Identity::load`] of its key.
pub fn read_key(path: &Path) -> Result<PKey<Private>, IdentityError> {
    private_key(path, &read(path, true)?)
}

fn faulty(path: &Path, reason: impl std::fmt::Display) -> IdentityError {
    IdentityError {
        text: format!("{}: {reason}", path.display()),
        denied: false,
    }
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, IdentityError> {
    let failed = |error: io::Error| IdentityError {
        denied: error.kind() == io::ErrorKind::PermissionDenied,
        ..faulty(path, error)
    };
    // A FIFO in its place must not hold up the start. Links are followed: that is how certificates are renewed.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file: File = options.open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(faulty(path, "is not a file"));
    }
    let mode = found.mode() & 0o777;
    if secret && mode & 0o066 != 0 {
        // CFG-7
        let reason =
            format!("group or others may read or write it (mode {mode:04o}), wanted is 0600");
        return Err(faulty(path, reason));
    }
    let mut octets = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut octets)
        .map_err(failed)?;
    if octets.len() as u64 > MAX_FILE {
        return Err(faulty(path, "is over 1 MiB"));
    }
    Ok(octets)
}

fn chain(path: &Path, octets: &[u8]) -> Result<Vec<X509>, IdentityError> {
    match X509::stack_from_pem(octets) {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(faulty(path, "no certificate in PEM form is in it")),
        Err(error) => Err(faulty(path, reasons(&error))),
    }
}

fn private_key(path: &Path, octets: &[u8]) -> Result<PKey<Private>, IdentityError> {
    let mut asked = false;
    // Without this OpenSSL would ask at the terminal.
    let key = PKey::private_key_from_pem_callback(octets, |_| {
        asked = true;
        Ok(0)
    });
    key.map_err(|error| match asked {
        true => faulty(path, "has a passphrase; wanted is a key without"),
        false if !octets.windows(10).any(|w| w == b"-----BEGIN") => {
            faulty(path, "no key in PEM form is in it")
        }
        false => faulty(path, reasons(&error)),
    })
}

fn context(
    chain: Vec<X509>,
    secret: &PKey<Private>,
    cert: &Path,
    key: &Path,
) -> Result<SslContext, IdentityError> {
    let of_cert = |error: ErrorStack| faulty(cert, reasons(&error));
    let of_key = |error: ErrorStack| faulty(key, reasons(&error));
    // Mozilla's intermediate list: forward secrecy and AEAD, TLS 1.2 and 1.3. Older versions are obsolete (RFC 8996).
    let mut context =
        SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).map_err(of_cert)?;
    context
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(of_cert)?;
    super::manners(&mut context);
    // IN-30: TLS 1.3 has tickets of its own.
    context.set_num_tickets(0).map_err(of_cert)?;
    let mut chain = chain.into_iter();
    if let Some(leaf) = chain.next() {
        let ours = leaf.public_key().map_err(of_cert)?;
        if !ours.public_eq(secret) {
            let reason = format!("is not the key of the certificate in {}", cert.display());
            return Err(faulty(key, reason));
        }
        context.set_certificate(&leaf).map_err(of_cert)?;
    }
    for above in chain {
        context.add_extra_chain_cert(above).map_err(of_cert)?;
    }
    context.set_private_key(secret).map_err(of_key)?;
    context.check_private_key().map_err(of_key)?;
    Ok(context.build().into_context())
}

/// A time of a certificate, if it is one that we can express.
fn seconds(time: &Asn1TimeRef) -> Option<Timestamp> {
    let epoch = Asn1Time::from_unix(0).ok()?;
    let span = epoch.diff(time).ok()?;
    let seconds = i64::from(span.days) * 86_400 + i64::from(span.secs);
    Some(Timestamp::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use openssl::rsa::Rsa;
    use openssl::symm::Cipher;

    use super::super::ca::{Authority, Issued, leaf};
    use super::*;
    use crate::testing::TempDir;

    struct Dir(TempDir);

    impl Dir {
        fn new() -> Dir {
            Dir(TempDir::new())
        }

        fn file(&self, name: &str, octets: &[u8], mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, octets).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }

        fn pair(&self, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
            let key = issued.key.private_key_to_pem_pkcs8().unwrap();
            (
                self.file(&format!("{name}.pem"), &chain(issued), 0o644),
                self.file(&format!("{name}.key"), &key, 0o600),
            )
        }
    }

    fn chain(issued: &Issued) -> Vec<u8> {
        let sent = issued.sent();
        sent.iter()
            .flat_map(|cert| cert.to_pem().unwrap())
            .collect()
    }

    // CFG-7, CFG-8
    #[test]
    fn a_pair_that_cannot_be_used_is_named_with_the_reason() {
        let dir = Dir::new();
        let root = Authority::root("root");
        let issued = root.issue(leaf(&["mail.here.example"]));
        let other = root.issue(leaf(&["mail.here.example"]));
        let (cert, key) = dir.pair("good", &issued);
        let (_, wrong) = dir.pair("other", &other);
        let pem = fs::read(&key).unwrap();
        let locked = issued
            .key
            .private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"x");
        let weak = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
        let weak_cert = {
            let mut cert = openssl::x509::X509Builder::new().unwrap();
            cert.set_pubkey(&weak).unwrap();
            cert.set_not_before(&Asn1Time::days_from_now(0).unwrap())
                .unwrap();
            cert.set_not_after(&Asn1Time::days_from_now(9).unwrap())
                .unwrap();
            cert.sign(&weak, openssl::hash::MessageDigest::sha256())
                .unwrap();
            cert.build().to_pem().unwrap()
        };
        let missing = dir.0.join("missing");
        let group = dir.file("group.key", &pem, 0o640);
        let others = dir.file("others.key", &pem, 0o604);
        let written = dir.file("written.key", &pem, 0o620);
        let locked = dir.file("locked.key", &locked.unwrap(), 0o600);
        let rubbish = dir.file("rubbish", b"rubbish\n", 0o600);
        let cut = dir.file("cut.pem", &chain(&issued)[..200], 0o644);
        let large = dir.file("large", &vec![b'x'; 1 << 21], 0o600);
        let weak_cert = dir.file("weak.pem", &weak_cert, 0o644);
        let weak_key = dir.file("weak.key", &weak.private_key_to_pem_pkcs8().unwrap(), 0o600);
        for (cert, key, at, reason) in [
            (&missing, &key, &missing, "No such file"),
            (&cert, &missing, &missing, "No such file"),
            (
                &cert,
                &group,
                &group,
                "group or others may read or write it (mode 0640)",
            ),
            (&cert, &others, &others, "group or others"),
            (&cert, &written, &written, "group or others"),
            (
                &cert,
                &wrong,
                &wrong,
                "is not the key of the certificate in",
            ),
            (&cert, &locked, &locked, "has a passphrase"),
            (&cert, &rubbish, &rubbish, "no key in PEM form"),
            (&cert, &dir.0.join(""), &dir.0.join(""), "is not a file"),
            (&cert, &large, &large, "is over 1 MiB"),
            (&rubbish, &key, &rubbish, "no certificate in PEM form"),
            (&key, &key, &key, "no certificate in PEM form"),
            (&cut, &key, &cut, "TLS: "),
            (&weak_cert, &weak_key, &weak_cert, "TLS: ee key too small"),
        ] {
            let error = Identity::load(cert, key).unwrap_err();
            let wanted = format!("{}: {reason}", at.display());
            assert!(error.to_string().starts_with(&wanted), "{error}\n{wanted}");
            assert_eq!(error.to_string().lines().count(), 1);
            assert!(!error.denied);
        }
        let identity = Identity::load(&cert, &key).unwrap();
        assert!(identity.until().is_some());
        assert!(!format!("{identity:?}").contains("PRIVATE"));
    }

    // CFG-5
    #[test]
    fn a_reload_sees_what_has_changed_and_keeps_what_it_has_when_that_is_faulty() {
        let dir = Dir::new();
        let root = Authority::root("root");
        let (cert, key) = dir.pair("a", &root.issue(leaf(&["a.example"])));
        // As certbot does it.
        let link = dir.0.join("live.pem");
        symlink(&cert, &link).unwrap();
        let identity = Identity::load(&link, &key).unwrap();
        assert!(matches!(identity.reload(&link, &key), Ok(Renewal::Same)));
        assert!(matches!(identity.reload(&cert, &key), Ok(Renewal::New(_))));
        // The certificate first: for a moment they do not belong together.
        let next = root.issue(leaf(&["a.example"]));
        fs::write(&cert, chain(&next)).unwrap();
        assert!(identity.reload(&link, &key).is_err());
        fs::write(&key, next.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let Ok(Renewal::New(new)) = identity.reload(&link, &key) else {
            panic!("it changed");
        };
        assert!(matches!(new.reload(&link, &key), Ok(Renewal::Same)));
        // Root reads everything, so this part is for other accounts; a process of its own shows it for both.
        fs::set_permissions(&key, Permissions::from_mode(0o000)).unwrap();
        if File::open(&key).is_err() {
            assert!(matches!(new.reload(&link, &key), Ok(Renewal::Same)));
            assert!(
                identity
                    .reload(&link, &key)
                    .is_err_and(|error| error.denied)
            );
            fs::set_permissions(&cert, Permissions::from_mode(0o000)).unwrap();
            assert!(matches!(
                new.reload(&link, &key),
                Ok(Renewal::Unreadable(_))
            ));
        }
    }
}
