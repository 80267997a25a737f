//! `[control]`

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::table::{Fault, table};
use super::value::{Mode, Value, parsed, quoted, socket_path, within};

impl Value for SocketAddr {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<SocketAddr, Fault> {
        parsed(value, "\"IP:PORT\" or \"[IPv6]:PORT\"", |text| {
            text.parse().map_err(|_| "not IP:PORT or [IPv6]:PORT")
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

table! {
    /// `[control]` (CFG-13).
    pub struct Control in "control" {
        /// The control socket. Changes at a restart.
        path: PathBuf = "\"/run/posthaste/control\"", socket_path;
        /// Its mode.
        mode: u32 as Mode = "0o660";
        /// A loopback TCP address besides, `"IP:PORT"`; `""` for none.
        tcp: Option<SocketAddr> = "\"\"", loopback_only;
        /// Most clients at once; one more is kept for root.
        clients: usize = "32", within(1, 1000);
    }
}

/// CFG-13: loopback only. And CTL-4: its clients name themselves by the token of an admin caller, which cannot be
/// declared yet, so nobody could use it.
fn loopback_only(address: &Option<SocketAddr>) -> Result<(), String> {
    match address {
        None => Ok(()),
        Some(address) if !address.ip().is_loopback() => {
            Err(format!("{address} is not a loopback address"))
        }
        Some(_) => Err("not available in this version (it needs [[caller]] tokens)".to_owned()),
    }
}
