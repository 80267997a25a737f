//! Values of the file: how each type is read from TOML and written back.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::table::Fault;
use crate::smtp::address::{Domain, Mailbox};

/// A type that may be the value of a key.
pub trait Value: Sized {
    /// Whether the empty string stands for "not set" when the key is optional.
    const TEXT: bool = true;

    /// Reads it.
    ///
    /// # Errors
    /// What was found and what is allowed.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Fault>;

    /// Writes it as TOML; `None` when it is not set.
    fn show(&self) -> Option<String>;
}

/// A fault at the place of a value.
pub fn fault(value: &Spanned<DeValue<'_>>, reason: impl Into<String>) -> Fault {
    Fault {
        span: value.span(),
        reason: reason.into(),
    }
}

/// The text of a string value.
///
/// # Errors
/// Another type was found; `wanted` says what is allowed.
pub fn text<'a>(value: &'a Spanned<DeValue<'_>>, wanted: &str) -> Result<&'a str, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(wrong_type(value, other, wanted)),
    }
}

fn wrong_type(value: &Spanned<DeValue<'_>>, found: &DeValue<'_>, wanted: &str) -> Fault {
    let found = match found {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    fault(value, format!("{found} was found, wanted is {wanted}"))
}

/// A TOML string.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            char if char.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

/// Reads a string value through a parser of its text.
///
/// # Errors
/// The parser's, with the text that was found.
pub fn parsed<T, E: Display>(
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Fault> {
    let text = text(value, wanted)?;
    parse(text).map_err(|error| fault(value, format!("{text:?}: {error}")))
}

impl Value for String {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<String, Fault> {
        text(value, "a string").map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Value for bool {
    const TEXT: bool = false;

    fn read(value: &Spanned<DeValue<'_>>) -> Result<bool, Fault> {
        match value.get_ref() {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(wrong_type(value, other, "true or false")),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Reads a whole number.
fn integer<T: TryFrom<i64>>(value: &Spanned<DeValue<'_>>) -> Result<T, Fault> {
    let DeValue::Integer(number) = value.get_ref() else {
        return Err(wrong_type(value, value.get_ref(), "a whole number"));
    };
    i64::from_str_radix(number.as_str(), number.radix())
        .ok()
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| fault(value, format!("{number} is out of range")))
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            const TEXT: bool = false;

            fn read(value: &Spanned<DeValue<'_>>) -> Result<$ty, Fault> {
                integer(value)
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
integers!(u16, u32, u64, usize);

impl Value for f64 {
    const TEXT: bool = false;

    fn read(value: &Spanned<DeValue<'_>>) -> Result<f64, Fault> {
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(_) => return integer::<i32>(value).map(f64::from),
            other => return Err(wrong_type(value, other, "a number")),
        };
        match number {
            Some(number) if f64::is_finite(number) => Ok(number),
            _ => Err(fault(value, "not a finite number")),
        }
    }

    fn show(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Value for PathBuf {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<PathBuf, Fault> {
        parsed(value, "a path", |text| match text {
            "" => Err("a path is needed"),
            text if text.contains('\0') => Err("a path has no NUL"),
            text => Ok(PathBuf::from(text)),
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Value for IpAddr {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<IpAddr, Fault> {
        parsed(value, "an IP address", |text| {
            text.parse().map_err(|_| "not an IP address")
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Value for Domain {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Domain, Fault> {
        parsed(value, "a domain name", |text| {
            let domain = Domain::parse(text).map_err(|error| error.to_string())?;
            // The last label of a host name is never a number; what looks so is a mistyped address (RFC 1123 §2.1).
            let last = domain.as_str().rsplit('.').next().unwrap_or_default();
            if last.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err("an address is no domain name".to_owned());
            }
            Ok(domain)
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

impl Value for Mailbox {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Mailbox, Fault> {
        parsed(value, "an address, local-part@domain", |text| {
            Mailbox::parse(text, true)
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl<T: Value> Value for Option<T> {
    const TEXT: bool = T::TEXT;

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Option<T>, Fault> {
        if T::TEXT && matches!(value.get_ref(), DeValue::String(text) if text.is_empty()) {
            return Ok(None);
        }
        T::read(value).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

impl<T: Value> Value for Vec<T> {
    const TEXT: bool = false;

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Vec<T>, Fault> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(T::read).collect(),
            other => Err(wrong_type(value, other, "a list in [ ]")),
        }
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::show).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Permission bits; written in octal, `0o660`.
#[derive(Clone, Copy, Debug)]
pub struct Mode(u32);

impl Value for Mode {
    const TEXT: bool = false;

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Mode, Fault> {
        match value.get_ref() {
            // 660 written as a decimal number would be something else entirely.
            DeValue::Integer(number) if number.radix() == 8 => match integer::<u32>(value)? {
                mode if mode <= 0o777 => Ok(Mode(mode)),
                _ => Err(fault(value, "a mode is at most 0o777")),
            },
            other => Err(wrong_type(value, other, "a mode in octal such as 0o660")),
        }
    }

    fn show(&self) -> Option<String> {
        Some(format!("{:#o}", self.0))
    }
}

impl From<Mode> for u32 {
    fn from(mode: Mode) -> u32 {
        mode.0
    }
}

impl From<u32> for Mode {
    fn from(mode: u32) -> Mode {
        Mode(mode)
    }
}

/// A check: from `least` to `most`.
pub fn within<T: PartialOrd + Display + Copy>(
    least: T,
    most: T,
) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if *value >= least && *value <= most {
            Ok(())
        } else {
            Err(format!("{value} is not within {least} to {most}"))
        }
    }
}

/// A check: an absolute path, because the daemon changes its directory.
///
/// # Errors
/// It is relative.
pub fn absolute(path: &Path) -> Result<(), String> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(format!("{:?} is not an absolute path", path.display()))
    }
}

/// A check: an absolute path, if there is one.
///
/// # Errors
/// It is relative.
pub fn absolute_if_any(path: &Option<PathBuf>) -> Result<(), String> {
    path.as_deref().map_or(Ok(()), absolute)
}

/// A check: an absolute path that fits a socket address.
///
/// # Errors
/// It is relative, or longer than 107 octets.
pub fn socket_path(path: &Path) -> Result<(), String> {
    // sun_path holds 108 octets with its NUL.
    const LONGEST: usize = 107;
    if !path.is_absolute() {
        return Err(format!("{:?} is not an absolute path", path.display()));
    }
    let length = path.as_os_str().len();
    if length > LONGEST {
        return Err(format!(
            "the path has {length} octets, a socket's at most {LONGEST}"
        ));
    }
    Ok(())
}

/// A domain name of our own, written in the program.
pub fn parse_domain(text: &str) -> Domain {
    Domain::parse(text).expect("a constant of this program is a domain name")
}

/// An address of our own, made of a constant local part and a domain that is one.
pub fn parse_mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text, false).expect("a constant local part and a domain make an address")
}
