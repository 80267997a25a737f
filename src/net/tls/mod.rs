//! TLS: toward other hosts one handshake says what was reached. Judges nothing. Our own listeners are [`server`]'s.
//!
//! [`handshake`] takes the conditions that `policy::tls` made, because it has to know what to compare with: the name for
//! SNI, the names a certificate may have, the TLSA records. It refuses no certificate. What it found out is a
//! [`Reached`]; whether that is enough is for `Requirement::judge`, before another octet is sent.
//!
//! - [`stream`]: the session under deadlines, of both sides.
//! - [`server`]: the certificate that our listeners show, and their side of the handshake (IN-30).
//! - [`names`]: whether a certificate is for a name (TLS-11).
//! - `binding`: what ties AUTH to a session (RFC 9266).
//! - [`dane`]: whether a chain matches TLSA records (DANE-5).
//!
//! The `openssl` crate and not native-tls, because the chain and the result of its verification must be had without
//! failing. HTTPS (MTA-STS, reports) is native-tls's, in its own modules.

mod binding;
pub mod dane;
pub mod names;
pub mod server;
mod spki;
mod stream;

#[cfg(test)]
#[path = "../../../tests/support/ca.rs"]
mod ca;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
    SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509VerifyResult};

use super::deadline::Deadline;
use super::socket::Socket;
use crate::config::{self, Config, TlsVersion};
use crate::policy::tls::report::Kind;
use crate::policy::tls::{Conditions, Fault, Reached};

pub(super) use stream::Tls;

/// OpenSSL's security level for chains (SSL_CTX_set_security_level(3)): what Debian asks for everywhere, 112 bits.
const CHAIN_LEVEL: i32 = 2;

/// What sessions share: versions, options, the authorities that are believed. Holds no sessions and no keys.
/// One for all, because the authorities of the system are a megabyte or more, and some time to read: not before the first
/// handshake, which where mail goes to a relay in clear never comes.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    tls: config::Tls,
    ready: Mutex<Option<SslContext>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// Reads `ca_file`; the system's store, which may lack files but is never refused, waits for the first handshake.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub fn new(tls: &config::Tls) -> Result<Context, String> {
        let ca_file = tls.ca_file.as_deref();
        Context::with(tls, ca_file).map_err(|error| format!("tls.{error}"))
    }

    /// The same with other authorities than those of `[tls]`.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn with(tls: &config::Tls, ca_file: Option<&Path>) -> Result<Context, String> {
        let ready = match ca_file {
            Some(path) => {
                let faulty =
                    |error: &dyn fmt::Display| format!("ca_file {}: {error}", path.display());
                // OpenSSL says the same in three lines.
                std::fs::File::open(path).map_err(|error| faulty(&error))?;
                let read = context(tls, ca_file);
                Some(read.map_err(|error| match first_reason(&error) {
                    Some(reason) => faulty(&reason),
                    None => faulty(&error),
                })?)
            }
            None => None,
        };
        Ok(Context(Arc::new(Shared {
            tls: tls.clone(),
            ready: Mutex::new(ready),
        })))
    }

    /// Whether `ca_file` can be used, if there is one (CFG-8). The system's store is read when it is first needed.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub fn check(tls: &config::Tls) -> Result<(), String> {
        match tls.ca_file {
            Some(_) => Context::new(tls).map(drop),
            None => Ok(()),
        }
    }

    /// A session to be, for one that must be `strict` about keys and signatures, or not.
    fn session(&self, strict: bool) -> Result<Ssl, ErrorStack> {
        let context = self.ready()?;
        let mut ssl = Ssl::new(&context)?;
        if !strict {
            // RFC 7435: any protection is better than the clear text that would be used otherwise, so no key size or
            // signature is refused (TLS-2).
            ssl.set_security_level(0);
        }
        Ok(ssl)
    }

    fn ready(&self) -> Result<SslContext, ErrorStack> {
        // Under the lock: whoever comes meanwhile needs the same.
        let mut ready = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = &*ready {
            return Ok(context.clone());
        }
        // A file was read at once.
        Ok(ready.insert(context(&self.0.tls, None)?).clone())
    }
}

/// What went wrong, without where in OpenSSL.
fn first_reason(error: &ErrorStack) -> Option<&'static str> {
    error.errors().first().and_then(|error| error.reason())
}

fn context(tls: &config::Tls, ca_file: Option<&Path>) -> Result<SslContext, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls_client())?;
    // The result is looked at afterwards; nothing is refused in the handshake itself.
    context.set_verify(SslVerifyMode::NONE);
    // Whatever a session is strict about: the level reached must not rest on weak signatures.
    context.verify_param_mut().set_auth_level(CHAIN_LEVEL);
    // Versions before 1.2 are obsolete (RFC 8996).
    context.set_min_proto_version(Some(match tls.min_version {
        TlsVersion::Tls12 => SslVersion::TLS1_2,
        TlsVersion::Tls13 => SslVersion::TLS1_3,
    }))?;
    match ca_file {
        Some(path) => context.set_ca_file(path)?,
        None => context.set_default_verify_paths()?,
    }
    // TLS-10. OpenSSL's own limit for certificate messages is the 100 KiB that are asked for.
    manners(&mut context);
    Ok(context.build())
}

/// What is the same on both sides: nothing is resumed or renegotiated (TLS-10, IN-30), and how [`stream`] works.
fn manners(context: &mut SslContextBuilder) {
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(
        SslOptions::NO_TICKET
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            // Many peers close without close_notify. SMTP frames replies and content itself, so that a cut is seen.
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    context.set_mode(
        SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::AUTO_RETRY
            | SslMode::RELEASE_BUFFERS,
    );
    // One system call for a record instead of two.
    context.set_read_ahead(true);
}

/// The contexts of the configuration in force, made again when it changes: a reload reads each `ca_file` anew (CFG-5).
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<(Arc<Config>, Contexts)>>);

/// By their authorities; `None` are those of `[tls]`.
type Contexts = Vec<(Option<PathBuf>, Context)>;

impl Kept {
    /// The context under this configuration, with these authorities or those of `[tls]`.
    pub(super) fn context(
        &self,
        config: &Arc<Config>,
        ca_file: Option<&Path>,
    ) -> Result<Context, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let contexts = match &mut *kept {
            Some((of, contexts)) if Arc::ptr_eq(of, config) => contexts,
            kept => &mut kept.insert((Arc::clone(config), Vec::new())).1,
        };
        if let Some((_, context)) = contexts.iter().find(|(of, _)| of.as_deref() == ca_file) {
            return Ok(context.clone());
        }
        // Under the lock: whoever comes meanwhile needs the same.
        let context = match ca_file {
            Some(_) => Context::with(&config.tls, ca_file)?,
            None => Context::new(&config.tls)?,
        };
        contexts.push((ca_file.map(Path::to_owned), context.clone()));
        Ok(context)
    }
}

/// The client's handshake, and what it reached under `conditions`.
///
/// # Errors
/// `TimedOut`; `InvalidData` with the reason; `UnexpectedEof` when the peer closes.
pub(super) fn handshake(
    socket: Socket,
    context: &Context,
    conditions: &Conditions,
    deadline: Deadline,
) -> io::Result<(Tls, Reached)> {
    // RFC 3207 §4.2, TLS-8: the server waits for our ClientHello, so whatever is here already was put in by another.
    if socket.has_unread() {
        return Err(stream::invalid("data before the TLS handshake".to_string()));
    }
    let asked = conditions.by_name || conditions.by_dane;
    let mut ssl = context.session(asked)?;
    if let Some(name) = &conditions.sni {
        ssl.set_hostname(name.as_str())?; // TLS-14
    }
    let tls = Tls::connect(ssl, socket, deadline)?;
    let reached = reached(tls.ssl(), conditions);
    Ok((tls, reached))
}

/// What the handshake says under `conditions`.
fn reached(ssl: &SslRef, conditions: &Conditions) -> Reached {
    let chain: Vec<X509> = ssl
        .peer_cert_chain()
        .map(|chain| chain.iter().map(|cert| cert.to_owned()).collect())
        .unwrap_or_default();
    let cipher = ssl.current_cipher().map_or("", |cipher| cipher.name());
    Reached {
        encrypted: true,
        name: verified(ssl.verify_result(), &chain, conditions),
        dane: conditions
            .dane
            .as_ref()
            .map(|set| dane::matches(set, &chain)),
        protocol: format!("{} {cipher}", ssl.version_str()),
    }
}

/// TLS-11: a chain to an authority that is believed, in date, and a name in subjectAltName.
fn verified(
    result: X509VerifyResult,
    chain: &[X509],
    conditions: &Conditions,
) -> Result<(), Fault> {
    // Without a certificate the result says nothing.
    let Some(leaf) = chain.first() else {
        return Err(Fault {
            kind: Kind::ValidationFailure,
            text: "the peer has no certificate".to_string(),
        });
    };
    if result != X509VerifyResult::OK {
        return Err(chain_fault(result));
    }
    if !names::is_for(leaf, &conditions.names) {
        return Err(names::mismatch(leaf, &conditions.names));
    }
    Ok(())
}

/// What OpenSSL says of a chain, as a fault.
fn chain_fault(result: X509VerifyResult) -> Fault {
    // X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
    let kind = match result.as_raw() {
        9 | 10 => Kind::CertificateExpired,
        _ => Kind::CertificateNotTrusted,
    };
    Fault {
        kind,
        text: result.error_string().to_string(),
    }
}
