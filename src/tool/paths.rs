//! Where the daemon's sockets are (CTL-23).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Exit;
use crate::config::{Config, DEFAULT_PATH, ListenAddress};
use crate::smtp::address::Domain;

/// What the tool needs of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Paths {
    /// The control socket.
    pub(super) control: PathBuf,
    /// The Unix listener for SMTP, unless there is none.
    pub(super) smtp: Option<PathBuf>,
    /// Our name.
    pub(super) hostname: String,
}

/// The few keys that matter here. Anything else in the file, faults included, is the business of the daemon: its
/// operator must reach it also while the file is being changed.
#[derive(Default, Deserialize)]
struct Sketch {
    hostname: Option<String>,
    #[serde(default)]
    control: ControlSketch,
    listen: Option<Vec<ListenSketch>>,
}

#[derive(Default, Deserialize)]
struct ControlSketch {
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ListenSketch {
    address: String,
    role: Option<String>,
}

impl Paths {
    /// From `file`, or from the file of the system if we may read it, else the built-in ones.
    ///
    /// # Errors
    /// A file that was asked for cannot be read or is not TOML.
    pub(super) fn find(file: Option<&Path>) -> Result<Paths, Exit> {
        let path = file.unwrap_or(Path::new(DEFAULT_PATH));
        let text = fs::read_to_string(path).map_err(|error| error.to_string());
        let sketch = text.and_then(|text| {
            toml::from_str::<Sketch>(&text).map_err(|error| error.message().to_owned())
        });
        match (sketch, file) {
            (Ok(sketch), _) => Ok(Paths::from_sketch(sketch)),
            (Err(_), None) => Ok(Paths::from_sketch(Sketch::default())),
            (Err(reason), Some(file)) => Err(Exit::new(
                // sysexits(3): EX_CONFIG
                78,
                format!("{}: {reason}", file.display()),
            )),
        }
    }

    fn from_sketch(sketch: Sketch) -> Paths {
        let hostname = sketch
            .hostname
            .or_else(|| nix::unistd::gethostname().ok()?.into_string().ok())
            .unwrap_or_else(|| "localhost".to_owned());
        // The paths do not depend on the name.
        let localhost = Domain::parse("localhost").expect("localhost is a domain");
        let defaults = Config::default_for(localhost);
        let smtp = match sketch.listen {
            Some(listen) => listen
                .iter()
                .filter(|l| l.role.as_deref().is_none_or(|role| role == "relay"))
                .find_map(|l| l.address.strip_prefix("unix:"))
                .map(PathBuf::from),
            None => defaults.listen.into_iter().find_map(|l| match l.address {
                ListenAddress::Unix(path) => Some(path),
                ListenAddress::Tcp(_) => None,
            }),
        };
        Paths {
            control: sketch.control.path.unwrap_or(defaults.control.path),
            smtp,
            hostname,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Paths {
        Paths::from_sketch(toml::from_str(text).unwrap())
    }

    // CTL-23
    #[test]
    fn without_a_file_the_built_in_paths_are_taken() {
        let paths = paths("");
        assert_eq!(paths.control, Path::new("/run/posthaste/control"));
        assert_eq!(
            paths.smtp.as_deref(),
            Some(Path::new("/run/posthaste/smtp"))
        );
    }

    // CTL-23
    #[test]
    fn the_file_names_the_sockets_whatever_else_is_in_it() {
        let paths = paths(
            "hostname = \"mail.here.example\"\nunknown = 3\n[control]\npath = \"/x/c\"\nmode = 1\n\
             [[listen]]\naddress = \"127.0.0.1:25\"\n\
             [[listen]]\naddress = \"unix:/x/lmtp\"\nrole = \"lmtp\"\n\
             [[listen]]\naddress = \"unix:/x/smtp\"\nrole = \"relay\"\n",
        );
        assert_eq!(paths.control, Path::new("/x/c"));
        assert_eq!(paths.smtp.as_deref(), Some(Path::new("/x/smtp")));
        assert_eq!(paths.hostname, "mail.here.example");
        assert_eq!(
            super::Paths::find(Some(Path::new("/nonexistent")))
                .unwrap_err()
                .status,
            78
        );
    }

    #[test]
    fn without_a_unix_listener_there_is_none() {
        assert_eq!(paths("[[listen]]\naddress = \"127.0.0.1:25\"\n").smtp, None);
    }
}
