//! Where a session takes place: its settings, whom it asks, and what it gathers for them.

use crate::smtp::address::{Domain, ForwardPath, ReversePath};
use crate::smtp::answer::Answer;
use crate::smtp::command::RcptCommand;
use crate::smtp::params::{MailParams, RcptParams};

/// How a session stands to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// There is none.
    None,
    /// STARTTLS is announced.
    Offered,
    /// All of it is inside TLS by now.
    Active,
}

/// What a session needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name.
    pub hostname: Domain,
    /// Largest content, announced as SIZE.
    pub max_message_size: u64,
    /// Most recipients of a transaction, announced as LIMITS RCPTMAX.
    pub max_recipients: u32,
    /// Errors after which the next one closes the session.
    pub max_errors: u32,
    /// A client that talks before its turn is cut (IN-20).
    pub reject_early_talk: bool,
    /// TLS at its beginning.
    pub tls: Tls,
}

/// The surroundings of a session: who may send what to whom, and whether the client has spoken on.
pub trait Host {
    /// Whether mail from this sender is taken.
    ///
    /// # Errors
    /// The reply that refuses it.
    fn sender(&mut self, path: &ReversePath) -> Result<(), Answer>;

    /// Whether mail to this recipient is taken, and under which path it is queued.
    ///
    /// # Errors
    /// The reply that refuses it.
    fn recipient(&mut self, command: RcptCommand) -> Result<Recipient, Answer>;

    /// Whether bytes wait behind the line that is being answered.
    fn input_waits(&mut self) -> bool;
}

/// An accepted recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Its forward-path.
    pub path: ForwardPath,
    /// NOTIFY and ORCPT.
    pub params: RcptParams,
}

/// What MAIL and RCPT have gathered.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// Parameters of MAIL.
    pub params: MailParams,
    /// At least one when DATA is allowed.
    pub recipients: Vec<Recipient>,
}

/// Who the client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// The argument of EHLO or HELO, printable ASCII, of any form.
    pub name: String,
    /// EHLO.
    pub esmtp: bool,
}
