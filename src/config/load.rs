//! From the text of the file to a [`Config`], or to every fault with its line.

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

/// Where the file is unless `-f` says otherwise (CFG-1).
pub const DEFAULT_PATH: &str = "/etc/posthaste/posthaste.toml";

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

/// Why the configuration cannot be used: one line per fault, `file:line: key: reason` (CFG-1). Exit 78.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// A fault that no line of the file shows.
    pub(super) fn new(file: &Path, reason: impl fmt::Display) -> ConfigError {
        ConfigError(vec![format!("{}: {reason}", file.display())])
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// All faults, one a line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, or [`Config::parse`].
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read(file).map_err(|error| ConfigError::new(file, error))?;
        let text = String::from_utf8(text).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            ConfigError(vec![format!(
                "{}:{line}: syntax: not UTF-8",
                file.display()
            )])
        })?;
        let config = Config::parse(&text, file)?;
        if let Some(n) = config.holds_secret() {
            super::secret::file_must_be_private(file).map_err(|reason| {
                ConfigError::new(file, format!("transport[{n}]: the file {reason}"))
            })?;
        }
        Ok(config)
    }

    /// Reads and checks the text of a file; `file` is for the error messages.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let mut reader = Reader::new(text, file);
        let config = reader.read();
        // In the order of the file, whatever the order of the checks.
        reader.problems.sort_by_key(|(line, _)| *line);
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            let lines = reader.problems.into_iter().map(|(_, line)| line);
            Err(ConfigError(lines.collect()))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings;

    fn parse(text: &str) -> Result<Config, String> {
        let text = format!("hostname = \"here.example\"\n{text}");
        Config::parse(&text, Path::new("f.toml")).map_err(|error| error.to_string())
    }

    // CFG-1
    #[test]
    fn every_fault_is_one_line_with_file_line_key_and_reason() {
        for (text, line) in [
            ("workres = 3", "f.toml:2: workres: unknown key"),
            ("[queue]\npth = \"/q\"", "f.toml:3: queue.pth: unknown key"),
            ("[nonsense]\na = 1", "f.toml:2: nonsense: unknown key"),
            (
                "workers = \"3\"",
                "f.toml:2: workers: the string \"3\" was found",
            ),
            (
                "workers = 0",
                "f.toml:2: workers: 0 is not within 1 to 10000",
            ),
            ("workers = -1", "f.toml:2: workers: -1 is out of range"),
            (
                "[retry]\nlifetime = 5",
                "f.toml:3: retry.lifetime: the number 5 was found",
            ),
            (
                "[retry]\nlifetime = \"5\"",
                "f.toml:3: retry.lifetime: \"5\": a number without",
            ),
            (
                "[retry]\nintervals = [\n\"1m\",\n\"-1m\"]",
                "f.toml:5: retry.intervals: \"-1m\"",
            ),
            (
                "[retry]\nintervals = []",
                "f.toml:3: retry.intervals: at least one",
            ),
            (
                "[retry]\njitter = 0.6",
                "f.toml:3: retry.jitter: 0.6 is not within",
            ),
            (
                "[retry]\ndelay_notices = [\"2h\", \"1h\"]",
                "f.toml:3: retry.delay_notices: the ages must rise",
            ),
            (
                "[intake]\nmax_recipients = 99",
                "f.toml:3: intake.max_recipients: 99 is not",
            ),
            (
                "[deliver]\nfamily = \"ipv6\"",
                "f.toml:3: deliver.family: \"ipv6\" is not one of",
            ),
            (
                "[deliver]\nhelo = \"192.0.2.1\"",
                "f.toml:3: deliver.helo: \"192.0.2.1\"",
            ),
            (
                "[dns]\nservers = [\"ns.example\"]",
                "f.toml:3: dns.servers: \"ns.example\": not IP",
            ),
            (
                "[dns]\ntrusted = [\"unix\"]",
                "f.toml:3: dns.trusted: \"unix\"",
            ),
            ("[log]\nto = \"log\"", "f.toml:3: log.to: \"log\" is not"),
            (
                "[log]\nlevel = \"loud\"",
                "f.toml:3: log.level: \"loud\" is not",
            ),
            (
                "[control]\ntcp = \"192.0.2.1:1\"",
                "f.toml:3: control.tcp: 192.0.2.1:1 is not a loopback",
            ),
            (
                "[control]\nmode = 660",
                "f.toml:3: control.mode: the number 660 was found",
            ),
            (
                "[control]\npath = \"run/c\"",
                "f.toml:3: control.path: \"run/c\" is not an absolute",
            ),
            (
                "pid_file = \"pid\"",
                "f.toml:2: pid_file: \"pid\" is not an absolute",
            ),
            (
                "user = \"root\"",
                "f.toml:2: user: posthaste does not run as root",
            ),
            (
                "local_mail_to = \"a b\"",
                "f.toml:2: local_mail_to: \"a b\"",
            ),
            ("listen = []", "f.toml:2: listen: no listener at all"),
            (
                "[[listen]]\nname = \"a\"",
                "f.toml:2: listen[0].address: every [[listen]] needs it",
            ),
            (
                "[[listen]]\naddress = \"localhost:25\"",
                "f.toml:3: listen[0].address: \"localhost:25\"",
            ),
            (
                "[listen]\naddress = \"127.0.0.1:25\"",
                "f.toml:2: listen: must be a list of tables",
            ),
            (
                "[[queue]]\npath = \"/q\"",
                "f.toml:2: queue: must be a table",
            ),
            ("queue = 3", "f.toml:2: queue: must be a table"),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\"",
                "f.toml:5: listen[1].address: another listener has",
            ),
            (
                "[[route]]\ntransport = \"r\"",
                "f.toml:3: route[0].transport: no [[transport]]",
            ),
            (
                "[[transport]]\nname = \"direct\"\nkind = \"direct\"",
                "f.toml:3: transport[0].name: \"direct\" is built in",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\ntls = \"none\"",
                "f.toml:2: transport[0].hosts: a relay needs",
            ),
            (
                "[[transport]]\nname = \"d\"\nkind = \"direct\"\ndot_timeout = \"0s\"",
                "f.toml:5: transport[0].dot_timeout: ",
            ),
            (
                "[[transport]]\nname = \"d\"\nkind = \"direct\"\ndelay_notices = [\"2h\", \"1h\"]",
                "f.toml:5: transport[0].delay_notices: the ages must rise",
            ),
            (
                "[[transport]]\nname = \"d\"\nkind = \"direct\"\nredial = 2",
                "f.toml:5: transport[0].redial: only a relay has it",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nuser = \"u\"",
                "f.toml:2: transport[0].password: a user needs a password",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\npassword = \"p\"",
                "f.toml:2: transport[0].user: a password needs a user",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nmechanisms = [\"PLAIN\"]",
                "f.toml:6: transport[0].mechanisms: without a user",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nmechanisms = [\"plain\"]",
                "f.toml:6: transport[0].mechanisms: \"plain\" is not one of",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\ntls = \"none\"\nca_file = \"/c\"",
                "f.toml:7: transport[0].ca_file: without TLS",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nredial = 21",
                "f.toml:6: transport[0].redial: 21 is not within",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"direct\"\n[[transport]]\nname = \"r\"\nkind = \"direct\"",
                "f.toml:6: transport[1].name: a transport \"r\" is already there",
            ),
            (
                "[[transport]]\nname = \"f\"\nkind = \"fail\"\ncode = 250",
                "f.toml:5: transport[0].code: 250 is not within 400 to 599",
            ),
            (
                "[[transport]]\nname = \"f\"\nkind = \"fail\"\ntext = \"a\\nb\"",
                "f.toml:5: transport[0].text: a text is at most",
            ),
            (
                "[[transport]]\nname = \"d\"\nkind = \"discard\"\ncode = 450",
                "f.toml:5: transport[0].code: only kind \"fail\" has it",
            ),
            (
                "[[transport]]\nname = \"d\"\nkind = \"discard\"\nhelo = \"a.example\"",
                "f.toml:4: transport[0].kind: connects to nobody",
            ),
            (
                "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"mail.example\"]",
                "f.toml:5: transport[0].hosts: LMTP must not go to port 25",
            ),
            (
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"unix:/run/x\"]",
                "f.toml:5: transport[0].hosts: only LMTP goes over Unix sockets",
            ),
            (
                "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:run/x\"]",
                "f.toml:5: transport[0].hosts: \"unix:run/x\": \"run/x\" is not an absolute",
            ),
            (
                "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/x\", \"a.example:24\"]",
                "f.toml:5: transport[0].hosts: beside Unix sockets",
            ),
            (
                "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/x\"]\ntls = \"starttls\"",
                "f.toml:5: transport[0].hosts: beside Unix sockets",
            ),
            (
                "[tls]\nlevel = \"secure\"",
                "f.toml:3: tls.level: \"secure\" is not one of",
            ),
            (
                "[tls]\nca_file = \"ca.pem\"",
                "f.toml:3: tls.ca_file: \"ca.pem\" is not an absolute",
            ),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"starttls\"\nkey = \"/k\"",
                "f.toml:4: listen[0].tls: needs cert and key",
            ),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"implicit\"\ncert = \"/c\"",
                "f.toml:4: listen[0].tls: needs cert and key",
            ),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\ncert = \"/c\"",
                "f.toml:4: listen[0].cert: needs tls",
            ),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"none\"\nkey = \"/k\"",
                "f.toml:5: listen[0].key: needs tls",
            ),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"implicit\"\ncert = \"c.pem\"\nkey = \"/k\"",
                "f.toml:5: listen[0].cert: \"c.pem\" is not an absolute",
            ),
            (
                "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"tls\"",
                "f.toml:4: listen[0].tls: \"tls\" is not one of",
            ),
            (
                "[[tls_policy]]\nlevel = \"verify\"",
                "f.toml:2: tls_policy[0].domains: every [[tls_policy]] needs it",
            ),
            (
                "[[tls_policy]]\ndomains = []\nlevel = \"verify\"",
                "f.toml:3: tls_policy[0].domains: at least one",
            ),
            (
                "[[tls_policy]]\ndomains = [\"a.example\"]\nlevel = \"encrypt\"\nnames = [\"b.example\"]",
                "f.toml:5: tls_policy[0].names: only level",
            ),
            (
                "[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"",
                "f.toml:2: dkim[0].key: every [[dkim]] needs it",
            ),
            (
                "[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey = \"s.key\"",
                "f.toml:5: dkim[0].key: \"s.key\" is not an absolute",
            ),
            (
                "[[dkim]]\ndomain = \"a.example\"\nselector = \"s_\u{e4}..\"\nkey = \"/k\"",
                "f.toml:4: dkim[0].selector: ",
            ),
            (
                "[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey = \"/k\"\n\
                 [[dkim]]\ndomain = \"A.example\"\nselector = \"S\"\nkey = \"/l\"",
                "f.toml:8: dkim[1].selector: another [[dkim]] has s._domainkey.a.example",
            ),
            ("workers = 1\nworkers = 2", "f.toml:3: syntax: "),
            ("workers = ", "f.toml:2: syntax: "),
            ("\"a\\nb\" = 1", "f.toml:2: a\\nb: unknown key"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(line), "{text}\n{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    // CFG-1
    #[test]
    fn all_faults_are_reported_in_the_order_of_the_file() {
        let error = parse("workers = 0\n[queue]\nx = 1\n[dsn]\nlifetime = 1").unwrap_err();
        let lines: Vec<&str> = error.lines().map(|line| &line[..9]).collect();
        assert_eq!(lines, ["f.toml:2:", "f.toml:4:", "f.toml:6:"]);
    }

    // CFG-9
    #[test]
    fn a_host_name_must_be_a_full_domain_name() {
        for bad in [
            "box",
            "",
            "192.0.2.1",
            "a..b",
            "[192.0.2.1]",
            "mail.example org",
        ] {
            let error =
                Config::parse(&format!("hostname = \"{bad}\""), Path::new("f")).unwrap_err();
            assert!(error.to_string().starts_with("f:1: hostname: "), "{error}");
        }
        let config = Config::parse("hostname = \"Mail.Example\"", Path::new("f")).unwrap();
        assert_eq!(config.hostname.as_str(), "mail.example");
        assert_eq!(config.dsn.from.to_string(), "postmaster@mail.example");
    }

    // Every key of a later stage says so instead of being ignored.
    #[test]
    fn what_this_version_cannot_do_is_refused_with_those_words() {
        for text in [
            "[http]\naddress = \"127.0.0.1:80\"",
            "[limits]\nrate = \"1/1m\"",
            "[control]\ntcp = \"127.0.0.1:2500\"",
            "[[listen]]\naddress = \"127.0.0.1:1\"\nrole = \"submission\"",
            "[[listen]]\naddress = \"127.0.0.1:1\"\nrole = \"lmtp\"",
            "[[listen]]\naddress = \"127.0.0.1:1\"\nauth = \"required\"",
            "[[transport]]\nname = \"p\"\nkind = \"pipe\"",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains("not available in this version"),
                "{text}\n{error}"
            );
            assert_eq!(error.lines().count(), 1, "{text}\n{error}");
        }
    }

    // CFG-12
    #[test]
    fn without_listen_tables_there_are_three_listeners() {
        let config = parse("").unwrap();
        let names: Vec<&str> = config
            .listen
            .iter()
            .map(|listen| listen.name.as_str())
            .collect();
        assert_eq!(
            names,
            ["127.0.0.1:25", "[::1]:25", "unix:/run/posthaste/smtp"]
        );
        assert!(config.default_listeners);
        let config = parse("[[listen]]\naddress = \"[::]:2525\"").unwrap();
        assert_eq!((config.listen.len(), config.default_listeners), (1, false));
        assert_eq!(config.listen[0].mode, 0o666);
    }

    // CFG-4
    #[test]
    fn the_printed_configuration_reads_back_as_itself() {
        for text in [
            "",
            "user = \"mail\"\nlocal_mail_to = \"joe@there.example\"\n[queue]\nin_doubt = \"hold\"\n\
             disabled_senders = [\".bad.example\"]\n[log]\nto = \"/var/log/ph\\\\x\"\nlevel = \"debug\"\n\
             [retry]\nmax_attempts = 3\n[deliver]\nsource_addresses = [\"192.0.2.1\", \"2001:db8::1\"]\n\
             [dns]\nservers = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\n[dsn]\nreturn = \"full\"\n\
             [[dkim]]\ndomain = \"here.example\"\nselector = \"s.a\"\nkey = \"/k\"\n\
             [[listen]]\nname = \"lan\"\naddress = \"192.0.2.1:25\"\nrelay_from = [\"192.0.2.0/24\", \"unix\"]\n\
             [[listen]]\naddress = \"unix:/run/x\"\nmode = 0o600\n[[transport]]\nname = \"r\"\nkind = \"relay\"\n\
             hosts = [\"a.example\", \"[2001:db8::1]:26\"]\ntls = \"none\"\n\
             [[transport]]\nname = \"d\"\nkind = \"direct\"\nhelo = \"d.example\"\nsource_addresses = [\"192.0.2.9\"]\n\
             [[transport]]\nname = \"s\"\nkind = \"relay\"\nhosts = [\"a.example:465\", \"b.example:587\"]\norder = \"random\"\n\
             danger_accept_invalid_certs = true\nca_file = \"/ca.pem\"\nuser = \"u\"\npassword = \"p\"\n\
             mechanisms = [\"PLAIN\", \"SCRAM-SHA-1\"]\ndanger_auth_without_tls = true\nredial = 0\n\
             command_timeout = \"1m30s\"\nfamily = \"only6\"\npipelining = false\nprobe = \"require\"\nproxy = \"socks5://[::1]\"\n\
             [[transport]]\nname = \"n\"\nkind = \"discard\"\nintervals = [\"1m\", \"1h30m\"]\njitter = 0.25\nmax_attempts = 4\n\
             [[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/a b\"]\n\
             [[transport]]\nname = \"m\"\nkind = \"lmtp\"\nhosts = [\"[::1]:24\"]\ntls = \"none\"\n\
             [[transport]]\nname = \"f\"\nkind = \"fail\"\ncode = 450\ntext = \"later\"\n\
             [[route]]\nfrom = [\"*\"]\nto = [\"here.example\", \".x.example\"]\nmin_attempts = 1\ntransport = \"r\"",
        ] {
            let printed = parse(text).unwrap().print();
            let again = Config::parse(&printed, Path::new("printed")).unwrap();
            assert_eq!(again.print(), printed);
            assert!(printed.contains("mode = 0o6"), "{printed}");
        }
    }

    // CFG-4, CFG-5
    #[test]
    fn a_password_is_not_printed_and_its_change_is_told() {
        let with = |password: &str| {
            let text = format!(
                "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nuser = \"u\"\n\
                 password = \"{password}\""
            );
            parse(&text).unwrap()
        };
        let (old, new) = (with("hunter2"), with("hunter3"));
        assert!(!old.print().contains("hunter"));
        assert!(!format!("{old:?}").contains("hunter"));
        assert!(old.print().contains("password = \"***\""));
        assert_eq!(old.changed_keys(&new), ["transport"]);
        assert!(old.changed_keys(&with("hunter2")).is_empty());
    }

    // CFG-7
    #[test]
    fn a_file_with_a_secret_in_it_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("posthaste-load-{}", std::process::id()));
        let transport = "hostname = \"here.example\"\n[[transport]]\nname = \"r\"\nkind = \"relay\"\n\
                         hosts = [\"a.example\"]\nuser = \"u\"\npassword = \"p\"\n";
        let load = |text: &str, mode| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            Config::load(&file).map_err(|error| error.to_string())
        };
        assert!(load(transport, 0o600).is_ok());
        let error = load(transport, 0o640).unwrap_err();
        assert!(
            error.contains("transport[0]: the file holds a secret"),
            "{error}"
        );
        let without = transport.split("user").next().unwrap();
        assert!(load(without, 0o644).is_ok());
        let proxy = format!("{without}proxy = \"socks5://u:p@127.0.0.1\"\n");
        assert!(load(&proxy, 0o644).is_err());
        std::fs::remove_file(&file).unwrap();
    }

    // CFG-5
    #[test]
    fn changed_keys_are_named_by_table_and_key() {
        let old = parse("workers = 3").unwrap();
        let new =
            parse("[retry]\nlifetime = \"1h\"\n[[listen]]\naddress = \"127.0.0.1:1\"").unwrap();
        assert_eq!(
            old.changed_keys(&new),
            ["listen", "retry.lifetime", "workers"]
        );
        assert!(old.changed_keys(&old).is_empty());
    }

    // CFG-4
    #[test]
    fn every_setting_has_a_text_and_a_default_that_reads_as_itself() {
        let settings = settings();
        assert!(settings.len() > 70);
        for setting in &settings {
            assert!(setting.doc.trim().ends_with(['.', ']', ')']), "{setting:?}");
        }
        let defaults = parse("").unwrap();
        for setting in settings.iter().filter(|setting| !setting.repeated) {
            let computed = matches!(setting.key, "hostname" | "user" | "group" | "from");
            let Some(default) = setting.default.filter(|_| !computed) else {
                continue;
            };
            let dot = if setting.table.is_empty() { "" } else { "." };
            let config = parse(&format!(
                "{}{dot}{} = {default}",
                setting.table, setting.key
            ))
            .unwrap();
            assert_eq!(defaults.changed_keys(&config), [""; 0], "{setting:?}");
        }
    }

    // SEC-12
    #[test]
    fn what_weakens_safety_is_said_at_each_start() {
        assert!(parse("").unwrap().warnings().is_empty());
        let config = parse(
            "[deliver]\nallow_private = true\n[[listen]]\naddress = \"[::]:25\"\nrelay_from = [\"::/0\"]",
        );
        assert_eq!(config.unwrap().warnings().len(), 2);
    }
}
