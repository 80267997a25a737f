//! From the tables of the file to the settings, with every fault in its line; what concerns more than one key is checked
//! here as well.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table::{Fault, Table};
use super::transport::{DIRECT, TransportTable};
use super::value::parse_mailbox;
use super::{Config, Listen, full_name};
use crate::smtp::address::Domain;

/// Tables that are decided but that this version does not know yet: refused, never ignored.
const LATER: [&str; 10] = [
    "http",
    "groups",
    "caller",
    "handler",
    "hook",
    "history",
    "suppression",
    "metrics",
    "webhook",
    "dane",
];

/// The settings in the text of a file, or a line for every fault; `file` is for those lines.
pub(super) fn read(text: &str, file: &Path) -> Result<Config, Vec<String>> {
    let mut reader = Reader::new(text, file);
    let config = reader.read();
    // In the order of the file, whatever the order of the checks.
    reader.problems.sort_by_key(|(line, _)| *line);
    if reader.problems.is_empty() {
        Ok(config)
    } else {
        Err(reader.problems.into_iter().map(|(_, line)| line).collect())
    }
}

struct Reader<'a> {
    text: &'a str,
    file: PathBuf,
    problems: Vec<(usize, String)>,
    /// Where each key was found: `listen[0].address`.
    places: BTreeMap<String, Range<usize>>,
}

type Entries<'a, 'i> = &'a DeTable<'i>;

impl Reader<'_> {
    fn new<'a>(text: &'a str, file: &Path) -> Reader<'a> {
        Reader {
            text,
            file: file.to_owned(),
            problems: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    fn problem(&mut self, at: usize, key: &str, reason: impl fmt::Display) {
        let before = self.text.as_bytes().iter().take(at);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        // A reason that spans lines would not be one line of the log.
        let reason = reason.to_string().replace('\n', " ");
        self.problems.push((
            line,
            format!("{}:{line}: {key}: {reason}", self.file.display()),
        ));
    }

    /// A fault of a key that was read well; where it was not given, of the table or of the file as a whole.
    fn problem_with(&mut self, key: &str, reason: impl fmt::Display) {
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        let place = self.places.get(key).or_else(|| self.places.get(table));
        let at = place.map_or(0, |place| place.start);
        self.problem(at, key, reason);
    }

    fn read(&mut self) -> Config {
        let mut config = Config::defaults();
        let document = match DeTable::parse(self.text) {
            Ok(document) => document,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.problem(at, "syntax", error.message());
                return config;
            }
        };
        let entries = document.get_ref();

        // The name first: other defaults are made of it.
        let mut listen = None;
        let mut transport: Vec<TransportTable> = Vec::new();
        self.name(entries, &mut config);
        for (key, value) in entries {
            match key.get_ref().as_ref() {
                "hostname" => {}
                "queue" => self.table(value, &mut config.queue),
                "intake" => self.table(value, &mut config.intake),
                "control" => self.table(value, &mut config.control),
                "log" => self.table(value, &mut config.log),
                "retry" => self.table(value, &mut config.retry),
                "deliver" => self.table(value, &mut config.deliver),
                "dns" => self.table(value, &mut config.dns),
                "limits" => self.table(value, &mut config.limits),
                "limit" => config.limit = self.array(value).unwrap_or_default(),
                "dsn" => self.table(value, &mut config.dsn),
                "dkim" => config.dkim = self.array(value).unwrap_or_default(),
                "tls" => self.table(value, &mut config.tls),
                "tls_policy" => config.tls_policy = self.array(value).unwrap_or_default(),
                "listen" => listen = self.array::<Listen>(value),
                "transport" => transport = self.array(value).unwrap_or_default(),
                "route" => config.route = self.array(value).unwrap_or_default(),
                _ => self.key(key, value, &mut config, ""),
            }
        }
        if let Some(listen) = listen {
            config.listen = listen;
            config.default_listeners = false;
        }
        self.transports(&transport, &mut config);
        self.check(&mut config);
        config
    }

    /// `hostname`, given or the system's (CFG-9).
    fn name(&mut self, entries: Entries<'_, '_>, config: &mut Config) {
        match entries.iter().find(|(key, _)| key.get_ref() == "hostname") {
            Some((key, value)) => self.key(key, value, config, ""),
            None => match system_name() {
                Ok(name) => config.hostname = name,
                Err(reason) => self.problem(0, "hostname", reason),
            },
        }
        config.dsn.from = parse_mailbox(&format!("postmaster@{}", config.hostname));
    }

    /// One key of a table.
    fn key<T: Table>(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        into: &mut T,
        prefix: &str,
    ) {
        let name = key.get_ref().as_ref();
        let path = format!("{prefix}{name}");
        self.places.insert(path.clone(), key.span());
        match into.set(name, value) {
            Some(Ok(())) => {}
            Some(Err(Fault { span, reason })) => self.problem(span.start, &path, reason),
            None if T::LATER.contains(&name) || (prefix.is_empty() && LATER.contains(&name)) => {
                self.problem(key.span().start, &path, "not available in this version");
            }
            None => {
                let known: Vec<&str> = into
                    .show()
                    .into_iter()
                    .map(|(setting, _)| setting.key)
                    .collect();
                let known = known.join(", ");
                let reason = format!("unknown key; known here are {known}");
                self.problem(key.span().start, &escaped(&path), reason);
            }
        }
    }

    /// All keys of `[name]`.
    fn table<T: Table>(&mut self, value: &Spanned<DeValue<'_>>, into: &mut T) {
        self.entries(value, into, T::NAME);
    }

    fn entries<T: Table>(&mut self, value: &Spanned<DeValue<'_>>, into: &mut T, path: &str) {
        self.places.insert(path.to_owned(), value.span());
        let DeValue::Table(entries) = value.get_ref() else {
            let reason = format!("must be a table, written [{}]", T::NAME);
            return self.problem(value.span().start, path, reason);
        };
        for (key, value) in entries {
            self.key(key, value, into, &format!("{path}."));
        }
        for (setting, _) in into.show() {
            if setting.required && !entries.contains_key(setting.key) {
                let reason = format!("every [[{}]] needs it", T::NAME);
                self.problem(
                    value.span().start,
                    &format!("{path}.{}", setting.key),
                    reason,
                );
            }
        }
    }

    /// All tables `[[name]]`; `None` if it is something else.
    fn array<T: Table>(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Vec<T>> {
        self.places.insert(T::NAME.to_owned(), value.span());
        let DeValue::Array(items) = value.get_ref() else {
            let reason = format!("must be a list of tables, written [[{}]]", T::NAME);
            self.problem(value.span().start, T::NAME, reason);
            return None;
        };
        let mut tables = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let mut table = T::defaults();
            self.entries(item, &mut table, &format!("{}[{n}]", T::NAME));
            tables.push(table);
        }
        Some(tables)
    }

    fn transports(&mut self, tables: &[TransportTable], config: &mut Config) {
        for (n, table) in tables.iter().enumerate() {
            if config.transport(&table.name).is_some() {
                let reason = format!("a transport {:?} is already there", table.name);
                self.problem_with(&format!("transport[{n}].name"), reason);
            }
            let prefix = format!(": transport[{n}].");
            let faulty = self.problems.iter().any(|(_, line)| line.contains(&prefix));
            match table.checked(&config.deliver, &config.retry) {
                // One fault is enough; what follows from it is noise.
                _ if faulty => {}
                Ok(transport) => config.transport.push(transport),
                Err((key, reason)) => self.problem_with(&format!("transport[{n}].{key}"), reason),
            }
        }
        for n in 0..config.route.len() {
            let name = config.route[n].transport.clone();
            if name != DIRECT && !tables.iter().any(|table| table.name == name) {
                let reason = format!("no [[transport]] has the name {name:?}");
                self.problem_with(&format!("route[{n}].transport"), reason);
            }
        }
    }

    /// What concerns more than one key.
    fn check(&mut self, config: &mut Config) {
        // CFG-8: no listener at all. `listen = []` is meant so by nobody.
        if config.listen.is_empty() {
            self.problem_with("listen", "no listener at all");
        }
        for n in 0..config.listen.len() {
            let address = config.listen[n].address.clone();
            let twice = config.listen[..n]
                .iter()
                .any(|other| other.address == address);
            // Port 0 is a new port each time.
            let any_port = matches!(address, super::ListenAddress::Tcp(tcp) if tcp.port() == 0);
            if twice && !any_port {
                let reason = format!("another listener has {address}");
                self.problem_with(&format!("listen[{n}].address"), reason);
            }
            if config.listen[n].name.is_empty() {
                config.listen[n].name = address.to_string();
            }
            let prefix = format!(": listen[{n}].");
            let faulty = self.problems.iter().any(|(_, line)| line.contains(&prefix));
            if !faulty && let Err((key, reason)) = config.listen[n].check() {
                self.problem_with(&format!("listen[{n}].{key}"), reason);
            }
        }
        for n in 0..config.tls_policy.len() {
            let prefix = format!(": tls_policy[{n}].");
            let faulty = self.problems.iter().any(|(_, line)| line.contains(&prefix));
            if !faulty && let Err((key, reason)) = config.tls_policy[n].check() {
                self.problem_with(&format!("tls_policy[{n}].{key}"), reason);
            }
        }
        for n in 0..config.dkim.len() {
            let name = config.dkim[n].name();
            if config.dkim[..n].iter().any(|other| other.name() == name) {
                let reason = format!("another [[dkim]] has {name}");
                self.problem_with(&format!("dkim[{n}].selector"), reason);
            } else if name.len() > 253 {
                self.problem_with(&format!("dkim[{n}].selector"), "too long for DNS");
            }
        }
        if config
            .deliver
            .source_addresses
            .iter()
            .any(|ip| ip.is_unspecified() || ip.is_multicast())
        {
            self.problem_with(
                "deliver.source_addresses",
                "an address of this host is wanted",
            );
        }
    }
}

/// A key as it can stand in a message: quoted keys of TOML may hold anything.
fn escaped(key: &str) -> String {
    key.chars().flat_map(char::escape_debug).take(200).collect()
}

/// The name of this host, where the file does not give one.
fn system_name() -> Result<Domain, String> {
    let name = nix::unistd::gethostname().map_err(|error| error.to_string())?;
    let name = name.to_string_lossy();
    let domain =
        Domain::parse(&name).map_err(|error| format!("the system's name {name:?}: {error}"))?;
    full_name(&domain).map_err(|reason| format!("not set, and the system's name {reason}"))?;
    Ok(domain)
}
