//! `[[dkim]]`

use std::path::PathBuf;

use super::table::table;
use super::value::absolute;
use crate::smtp::address::Domain;

table! {
    /// `[[dkim]]` (CFG-23, MSG-7).
    pub struct Dkim in "dkim" repeated true {
        /// The domain in From whose mail is signed; its subdomains need tables of their own. All keys of a domain sign.
        domain: Domain = (required "\"here.example\"");
        /// The name under which the key is published: `SELECTOR._domainkey.DOMAIN`.
        selector: Domain = (required "\"mail2026\"");
        /// The private key, RSA or Ed25519, PEM, without passphrase. Only its owner may read it. A reload reads it again.
        key: PathBuf = (required "\"/etc/posthaste/dkim/mail2026.key\""), absolute;
    }
}

impl Dkim {
    /// Where the public half of the key is published (RFC 6376 §3.6.2.1).
    pub fn name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }
}
