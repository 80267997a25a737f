//! The command lines of a transaction, with the parameters that the peer announced.

use std::fmt::Write as _;

use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::params::{Notify, Ret};
use crate::smtp::xtext;

/// What MAIL says of a message.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    /// The reverse-path.
    pub reverse_path: &'a ReversePath,
    /// Octets of the message without dot stuffing.
    pub size: u64,
    /// Whether it holds octets over 127.
    pub eight_bit: bool,
    /// Whether an address or a header needs SMTPUTF8 (CL-13).
    pub utf8: bool,
    /// RET
    pub ret: Option<Ret>,
    /// ENVID, decoded.
    pub envid: Option<&'a str>,
    /// REQUIRETLS (RFC 8689); only for peers that announced it.
    pub require_tls: bool,
}

/// What RCPT says of a recipient.
#[derive(Clone, Copy, Debug)]
pub struct Rcpt<'a> {
    /// The forward-path.
    pub path: &'a ForwardPath,
    /// NOTIFY
    pub notify: Notify,
    /// ORCPT as `type;address`, decoded.
    pub orcpt: Option<&'a str>,
}

/// MAIL (RFC 5321 §4.1.1.2). Adds the line to `out`.
pub(super) fn mail(out: &mut String, mail: &Mail<'_>, capabilities: &Capabilities) {
    // CL-30: no blank after the colon; the null reverse-path is `<>`.
    let _ = write!(out, "MAIL FROM:<{}>", mail.reverse_path);
    if capabilities.size {
        let _ = write!(out, " SIZE={}", mail.size); // RFC 1870 §6.1
    }
    if capabilities.eight_bit_mime {
        // RFC 6152 §3
        out.push_str(if mail.eight_bit {
            " BODY=8BITMIME"
        } else {
            " BODY=7BIT"
        });
    }
    if capabilities.smtputf8 && mail.utf8 {
        out.push_str(" SMTPUTF8"); // RFC 6531 §3.4
    }
    if capabilities.requiretls && mail.require_tls {
        out.push_str(" REQUIRETLS"); // RFC 8689 §4.1
    }
    if capabilities.dsn {
        // RFC 3461 §4.3, §4.4
        match mail.ret {
            Some(Ret::Full) => out.push_str(" RET=FULL"),
            Some(Ret::Headers) => out.push_str(" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = mail.envid {
            let _ = write!(out, " ENVID={}", xtext::encode(envid));
        }
    }
    out.push_str("\r\n");
}

/// RCPT (RFC 5321 §4.1.1.3). Adds the line to `out`.
pub(super) fn rcpt(out: &mut String, recipient: &Rcpt<'_>, capabilities: &Capabilities) {
    let _ = write!(out, "RCPT TO:<{}>", recipient.path);
    if capabilities.dsn {
        notify(out, recipient.notify);
        if let Some((kind, address)) = recipient.orcpt.and_then(|o| o.split_once(';')) {
            let _ = write!(out, " ORCPT={kind};");
            if kind.eq_ignore_ascii_case("utf-8") {
                utf8_addr_xtext(out, address);
            } else {
                out.push_str(&xtext::encode(address));
            }
        }
    }
    out.push_str("\r\n");
}

/// RFC 3461 §4.1; left out when the sender did not ask.
fn notify(out: &mut String, notify: Notify) {
    if !notify.given {
        return;
    }
    let wanted = [
        (notify.success, "SUCCESS"),
        (notify.failure, "FAILURE"),
        (notify.delay, "DELAY"),
    ];
    let words: Vec<&str> = wanted
        .iter()
        .filter_map(|(wanted, word)| wanted.then_some(*word))
        .collect();
    if notify.never || words.is_empty() {
        out.push_str(" NOTIFY=NEVER");
    } else {
        let _ = write!(out, " NOTIFY={}", words.join(","));
    }
}

/// RFC 6533 §3: the form that every server takes, whether it knows SMTPUTF8 or not.
fn utf8_addr_xtext(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\') {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
}
