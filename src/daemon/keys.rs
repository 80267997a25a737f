//! The DKIM keys that the configuration names: read at the start, as root if we are, and again at a reload (MSG-8).

use std::sync::Arc;

use crate::config::{Config, Dkim};
use crate::log::Line;
use crate::message::dkim::{Keyring, SigningKey};
use crate::net::tls::server::read_key;

/// What a reload found.
#[derive(Debug)]
pub struct Renewed {
    /// The keys from now on.
    pub keyring: Keyring,
    /// A key changed behind a name and a path that did not.
    pub changed: bool,
    /// Files that only a restart can read.
    pub unreadable: bool,
}

enum Fault {
    /// We may not read the file.
    Denied(String),
    Unusable(String),
}

/// Reads all keys.
///
/// # Errors
/// `dkim: FILE: reason` for the first that cannot be used.
pub fn load(config: &Config) -> Result<Keyring, String> {
    let keys = config.dkim.iter().map(|table| {
        read(table).map(Arc::new).map_err(|fault| match fault {
            Fault::Denied(text) | Fault::Unusable(text) => text,
        })
    });
    Ok(Keyring::new(keys.collect::<Result<_, String>>()?))
}

/// Reads all keys again, after root was given up: one that only root can read stays as it was read at the start.
///
/// # Errors
/// As [`load`]; the old keys go on.
pub fn reload(new: &Config, old: &Config, held: &Keyring) -> Result<Renewed, String> {
    let mut keys = Vec::with_capacity(new.dkim.len());
    let (mut changed, mut unreadable) = (false, false);
    for table in &new.dkim {
        // The ring was made of the tables in their order.
        let before = old
            .dkim
            .iter()
            .zip(held.keys())
            .find(|(one, _)| *one == table);
        let key = match (read(table), before) {
            (Ok(key), Some((_, held))) => {
                changed |= !key.is_same(held);
                Arc::new(key)
            }
            (Ok(key), None) => Arc::new(key),
            (Err(Fault::Denied(text)), Some((_, held))) => {
                unreadable = true;
                Line::new("dkim-key")
                    .key("name", held.name())
                    .key("result", "kept")
                    .peer("text", &text)
                    .warn();
                Arc::clone(held)
            }
            (Err(Fault::Denied(text) | Fault::Unusable(text)), _) => return Err(text),
        };
        keys.push(key);
    }
    Ok(Renewed {
        keyring: Keyring::new(keys),
        changed,
        unreadable,
    })
}

fn read(table: &Dkim) -> Result<SigningKey, Fault> {
    let key = read_key(&table.key).map_err(|error| {
        let text = format!("dkim: {error}");
        match error.is_denied() {
            true => Fault::Denied(text),
            false => Fault::Unusable(text),
        }
    })?;
    SigningKey::new(table.domain.clone(), table.selector.clone(), key)
        .map_err(|error| Fault::Unusable(format!("dkim: {}: {error}", table.key.display())))
}

/// Says what signs from now on, and what an operator should know of it.
pub fn log(keyring: &Keyring) {
    for key in keyring.keys() {
        let line = Line::new("dkim-key")
            .key("name", key.name())
            .key("algorithm", key.algorithm().tag());
        match key.warning() {
            Some(warning) => line.key("text", warning).warn(),
            None => line.info(),
        }
    }
}
