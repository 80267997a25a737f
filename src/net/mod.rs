//! Mechanism of the network: deadlines, streams, dialling, DNS, TLS. Judges nothing; what DNS facts mean is decided in
//! `policy::hosts` and `policy::addresses`, and [`walk`] carries it out.

pub mod deadline;
pub mod dial;
pub mod dns;
pub mod https;
mod own;
mod socket;
pub mod socks;
pub mod stream;
pub mod tls;
pub mod walk;

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Config, Live};
use crate::policy::hosts::Own;
use dns::Resolver;

/// What a worker needs of the network: made once, cheap to clone. Begin with [`Network::walk`].
#[derive(Clone, Debug)]
pub struct Network {
    live: Live,
    resolver: Resolver,
    own: Arc<own::Kept>,
    contexts: Arc<tls::Kept>,
}

impl Network {
    /// Opens nothing and asks nobody, so a dead resolver does not keep the daemon from starting (DNS-6). `clock` ages the
    /// DNS cache.
    pub fn new(live: Live, clock: Clock) -> Network {
        let resolver = Resolver::new(live.clone(), clock);
        Network {
            live,
            resolver,
            own: Arc::default(),
            contexts: Arc::default(),
        }
    }

    /// The resolver.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What TLS sessions share under the configuration in force; with a transport's own authorities, if it has any.
    ///
    /// # Errors
    /// The file of authorities cannot be used, in words: a fault of ours (DV-19).
    pub fn tls(&self, ca_file: Option<&Path>) -> Result<tls::Context, String> {
        self.contexts.context(&self.live.get(), ca_file)
    }

    fn live(&self) -> &Live {
        &self.live
    }

    fn own(&self, config: &Arc<Config>) -> Arc<Own> {
        self.own.facts(config)
    }
}
