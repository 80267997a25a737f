//! The SOCKS5 proxy of a transport (RO-11).

use std::fmt;

use toml::Spanned;
use toml::de::DeValue;

use super::secret::Secret;
use super::table::Fault;
use super::transport::{RelayHost, parse_host};
use super::value::{Value, fault, quoted, text};

/// The port that RFC 1928 §3 names.
const PORT: u16 = 1080;

/// A SOCKS5 proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Where it is.
    pub host: RelayHost,
    /// Its port.
    pub port: u16,
    /// Who we are there (RFC 1929).
    pub login: Option<(String, Secret)>,
}

/// Where it is, without the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("socks5://")?;
        if let Some((user, _)) = &self.login {
            for byte in user.bytes() {
                match byte {
                    b'-' | b'.' | b'_' | b'~' => write!(f, "{}", char::from(byte))?,
                    byte if byte.is_ascii_alphanumeric() => write!(f, "{}", char::from(byte))?,
                    byte => write!(f, "%{byte:02X}")?,
                }
            }
            f.write_str(":***@")?;
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Value for Proxy {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Proxy, Fault> {
        let text = text(value, "\"socks5://[USER:PASSWORD@]HOST[:PORT]\"")?;
        // Without the value, which may hold a password.
        parse(text).map_err(|reason| fault(value, reason))
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

fn parse(text: &str) -> Result<Proxy, String> {
    let rest = text
        .strip_prefix("socks5://")
        .ok_or("a proxy is written socks5://HOST:PORT")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (login, place) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((login, place)) => {
            let (user, password) = login
                .split_once(':')
                .ok_or("a user of the proxy needs a password, socks5://USER:PASSWORD@HOST")?;
            // RFC 1929 §2: each is 1 to 255 octets.
            let field = |text: &str| {
                decoded(text)
                    .filter(|text| (1..=255).contains(&text.len()))
                    .ok_or("user and password of a proxy are 1 to 255 octets, percent-encoded")
            };
            let password = Secret::new(&field(password)?);
            (Some((field(user)?, password)), place)
        }
    };
    let (host, port) =
        parse_host(place, PORT).map_err(|error| format!("the host of the proxy: {error}"))?;
    Ok(Proxy { host, port, login })
}

/// RFC 3986 §2.1.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            octets.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        octets.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // RO-11, CFG-20
    #[test]
    fn a_proxy_is_a_url_whose_password_is_never_shown() {
        for (text, shown) in [
            ("socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
            ("socks5://[::1]:1081/", "socks5://[::1]:1081"),
            ("socks5://Proxy.example:9", "socks5://proxy.example:9"),
            (
                "socks5://a%40b:p%3Aw@h.example",
                "socks5://a%40b:***@h.example:1080",
            ),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        let (user, password) = parse("socks5://a%40b:p:w%25@h.example")
            .unwrap()
            .login
            .unwrap();
        assert_eq!((user.as_str(), password.reveal()), ("a@b", "p:w%"));
        for bad in [
            "http://h.example",
            "socks5://",
            "socks5://user@h.example",
            "socks5://:p@h.example",
            "socks5://u:@h.example",
            "socks5://u:%zz@h.example",
            "socks5://u:%f@h.example",
            "socks5://h.example:0",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(!error.contains("zz"), "{error}");
        }
    }
}
