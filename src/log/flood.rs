//! At most ten lines a second per client, then a count (OBS-3).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);
/// Clients remembered at once (PRC-8). One is remembered for a second, so this many in one second share a place.
const CLIENTS: usize = 4096;

/// What is remembered of the clients that caused lines lately.
#[derive(Debug, Default)]
pub(super) struct Flood {
    clients: HashMap<String, Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
}

/// Lines of one client that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    /// The client, or its IPv6 /64.
    pub client: String,
    /// How many.
    pub count: u32,
}

impl Flood {
    /// Whether one more line of this client may be written now.
    pub fn admit(&mut self, client: &str, now: Instant) -> bool {
        let key = group(client);
        if !self.clients.contains_key(&key) && self.clients.len() >= CLIENTS {
            // No room for another name: those without a place of their own share one.
            return self.count("other".to_owned(), now);
        }
        self.count(key, now)
    }

    fn count(&mut self, key: String, now: Instant) -> bool {
        let window = self.clients.entry(key).or_insert(Window {
            began: now,
            lines: 0,
        });
        window.lines = window.lines.saturating_add(1);
        window.lines <= LINES
    }

    /// Whether no client is remembered.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Forgets the windows that are over and returns what they left out. To be called about once a second.
    pub fn sweep(&mut self, now: Instant) -> Vec<Suppressed> {
        let mut over = Vec::new();
        self.clients.retain(|client, window| {
            let goes_on = now.saturating_duration_since(window.began) < WINDOW;
            if !goes_on && window.lines > LINES {
                over.push(Suppressed {
                    client: client.clone(),
                    count: window.lines - LINES,
                });
            }
            goes_on
        });
        if self.clients.is_empty() {
            self.clients.shrink_to(0);
        }
        over
    }
}

/// IPv6 clients count by /64, as everywhere (IN-13): who has one address of it has them all.
fn group(client: &str) -> String {
    match client.parse() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        _ => client.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // OBS-3
    #[test]
    fn the_eleventh_line_of_a_client_in_a_second_is_counted_and_others_are_unaffected() {
        let (mut flood, start) = (Flood::default(), Instant::now());
        let admitted = (0..25).filter(|_| flood.admit("192.0.2.1", start)).count();
        assert_eq!(admitted, 10);
        assert!(flood.admit("192.0.2.2", start));
        assert_eq!(flood.sweep(start + WINDOW / 2), []);
        assert_eq!(
            flood.sweep(start + WINDOW),
            [Suppressed {
                client: "192.0.2.1".into(),
                count: 15
            }]
        );
        assert!(flood.admit("192.0.2.1", start + WINDOW));
    }

    // OBS-3
    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let (mut flood, now) = (Flood::default(), Instant::now());
        let admitted = (0..30)
            .filter(|n| flood.admit(&format!("2001:db8::{n:x}"), now))
            .count();
        assert_eq!(admitted, 10);
    }

    // PRC-8
    #[test]
    fn ever_new_clients_neither_grow_the_memory_nor_get_around_the_limit() {
        let (mut flood, now) = (Flood::default(), Instant::now());
        let admitted = (0..20_000)
            .filter(|n| flood.admit(&format!("c{n}"), now))
            .count();
        assert_eq!(admitted, CLIENTS + 10);
        assert!(flood.clients.len() <= CLIENTS + 1);
    }
}
