//! DKIM signatures on what we queue (RFC 6376, RFC 8301, RFC 8463).
//!
//! `relaxed/relaxed` and SHA-256 always; one signature per key of the author's domain (MSG-7). The body is hashed while
//! it passes, so that a message of any size costs no second copy of it.
//!
//! This is ours and not the mail-auth crate: that builds only with a DNS backend (hickory-resolver or reqwest, both
//! asynchronous) and with a cryptography of its own (aws-lc-rs, or rsa and ed25519-dalek), while OpenSSL is here already.

mod author;
mod canon;
mod key;
mod signer;
mod verify;

pub use key::{Algorithm, KeyError, Keyring, SigningKey};
pub use signer::{SignError, Signer, sign};
pub use verify::{MAX_SIGNATURES, Outcome, Signature, Verifier};
