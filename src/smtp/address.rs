//! Mail addresses as they travel in the envelope: domains, forward-paths and reverse-paths.
//!
//! Typed once at the edge; inside, the type is the proof that the text is canonical and safe to write into a command.

use std::fmt;
use std::net::IpAddr;

/// A domain name as lower-case A-labels, at most 253 octets, each label 1 to 63 (DNS-7). Underscores are allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

/// Why a text is not an address or not a domain. The text of the error is fit for an SMTP reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The syntax is wrong; the text says what and where.
    Syntax(&'static str),
    /// The domain cannot be converted or is too long (501 5.1.2 at intake, permanent 5.1.2 in delivery).
    Domain(&'static str),
    /// Non-ASCII without SMTPUTF8 (553 5.6.7).
    NeedsUtf8,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::Syntax(what) | AddressError::Domain(what) => f.write_str(what),
            AddressError::NeedsUtf8 => f.write_str("non-ASCII address without SMTPUTF8"),
        }
    }
}

impl std::error::Error for AddressError {}

impl Domain {
    /// Reads a domain of ASCII or U-labels; converts by UTS-46 non-transitional to lower-case A-labels (DNS-7).
    ///
    /// # Errors
    /// [`AddressError::Domain`] when the conversion fails or a length limit is passed.
    pub fn parse(_text: &str) -> Result<Domain, AddressError> {
        unimplemented!("intake: Domain::parse")
    }

    /// The name, without trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands right of the `@`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressDomain {
    /// A domain name.
    Name(Domain),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
}

impl fmt::Display for AddressDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressDomain::Name(domain) => domain.fmt(f),
            AddressDomain::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            AddressDomain::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

/// A mailbox, `local-part@domain`, in canonical form: the local part quoted only where it must be.
///
/// Equality compares the domain without case and the local part exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox {
    local: String,
    domain: AddressDomain,
}

impl Mailbox {
    /// Reads a mailbox without angle brackets (IN-17). `utf8` permits non-ASCII local parts and U-labels (RFC 6531).
    ///
    /// # Errors
    /// [`AddressError`]; the message that carries it is refused at intake.
    pub fn parse(_text: &str, _utf8: bool) -> Result<Mailbox, AddressError> {
        unimplemented!("intake: Mailbox::parse")
    }

    /// The local part in canonical form, with its quotes if it needs them.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part right of the `@`.
    pub fn domain(&self) -> &AddressDomain {
        &self.domain
    }

    /// Whether sending it needs SMTPUTF8: a non-ASCII local part (domains are A-labels always).
    pub fn needs_utf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// The forward-path of a recipient (RFC 5321 §4.1.2), always with a domain.
pub type ForwardPath = Mailbox;

/// The reverse-path of a message: null for notifications, else the mailbox that is told of failures.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: never answered (DSN-2).
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads the text between the angle brackets; the empty text is the null reverse-path.
    ///
    /// # Errors
    /// As [`Mailbox::parse`].
    pub fn parse(text: &str, utf8: bool) -> Result<ReversePath, AddressError> {
        if text.is_empty() {
            return Ok(ReversePath::Null);
        }
        Mailbox::parse(text, utf8).map(ReversePath::Mailbox)
    }

    /// The mailbox, unless null.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

/// Without angle brackets; empty for the null reverse-path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => Ok(()),
            ReversePath::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}
