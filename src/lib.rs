//! posthaste: an outbound mail queue daemon for one Unix host.
//!
//! A tour of the modules, in the order of the arrows; each may use what stands below it, never what stands above:
//!
//! - [`daemon`] wires the parts together, starts and stops them in order, and answers signals.
//! - [`tool`] is posthaste(8): a client of the sockets, with nothing else of the daemon in it.
//! - [`front`] is every door into the daemon: listeners, the SMTP server, the control socket.
//! - [`delivery`] carries out one transaction: worker, session, pool.
//! - [`dispatch`] decides which recipients go to which next hop, and when; it does no I/O to peers.
//! - [`net`] is mechanism: deadlines, dialling, DNS, TLS.
//! - [`policy`] is judgement: pure functions of (facts, now).
//! - [`store`] is the SQLite queue: rows and states, one writer thread.
//! - [`config`] turns `posthaste.toml` into a typed [`config::Config`].
//! - [`message`] is the envelope, the queue id, and the headers we add.
//! - [`smtp`] is the grammar and the state machines of both sides: bytes in, bytes out; no socket, clock or log.
//! - [`clock`], [`heap`], [`log`], [`metrics`] and [`recent`] are used by all of the above except `smtp`.

pub mod clock;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod dispatch;
pub mod feed;
pub mod front;
pub mod heap;
pub mod log;
pub mod message;
pub mod metrics;
pub mod net;
pub mod policy;
pub mod recent;
pub mod smtp;
pub mod spare;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tool;
