//! Replies that we give: the server's half of RFC 5321 §4.2.

use std::borrow::Cow;
use std::io::Write;

use super::reply::{Digits, EnhancedCode};

/// One reply of ours. Its text is our own words, or was escaped before it came here (SEC-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    code: u16,
    status: Option<EnhancedCode>,
    text: Cow<'static, str>,
}

impl Answer {
    /// A reply with an enhanced code, `subject.detail` of the class that `code` has (RFC 2034 §4).
    pub const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Answer {
        Answer {
            code,
            status: Some(EnhancedCode::new((code / 100) as u8, subject, detail)),
            text: Cow::Borrowed(text),
        }
    }

    /// A reply that has no enhanced code: greeting, HELO, 354 (RFC 2034 §4).
    pub const fn bare(code: u16, text: &'static str) -> Answer {
        Answer {
            code,
            status: None,
            text: Cow::Borrowed(text),
        }
    }

    /// The same with another text. Anything that could end a line or leave ASCII becomes a question mark.
    #[must_use]
    pub fn with_text(mut self, text: String) -> Answer {
        let printable = |c: char| matches!(c, ' '..='~');
        self.text = if text.chars().all(printable) {
            text.into()
        } else {
            let replace = |c| if printable(c) { c } else { '?' };
            text.chars().map(replace).collect::<String>().into()
        };
        self
    }

    /// The reply code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code, if it has one.
    pub fn status(&self) -> Option<EnhancedCode> {
        self.status
    }

    /// The words.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// 4yz or 5yz.
    pub fn is_error(&self) -> bool {
        self.code >= 400
    }

    /// 5yz: the client is at fault, and a client that goes on so is cut (IN-11).
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// 421: the connection is closed after it.
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// Appends the reply as a line.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to memory cannot fail.
        let _ = write!(out, "{self}\r\n");
    }
}

/// As a line without its end.
impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Four of these are written for each message, so no more of the formatter is used than is needed.
        f.write_str(Digits::new(self.code).three())?;
        if let Some(status) = self.status {
            f.write_str(" ")?;
            status.fmt(f)?;
        }
        f.write_str(" ")?;
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_one_line_of_ascii_whatever_its_text() {
        let mut out = Vec::new();
        Answer::new(550, 1, 1, "")
            .with_text("a\r\n250 b\u{e4}".to_owned())
            .write(&mut out);
        assert_eq!(out, b"550 5.1.1 a??250 b?\r\n");
        assert_eq!(Answer::bare(354, "go on").to_string(), "354 go on");
    }
}
