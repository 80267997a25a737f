//! Carries out one transaction: plan, dial or reuse a session, SMTP, one outcome per recipient.
