//! The effective configuration as TOML (`posthasted -p`, CFG-4), which reads back as itself.

use std::fmt::Write;

use super::table::{Setting, Table};
use super::transport::TransportTable;
use super::{Config, Transport};

impl Config {
    /// The whole configuration, defaults included.
    pub fn print(&self) -> String {
        let mut out = String::new();
        lines(&mut out, self);
        table(&mut out, &self.queue);
        table(&mut out, &self.intake);
        for listen in &self.listen {
            table(&mut out, listen);
        }
        table(&mut out, &self.control);
        table(&mut out, &self.log);
        table(&mut out, &self.retry);
        table(&mut out, &self.deliver);
        table(&mut out, &self.dns);
        table(&mut out, &self.limits);
        for limit in &self.limit {
            table(&mut out, limit);
        }
        table(&mut out, &self.dsn);
        for dkim in &self.dkim {
            table(&mut out, dkim);
        }
        table(&mut out, &self.tls);
        for policy in &self.tls_policy {
            table(&mut out, policy);
        }
        for transport in &self.transport {
            transport_table(&mut out, transport);
        }
        for route in &self.route {
            table(&mut out, route);
        }
        out
    }

    /// The keys whose values differ between two configurations, as `table.key`; repeated tables count as one key.
    pub fn changed_keys(&self, other: &Config) -> Vec<String> {
        let (old, new) = (self.flat(), other.flat());
        let keys = new.iter().filter(|entry| !old.contains(entry));
        let gone = old.iter().filter(|entry| !new.contains(entry));
        let mut names: Vec<String> = keys.chain(gone).map(|(name, _)| name.clone()).collect();
        // The text of a secret says nothing of it.
        if self.transport != other.transport {
            names.push("transport".to_owned());
        }
        names.sort();
        names.dedup();
        names
    }

    /// Every key and its value as text; a repeated table is one entry.
    fn flat(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        flat_table(&mut all, self);
        flat_table(&mut all, &self.queue);
        flat_table(&mut all, &self.intake);
        flat_table(&mut all, &self.control);
        flat_table(&mut all, &self.log);
        flat_table(&mut all, &self.retry);
        flat_table(&mut all, &self.deliver);
        flat_table(&mut all, &self.dns);
        flat_table(&mut all, &self.limits);
        flat_table(&mut all, &self.dsn);
        flat_table(&mut all, &self.tls);
        let mut repeated = |name: &str, write: &dyn Fn(&mut String)| {
            let mut text = String::new();
            write(&mut text);
            all.push((name.to_owned(), text));
        };
        repeated("listen", &|out| {
            self.listen.iter().for_each(|each| table(out, each))
        });
        repeated("limit", &|out| {
            self.limit.iter().for_each(|each| table(out, each))
        });
        repeated("dkim", &|out| {
            self.dkim.iter().for_each(|each| table(out, each))
        });
        repeated("tls_policy", &|out| {
            self.tls_policy.iter().for_each(|each| table(out, each))
        });
        repeated("transport", &|out| {
            let transports = self.transport.iter();
            transports.for_each(|each| transport_table(out, each));
        });
        repeated("route", &|out| {
            self.route.iter().for_each(|each| table(out, each))
        });
        all
    }
}

/// With the keys of `[deliver]` and `[retry]` that it has for itself.
fn transport_table(out: &mut String, transport: &Transport) {
    let own = TransportTable::from(transport);
    table(out, &own);
    for (key, value) in &own.overrides {
        out.push_str(&format!("{key} = {value}\n"));
    }
}

fn flat_table<T: Table>(all: &mut Vec<(String, String)>, table: &T) {
    for (setting, value) in table.show() {
        let dot = if T::NAME.is_empty() { "" } else { "." };
        let name = format!("{}{dot}{}", T::NAME, setting.key);
        all.push((name, value.unwrap_or_default()));
    }
}

fn table<T: Table>(out: &mut String, table: &T) {
    let (open, close) = if T::REPEATED {
        ("[[", "]]")
    } else {
        ("[", "]")
    };
    out.push_str(&format!("\n{open}{}{close}\n", T::NAME));
    lines(out, table);
}

fn lines<T: Table>(out: &mut String, table: &T) {
    for (Setting { key, default, .. }, value) in table.show() {
        let value = value.or_else(|| default.filter(|text| *text == "\"\"").map(str::to_owned));
        let written = match value {
            Some(value) => writeln!(out, "{key} = {value}"),
            None => writeln!(out, "# {key} is not set"),
        };
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }
}
