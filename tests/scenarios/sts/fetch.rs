//! What may go wrong with a fetch, which then means no policy (STS-3, STS-5, STS-6, STS-12).

use std::path::Path;
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::config::{Config, Live};
use posthaste::net::Network;
use posthaste::net::deadline::Deadline;
use posthaste::net::https::Request;
use posthaste::smtp::address::Domain;

use super::world::{World, policy};
use super::{HOUR, MINUTE};
use crate::support::ca::{Authority, leaf};
use crate::support::https::{Say, response};

/// A good policy that would refuse the host that is there.
fn strict() -> String {
    policy("enforce", "mx.elsewhere.test", 604_800)
}

fn text(headers: &str) -> Say {
    response("200 OK", headers, &strict())
}

/// A response without a length, which ends by closing.
fn open_ended() -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n\r\n{}", strict()).into_bytes()
}

// STS-3, STS-5, STS-6
#[test]
fn a_fetch_that_fails_means_no_policy_and_is_not_repeated_for_five_minutes() {
    let world = World::start(&strict());
    let long = format!("{}{}", strict(), "x: y\r\n".repeat(11_000));
    let bad = [
        ("no such file", response("404 Not Found", "", &strict())),
        (
            "moved",
            response("301 Moved", "Location: /x\r\n", &strict()),
        ),
        ("another 2yz", response("203 Changed", "", &strict())),
        ("a web page", text("Content-Type: text/html\r\n")),
        ("packed", text("Content-Encoding: gzip\r\n")),
        ("too long", Say::Text(long)),
        (
            "shorter than it says",
            Say::Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n".to_vec()),
        ),
        ("cut off", Say::Cut(open_ended())),
        ("no HTTP", Say::Octets(b"220 mx ESMTP\r\n".to_vec())),
        ("bad policy", Say::Text(strict().replace("STSv1", "STSv2"))),
        ("no mx", Say::Text(policy("enforce", "", 604_800))),
    ];
    for (n, (what, say)) in bad.into_iter().enumerate() {
        world.https.say(say);
        for again in ["at first", "at once"] {
            let sent = world.send();
            assert!(sent.contains("result=ok"), "{what}, {again}: {sent}");
            assert_eq!(world.https.asked().len(), n + 1, "{what}, {again}");
        }
        world.clock.advance(5 * MINUTE);
    }
}

// STS-5: what a server may do and many do
#[test]
fn parameters_of_the_type_no_type_and_chunks_are_fine() {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        strict().len(),
        strict()
    );
    for say in [
        text("Content-Type: text/plain; charset=utf-8\r\n"),
        text("content-type: TEXT/Plain;x=y\r\n"),
        text(""),
        Say::Octets(chunked.into_bytes()),
        Say::Octets(open_ended()),
    ] {
        let world = World::start(&strict());
        world.https.say(say.clone());
        let refused = world.send();
        assert!(refused.contains("status=4.7.5"), "{say:?}: {refused}");
    }
}

// STS-5, TLS-11
#[test]
fn the_servers_certificate_must_be_for_its_name() {
    let world = World::start(&strict());
    let stranger = Authority::root("somebody else");
    let name = ["mta-sts.dest.test"];
    for (what, identity) in [
        ("another name", world.ca.issue(leaf(&["dest.test"]))),
        ("two labels", world.ca.issue(leaf(&["*.test"]))),
        (
            "common name",
            world.ca.issue(leaf(&[]).common_name(name[0])),
        ),
        ("expired", world.ca.issue(leaf(&name).expired())),
        ("not yet", world.ca.issue(leaf(&name).not_yet())),
        ("stranger", stranger.issue(leaf(&name))),
        ("self-signed", leaf(&name).self_signed()),
    ] {
        world.https.identity(identity);
        let sent = world.send();
        assert!(sent.contains("result=ok"), "{what}: {sent}");
        world.clock.advance(6 * MINUTE);
    }
    // Nothing was asked of any of them.
    assert_eq!(world.https.asked().len(), 0);
    assert_eq!(world.https.connections(), 7);
    world.https.identity(world.ca.issue(leaf(&["*.dest.test"])));
    world.clock.advance(HOUR);
    let refused = world.send();
    assert!(refused.contains("status=4.7.5"), "{refused}");
}

/// A client of the world's servers, with other settings behind.
fn network(world: &World, more: &str) -> Network {
    let text = format!(
        "hostname = \"here.test\"\n[dns]\nservers = [\"{}\"]\n[tls]\nca_file = \"{}\"\n{more}",
        world.dns.addr(),
        world.ca_file().display()
    );
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    Network::new(Live::new(config), Clock::system())
}

fn get(network: &Network, port: u16, span: Duration) -> Result<u16, String> {
    let host = Domain::parse("mta-sts.dest.test").unwrap();
    let request = Request {
        host: &host,
        port,
        path: "/",
        content: None,
        limit: 65_536,
    };
    network
        .https(&request, Deadline::after(span))
        .map(|response| response.status)
        .map_err(|error| error.text)
}

// STS-5
#[test]
fn a_server_that_drips_or_says_nothing_runs_out_of_time() {
    let world = World::start(&strict());
    let network = network(&world, "[deliver]\nallow_private = true\n");
    for say in [Say::Drip, Say::Silence] {
        world.https.say(say);
        let error = get(&network, world.https.port(), Duration::from_millis(700)).unwrap_err();
        assert!(error.contains("timed out"), "{error}");
    }
}

// STS-12, DV-8, DV-9
#[test]
fn a_server_at_a_private_address_is_not_dialled() {
    let world = World::start(&strict());
    let network = network(&world, "");
    let error = get(&network, world.https.port(), Duration::from_secs(20)).unwrap_err();
    assert!(error.contains("127.0.0.0/8"), "{error}");
    assert_eq!(world.https.connections(), 0);
}

// DV-8: our own listener is nobody's web server
#[test]
fn our_own_listener_is_not_dialled() {
    let world = World::start(&strict());
    let port = world.https.port();
    let network = network(
        &world,
        &format!("[deliver]\nallow_private = true\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n"),
    );
    let error = get(&network, port, Duration::from_secs(20)).unwrap_err();
    assert!(error.contains("ourselves"), "{error}");
    assert_eq!(world.https.connections(), 0);
}
