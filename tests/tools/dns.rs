//! A name server for the demo and the tests with real programs: `dns IP:PORT 'NAME TYPE DATA'..`.
//!
//! Answers by UDP and TCP until it is killed. Standard output has one line when it listens and one for each question, so
//! that a script can see both. Names that are not given do not exist. Types: A, AAAA, MX, CNAME, TXT.

#[path = "../support/dns.rs"]
mod dns;

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

fn main() -> ExitCode {
    match serve(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("dns: {text}");
            ExitCode::from(64)
        }
    }
}

fn serve(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let addr = arguments
        .next()
        .ok_or("IP:PORT 'NAME TYPE DATA'..")?
        .parse()
        .map_err(|_| "the first argument is IP:PORT")?;
    let server = dns::DnsServer::start_on(addr).map_err(|e| format!("{addr}: {e}"))?;
    for record in arguments {
        server.line(&record)?;
    }
    say(&format!("listening {}", server.addr()))?;
    let mut told = 0;
    loop {
        let queries = server.queries();
        for query in &queries[told..] {
            say(&format!("asked {} {}", query.name, query.kind))?;
        }
        told = queries.len();
        thread::sleep(Duration::from_millis(100));
    }
}

fn say(line: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|e| format!("standard output: {e}"))
}
