//! Reply codes, enhanced status codes and replies (RFC 5321 §4.2, RFC 3463).

use std::fmt;

/// SMTP reply code, 200..=599. Codes outside it end the transaction (RFC 5321 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyCode(u16);

impl ReplyCode {
    /// The code, if it is one of 200..=599.
    pub fn new(code: u16) -> Option<ReplyCode> {
        (200..=599).contains(&code).then_some(ReplyCode(code))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// RFC 5321 §4.2: an unlisted code is judged by its first digit alone.
    pub fn is_positive(self) -> bool {
        self.0 / 100 == 2
    }

    /// 4yz.
    pub fn is_transient(self) -> bool {
        self.0 / 100 == 4
    }

    /// 5yz.
    pub fn is_permanent(self) -> bool {
        self.0 / 100 == 5
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

/// Enhanced mail system status code (RFC 3463): class 2, 4 or 5, subject and detail 0..=999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedCode {
    /// A code of our own. A class other than 2, 4 or 5, or a number over 999, becomes `x.0.0` of class 4,
    /// because unclear means temporary.
    pub const fn new(class: u8, subject: u16, detail: u16) -> EnhancedCode {
        if (class == 2 || class == 4 || class == 5) && subject <= 999 && detail <= 999 {
            EnhancedCode {
                class,
                subject,
                detail,
            }
        } else {
            EnhancedCode {
                class: 4,
                subject: 0,
                detail: 0,
            }
        }
    }

    /// The class: 2, 4 or 5.
    pub fn class(self) -> u8 {
        self.class
    }

    /// The subject, for example 1 for addressing and 7 for security or policy.
    pub fn subject(self) -> u16 {
        self.subject
    }

    /// The detail.
    pub fn detail(self) -> u16 {
        self.detail
    }

    /// Reads `c.s.d` exactly; `None` for anything else.
    pub fn parse(text: &str) -> Option<EnhancedCode> {
        let mut parts = text.split('.');
        let mut number = |longest: usize| {
            let part = parts.next()?;
            let plain = !part.is_empty()
                && part.len() <= longest
                && part.bytes().all(|b| b.is_ascii_digit());
            if plain {
                part.parse::<u16>().ok()
            } else {
                None
            }
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return None;
        }
        Some(EnhancedCode {
            class: class as u8,
            subject,
            detail,
        })
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_of_another_class_or_shape_are_not_codes() {
        assert_eq!(
            EnhancedCode::parse("5.1.1"),
            Some(EnhancedCode::new(5, 1, 1))
        );
        for bad in [
            "3.1.1", "5.1", "5.1.1.1", "5.1.1000", "5..1", "+5.1.1", "5.-1.1", "55.1.1",
        ] {
            assert_eq!(EnhancedCode::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn reply_codes_outside_200_to_599_do_not_exist() {
        assert!(ReplyCode::new(199).is_none() && ReplyCode::new(600).is_none());
        assert!(ReplyCode::new(250).is_some_and(ReplyCode::is_positive));
    }
}
