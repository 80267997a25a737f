//! Secrets in the file, or in files of their own (CFG-7).

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::table::Fault;
use super::value::{Value, fault, quoted, text};

/// The longest secret, in octets: what an AUTH command line has room for (RFC 4954 §4).
const LONGEST: u64 = 4096;

/// A password, or what else nobody shall read: neither `Debug` nor `-p` shows it (CFG-4, OBS-2).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret {
    text: Arc<str>,
    file: Option<PathBuf>,
}

impl Secret {
    /// One that stands in the configuration itself.
    pub fn new(text: &str) -> Secret {
        Secret {
            text: text.into(),
            file: None,
        }
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether the configuration itself has to be kept from others for it.
    pub fn is_inline(&self) -> bool {
        self.file.is_none()
    }

    fn from_file(path: &str) -> Result<Secret, String> {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(format!("{:?} is not an absolute path", path.display()));
        }
        let named = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let file = fs::File::open(&path).map_err(|error| named(&error))?;
        let found = file.metadata().map_err(|error| named(&error))?;
        if !found.is_file() {
            return Err(named(&"is no regular file"));
        }
        must_be_private(found.mode()).map_err(|reason| named(&reason))?;
        let mut octets = Vec::new();
        file.take(LONGEST + 1)
            .read_to_end(&mut octets)
            .map_err(|error| named(&error))?;
        let text = String::from_utf8(octets).map_err(|_| named(&"is not UTF-8"))?;
        // As an editor leaves it: one line with its end.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        Ok(Secret {
            text: checked(text).map_err(|reason| named(&reason))?.into(),
            file: Some(path),
        })
    }
}

fn checked(text: &str) -> Result<&str, &'static str> {
    match text {
        "" => Err("the secret is empty"),
        text if text.len() as u64 > LONGEST => Err("the secret is longer than 4096 octets"),
        text if text.contains(['\0', '\n', '\r']) => Err("a secret is one line without NUL"),
        text => Ok(text),
    }
}

/// CFG-7: nobody but the owner may read what holds a secret.
///
/// # Errors
/// Who may.
pub(super) fn must_be_private(mode: u32) -> Result<(), String> {
    match mode & 0o7777 {
        mode if mode & 0o077 != 0 => Err(format!(
            "holds a secret and can be read by others (mode {mode:#o}, wanted is 0600)"
        )),
        _ => Ok(()),
    }
}

/// The same of a file by its name.
///
/// # Errors
/// Who may read it, or why that is not known.
pub(super) fn file_must_be_private(file: &Path) -> Result<(), String> {
    let found = fs::metadata(file).map_err(|error| error.to_string())?;
    must_be_private(found.mode())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Value for Secret {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Secret, Fault> {
        const WANTED: &str = "a string or { file = \"PATH\" }";
        let table = match value.get_ref() {
            DeValue::Table(table) => table,
            DeValue::String(text) => {
                let text = checked(text).map_err(|reason| fault(value, reason))?;
                return Ok(Secret::new(text));
            }
            // Without the value: it may be a password that lacks its quotes.
            _ => return Err(fault(value, format!("wanted is {WANTED}"))),
        };
        let mut entries = table.iter();
        match (entries.next(), entries.next()) {
            (Some((key, path)), None) if key.get_ref() == "file" => {
                let path = text(path, "a path")?;
                Secret::from_file(path).map_err(|reason| fault(value, reason))
            }
            _ => Err(fault(value, format!("wanted is {WANTED}"))),
        }
    }

    fn show(&self) -> Option<String> {
        Some(match &self.file {
            Some(path) => format!("{{ file = {} }}", quoted(&path.to_string_lossy())),
            None => "\"***\"".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::TempDir;

    fn read(text: &str) -> Result<Secret, String> {
        let value = DeValue::parse(text).unwrap();
        Secret::read(&value).map_err(|fault| fault.reason)
    }

    // CFG-7
    #[test]
    fn a_secret_file_is_one_line_that_nobody_else_can_read() {
        let dir = TempDir::new();
        let path = dir.join("secret");
        let asked = format!("{{ file = {:?} }}", path.display().to_string());
        let write = |octets: &[u8], mode| {
            fs::write(&path, octets).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&asked)
        };
        assert_eq!(write(b" pa ss\r\n", 0o600).unwrap().reveal(), " pa ss");
        assert_eq!(write(b"x", 0o400).unwrap().reveal(), "x");
        assert!(write(b"x", 0o640).unwrap_err().contains("mode 0o640"));
        assert!(write(b"x", 0o604).is_err());
        for bad in [&b""[..], b"\n", b"a\nb\n", b"a\0", b"\xff", &[b'x'; 4097]] {
            assert!(write(bad, 0o600).is_err(), "{bad:?}");
        }
        fs::remove_file(&path).unwrap();
        assert!(read(&asked).is_err());
        assert!(read("{ file = \"relative\" }").is_err());
        assert!(read("{ fil = \"/x\" }").is_err());
        assert!(read("{ file = \"/x\", more = 1 }").is_err());
        assert!(read("7").is_err());
    }

    // CFG-4, OBS-2
    #[test]
    fn a_secret_is_never_shown() {
        let secret = read("\"pa\\\"ss\"").unwrap();
        assert_eq!(secret.reveal(), "pa\"ss");
        assert!(secret.is_inline());
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.show().unwrap(), "\"***\"");
    }
}
