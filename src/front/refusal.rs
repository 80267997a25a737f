//! Why a message was not taken, and how each door says so.

use crate::config::BareNewline;
use crate::message::dkim::SignError;
use crate::message::header::HeaderFault;
use crate::smtp::answer::Answer;
use crate::smtp::data::Oddities;
use crate::store::StoreError;

/// Why a message is refused. Nothing of it is queued, save after [`StoreError::Unknown`], when nobody knows.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// Its sender's domain is in `queue.disabled_senders` (SC-14).
    SenderDisabled,
    /// It has no recipient (Q-2).
    NoRecipients,
    /// `intake.memory` is used up by others (ST-17).
    OutOfMemory,
    /// Over `intake.max_message_size` (IN-14).
    TooLarge,
    /// Its header is over `intake.max_header`, or is none (IN-25).
    Header(HeaderFault),
    /// Over `intake.max_hops` (IN-24).
    TooManyHops,
    /// A bare LF where the listener refuses it (IN-4).
    BareLf,
    /// A bare CR (IN-4).
    BareCr,
    /// A NUL (IN-4).
    Nul,
    /// It is to be signed and could not be (MSG-8, IN-26).
    Signing(SignError),
    /// The queue cannot take it (IN-26).
    Store(StoreError),
}

impl From<SignError> for Refusal {
    fn from(error: SignError) -> Refusal {
        Refusal::Signing(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Store(error)
    }
}

impl Refusal {
    /// What content with these oddities is refused for (IN-4).
    pub fn of_oddities(odd: Oddities, bare_newline: BareNewline) -> Option<Refusal> {
        if odd.nul {
            Some(Refusal::Nul)
        } else if odd.bare_cr {
            Some(Refusal::BareCr)
        } else if odd.bare_lf && bare_newline == BareNewline::Reject {
            Some(Refusal::BareLf)
        } else {
            None
        }
    }

    /// As metrics name it.
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::SenderDisabled => "sender-disabled",
            Refusal::NoRecipients => "no-recipients",
            Refusal::OutOfMemory => "memory",
            Refusal::TooLarge => "size",
            Refusal::Header(_) => "header",
            Refusal::TooManyHops => "hops",
            Refusal::BareLf => "bare-lf",
            Refusal::BareCr => "bare-cr",
            Refusal::Nul => "nul",
            Refusal::Signing(_) => "signing",
            Refusal::Store(StoreError::Full(_)) => "full",
            Refusal::Store(StoreError::OverLimit) => "limit",
            Refusal::Store(StoreError::Busy) => "busy",
            Refusal::Store(StoreError::Closed) => "closing",
            Refusal::Store(_) => "store",
        }
    }

    /// As SMTP says it.
    pub fn answer(&self) -> Answer {
        match self {
            Refusal::SenderDisabled => {
                Answer::new(451, 3, 0, "mail from this domain is stopped for now")
            }
            Refusal::NoRecipients => Answer::new(554, 5, 1, "no valid recipients"),
            Refusal::OutOfMemory => Answer::new(452, 3, 1, "too much mail at once, try again"),
            Refusal::TooLarge => Answer::new(552, 3, 4, "message too large"),
            Refusal::Header(fault @ HeaderFault::TooLarge) => {
                Answer::new(552, 3, 4, "").with_text(fault.to_string())
            }
            Refusal::Header(fault) => Answer::new(554, 6, 0, "").with_text(fault.to_string()),
            Refusal::TooManyHops => Answer::new(554, 4, 6, "too many Received fields, a loop"),
            Refusal::BareLf => Answer::new(550, 6, 0, "bare LF in the content"),
            Refusal::BareCr => Answer::new(550, 6, 0, "bare CR in the content"),
            Refusal::Nul => Answer::new(550, 6, 0, "NUL in the content"),
            Refusal::Signing(_) => Answer::new(
                451,
                3,
                0,
                "the message cannot be signed now, try again later",
            ),
            // What the store says is for the log; a client needs to know only that it shall come again.
            Refusal::Store(StoreError::Full(_) | StoreError::OverLimit) => {
                Answer::new(452, 3, 1, "no room in the queue, try again later")
            }
            Refusal::Store(StoreError::Closed) => {
                Answer::new(421, 3, 2, "service is stopping, try again later")
            }
            Refusal::Store(
                StoreError::Unknown(_)
                | StoreError::Busy
                | StoreError::Failed(_)
                | StoreError::Damaged(_),
            ) => Answer::new(451, 3, 0, "the queue cannot take it now, try again later"),
        }
    }

    /// As a program says it that hands mail in: one of sysexits(3).
    pub fn exit_status(&self) -> u8 {
        if self.answer().is_permanent() {
            65 // EX_DATAERR
        } else {
            75 // EX_TEMPFAIL
        }
    }

    /// As HTTP says it.
    pub fn http_status(&self) -> u16 {
        match self {
            Refusal::NoRecipients
            | Refusal::Header(_)
            | Refusal::TooManyHops
            | Refusal::BareLf
            | Refusal::BareCr
            | Refusal::Nul => 400,
            Refusal::TooLarge => 413,
            Refusal::Store(StoreError::OverLimit) => 429,
            Refusal::Store(StoreError::Full(_)) => 507,
            Refusal::SenderDisabled
            | Refusal::OutOfMemory
            | Refusal::Signing(_)
            | Refusal::Store(_) => 503,
        }
    }
}

/// For the log: with what the store said.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Signing(error) => error.fmt(f),
            Refusal::Store(error) => error.fmt(f),
            other => f.write_str(other.answer().text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // IN-4, IN-14, IN-24, IN-25, IN-26, ST-17
    #[test]
    fn each_refusal_has_its_codes_at_every_door() {
        let full = StoreError::Full(String::new());
        for (refusal, line, exit, http) in [
            (Refusal::SenderDisabled, "451 4.3.0", 75, 503),
            (Refusal::NoRecipients, "554 5.5.1", 65, 400),
            (Refusal::OutOfMemory, "452 4.3.1", 75, 503),
            (Refusal::TooLarge, "552 5.3.4", 65, 413),
            (Refusal::Header(HeaderFault::TooLarge), "552 5.3.4", 65, 400),
            (Refusal::Header(HeaderFault::NoColon), "554 5.6.0", 65, 400),
            (Refusal::TooManyHops, "554 5.4.6", 65, 400),
            (Refusal::BareLf, "550 5.6.0", 65, 400),
            (Refusal::BareCr, "550 5.6.0", 65, 400),
            (Refusal::Nul, "550 5.6.0", 65, 400),
            (Refusal::Store(full), "452 4.3.1", 75, 507),
            (Refusal::Store(StoreError::OverLimit), "452 4.3.1", 75, 429),
            (Refusal::Store(StoreError::Busy), "451 4.3.0", 75, 503),
            (
                Refusal::Store(StoreError::Unknown(String::new())),
                "451 4.3.0",
                75,
                503,
            ),
            (
                Refusal::Store(StoreError::Failed(String::new())),
                "451 4.3.0",
                75,
                503,
            ),
            (Refusal::Store(StoreError::Closed), "421 4.3.2", 75, 503),
        ] {
            let answer = refusal.answer().to_string();
            assert!(answer.starts_with(line), "{answer}");
            assert_eq!(
                (refusal.exit_status(), refusal.http_status()),
                (exit, http),
                "{line}"
            );
        }
    }
}
