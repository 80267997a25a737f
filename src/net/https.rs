//! One request to an HTTPS server of a stranger: MTA-STS policies and TLS reports (STS-5, STS-12, RPT-3, DV-9).
//!
//! A client of our own on our own streams, and no library: the addresses come from our resolver and are checked before
//! they are dialled, one deadline holds from the first lookup to the last octet, `tls.ca_file` counts, and a certificate
//! that does not verify is told from a server that does not answer, which reports distinguish (RFC 8460 §4.3). HTTP
//! libraries have hooks for some of these, none for all. There are no redirects, no cookies, no compression, no proxies
//! and no second request on a connection, so that what is left is one small grammar: [`response`].

pub mod response;

use std::fmt;
use std::io;
use std::net::IpAddr;

use super::Network;
use super::deadline::Deadline;
use super::dial;
use super::dns::IpFamily;
use super::stream::Stream;
use crate::config::Family;
use crate::policy::addresses::{self, Rules};
use crate::policy::hosts::Found;
use crate::policy::plan::HostName;
use crate::policy::tls::{Conditions, Encryption};
use crate::smtp::address::Domain;
use response::{Reader, Response};

/// What we call ourselves.
const AGENT: &str = concat!("posthaste/", env!("CARGO_PKG_VERSION"));

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The server's name, which its certificate must be for.
    pub host: &'a Domain,
    /// Its port.
    pub port: u16,
    /// Path and query, as they are sent: graphic ASCII.
    pub path: &'a str,
    /// What is posted, and its header fields; nothing: GET.
    pub content: Option<Posted<'a>>,
    /// The largest content of the response.
    pub limit: usize,
}

/// Content to post.
#[derive(Clone, Copy, Debug)]
pub struct Posted<'a> {
    /// Content-Type.
    pub kind: &'a str,
    /// The content.
    pub body: &'a [u8],
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsError {
    /// The server's certificate is to blame.
    pub certificate: bool,
    /// In words.
    pub text: String,
}

impl fmt::Display for HttpsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for HttpsError {}

fn failed(text: impl fmt::Display) -> HttpsError {
    HttpsError {
        certificate: false,
        text: text.to_string(),
    }
}

fn broken(stage: &str, error: &io::Error) -> HttpsError {
    match error.kind() {
        io::ErrorKind::TimedOut => failed(format!("{stage}: timed out")),
        _ => failed(format!("{stage}: {error}")),
    }
}

impl Network {
    /// Sends the request and reads the response, whatever its status. Blocks until `deadline` at the latest.
    ///
    /// # Errors
    /// [`HttpsError`]
    pub fn https(&self, request: &Request<'_>, deadline: Deadline) -> Result<Response, HttpsError> {
        let context = self.tls(None).map_err(failed)?;
        let addresses = self.https_addresses(request, deadline)?;
        let config = self.live().get();
        let connection = dial::dial(
            &addresses,
            request.port,
            &config.deliver.source_addresses,
            None,
            config.deliver.dial_timeout.get(),
            deadline,
            |_| {},
        )
        .map_err(failed)?;
        let host = HostName::Name(request.host.clone());
        let conditions = Conditions {
            encryption: Encryption::Required,
            by_name: true,
            by_dane: false,
            names: vec![host],
            dane: None,
            sni: Some(request.host.clone()),
        };
        let handshake = Deadline::after(config.tls.handshake_timeout.get()).min(deadline);
        let mut stream = connection
            .stream
            .start_tls(&context, &conditions, handshake)
            .map_err(|e| broken("TLS handshake", &e))?;
        // RFC 8461 §3.3: a certificate for the name, or nothing is read.
        if let Some(Err(fault)) = stream.reached().map(|reached| &reached.name) {
            return Err(HttpsError {
                certificate: true,
                text: format!("bad certificate: {}", fault.text),
            });
        }
        stream
            .write_all(&head(request), deadline)
            .and_then(|()| match request.content {
                Some(posted) => stream.write_all(posted.body, deadline),
                None => Ok(()),
            })
            .map_err(|e| broken("request", &e))?;
        let response = receive(&mut stream, request.limit, deadline);
        stream.close();
        response
    }

    /// The addresses of the server that may be dialled, in order (DV-8, DV-9).
    fn https_addresses(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, HttpsError> {
        let config = self.live().get();
        let families: &[IpFamily] = match config.deliver.family {
            Family::Only4 => &[IpFamily::V4],
            Family::Only6 => &[IpFamily::V6],
            _ => &[IpFamily::V4, IpFamily::V6],
        };
        let (mut found, mut error) = (Vec::new(), None);
        for family in families {
            match self.resolver().addresses(request.host, *family, deadline) {
                Ok(answer) => {
                    if let Found::Records(records) = answer.found {
                        found.extend(records);
                    }
                }
                Err(e) => error = Some(e),
            }
        }
        if found.is_empty() {
            return Err(match error {
                Some(error) => failed(error),
                None => failed(format!("{} has no address", request.host)),
            });
        }
        let checked = !config.deliver.allow_private;
        let rules = Rules {
            family: config.deliver.family,
            checked,
            dialled: &[],
            seed: rand::random(),
        };
        let mut list = addresses::dial_list(request.host.as_str(), &found, &rules);
        let own = self.own(&config);
        list.addresses
            .retain(|ip| !own.has_endpoint(*ip, request.port));
        if list.addresses.is_empty() {
            let why = match list.skips.first() {
                Some(skip) => skip.to_string(),
                None => format!("{} is ourselves", request.host),
            };
            return Err(failed(why));
        }
        Ok(list.addresses)
    }
}

/// Request line and header fields.
fn head(request: &Request<'_>) -> Vec<u8> {
    let Request {
        host, port, path, ..
    } = request;
    let method = match request.content {
        Some(_) => "POST",
        None => "GET",
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}");
    if *port != 443 {
        head.push_str(&format!(":{port}"));
    }
    head.push_str(&format!(
        "\r\nUser-Agent: {AGENT}\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
    ));
    if let Some(posted) = request.content {
        let (kind, length) = (posted.kind, posted.body.len());
        head.push_str(&format!(
            "Content-Type: {kind}\r\nContent-Length: {length}\r\n"
        ));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn receive(stream: &mut Stream, limit: usize, deadline: Deadline) -> Result<Response, HttpsError> {
    let mut reader = Reader::new(limit);
    let mut piece = [0; 16 * 1024];
    loop {
        let n = stream
            .read(&mut piece, deadline)
            .map_err(|e| broken("response", &e))?;
        if n == 0 {
            // RFC 9112 §9.8: content that ends with the stream may have been cut short by somebody else.
            if !stream.ended_in_order() {
                return Err(failed("the response is cut off"));
            }
            return reader.finish().map_err(failed);
        }
        if reader.feed(&piece[..n]).map_err(failed)? {
            return reader.finish().map_err(failed);
        }
    }
}
