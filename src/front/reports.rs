//! The door of TLS reports that go by mail (RPT-3, RPT-4): through the one way for all mail, so that whatever is done to
//! mail at intake is done to them.

use std::sync::Arc;

use super::accept::{Client, Envelope, Intake};
use crate::config::BareNewline;
use crate::delivery::Outbox;
use crate::message::trace::Origin;
use crate::message::{NewRecipient, Notify, QueueId};
use crate::policy::retry::REPORT_CALLER;
use crate::smtp::address::{Domain, Mailbox, ReversePath};
use crate::smtp::data::Oddities;

/// Queues reports.
pub struct ReportOutbox {
    intake: Arc<Intake>,
}

impl ReportOutbox {
    /// Through this intake.
    pub fn new(intake: Arc<Intake>) -> ReportOutbox {
        ReportOutbox { intake }
    }
}

impl Outbox for ReportOutbox {
    fn signs_for(&self, domain: &Domain) -> bool {
        self.intake.signs_for(domain)
    }

    fn queue(&self, to: &Mailbox, content: &[u8]) -> Result<QueueId, String> {
        let client = Client {
            caller: REPORT_CALLER.to_owned(),
            helo: String::new(),
            origin: Origin::Own,
        };
        let envelope = Envelope {
            // RFC 8460 §5.3: nobody wants to hear what became of it.
            reverse_path: ReversePath::Null,
            recipients: vec![NewRecipient {
                path: to.clone(),
                orcpt: None,
                notify: Notify::NEVER,
            }],
            ret: None,
            envid: None,
            size: Some(content.len() as u64),
            require_tls: false,
            protocol: "ESMTP",
            tls: None,
            bare_newline: BareNewline::Reject,
        };
        let mut incoming = self
            .intake
            .begin(client, envelope)
            .map_err(|refusal| refusal.name().to_owned())?;
        incoming.write(content);
        incoming
            .finish(Oddities::default())
            .map_err(|refusal| refusal.name().to_owned())
    }
}
