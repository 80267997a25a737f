//! Questions and answers on the wire, by `hickory-proto`; what may be believed of an answer (DNS-2 to DNS-5, DNS-9).
//! Pure: bytes in, facts out.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::policy::hosts::{Found, MAX_MX_RECORDS, MxRecord};
use crate::policy::plan::Missing;
use crate::policy::tls::facts::{MAX_TLSA, Tlsa};

/// The largest UDP answer that we ask for: what passes everywhere without fragments.
const UDP_PAYLOAD: u16 = 1232;

/// CNAMEs that are followed (DNS-4).
pub(super) const MAX_CNAMES: usize = 16;

/// Addresses of one family that are kept; more than `policy::addresses` looks at.
const MAX_ADDRESSES: usize = 40;

/// TXT records of a name that are kept.
const MAX_TXT: usize = 100;

/// A question, with the id under which it goes out.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) id: u16,
    pub(super) name: Name,
    pub(super) kind: RecordType,
}

impl Question {
    /// The message to send.
    pub(super) fn to_bytes(&self, edns: bool) -> Result<Vec<u8>, String> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        // RFC 6840 §5.7: says that we understand AD in the answer.
        message.metadata.authentic_data = true;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if edns {
            let mut opt = Edns::new();
            opt.set_max_payload(UDP_PAYLOAD);
            message.set_edns(opt);
        }
        message.to_vec().map_err(|e| e.to_string())
    }
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Not an answer to this question: forged, late, or rubbish. To be ignored.
    NotOurs,
    /// It did not fit: to be asked again by TCP.
    Truncated,
    /// The server could not or would not; `edns` says whether it understood EDNS.
    Refused { code: ResponseCode, edns: bool },
    /// The answer contradicts itself, loops, or is a referral to somebody else.
    Unusable(&'static str),
    /// A CNAME led to a name that this answer says nothing about.
    GoOn { next: Name, facts: Facts },
    /// The end of the chain.
    Definite { data: Data, facts: Facts },
}

/// What holds for an answer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Seconds for which it may be kept.
    pub(super) ttl: u32,
    /// The AD bit as it stands.
    pub(super) authentic: bool,
}

/// The records asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Mx(Found<MxRecord>),
    Addresses(Found<IpAddr>),
    Tlsa(Found<Tlsa>),
    /// The strings of each record joined (RFC 7208 §3.3, RFC 8461 §3.1).
    Txt(Found<Vec<u8>>),
}

impl Data {
    /// Whether there are none.
    pub(super) fn is_missing(&self) -> bool {
        matches!(
            self,
            Data::Mx(Found::Missing(_))
                | Data::Addresses(Found::Missing(_))
                | Data::Tlsa(Found::Missing(_))
                | Data::Txt(Found::Missing(_))
        )
    }
}

/// The names passed so far, the one asked for first, the latest last.
#[derive(Clone, Debug)]
pub(super) struct Chain(Vec<Name>);

impl Chain {
    pub(super) fn new(name: Name) -> Chain {
        Chain(vec![name])
    }

    /// The name at its end.
    pub(super) fn end(&self) -> &Name {
        self.0.last().expect("a chain begins with a name")
    }

    /// How many CNAMEs were followed.
    pub(super) fn steps(&self) -> usize {
        self.0.len() - 1
    }

    fn follow(&mut self, target: &Name) -> Result<(), &'static str> {
        if self.0.contains(target) {
            return Err("CNAME loop");
        }
        if self.steps() == MAX_CNAMES {
            return Err("too many CNAMEs");
        }
        self.0.push(target.clone());
        Ok(())
    }
}

/// Reads `bytes` as the answer to `question`, which asks for the end of `chain`; CNAMEs in it make the chain longer.
pub(super) fn read(bytes: &[u8], question: &Question, chain: &mut Chain) -> Reply {
    let Some(message) = parse(bytes, question.id) else {
        return Reply::NotOurs;
    };
    let code = message.metadata.response_code;
    let asked = match message.queries.as_slice() {
        [query] => {
            query.name() == &question.name
                && query.query_type() == question.kind
                && query.query_class() == DNSClass::IN
        }
        // Servers that know nothing of EDNS may send back the bare header.
        [] => matches!(code, ResponseCode::FormErr | ResponseCode::NotImp),
        _ => false,
    };
    if !asked {
        return Reply::NotOurs;
    }
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Reply::Refused {
            code,
            edns: message.edns.is_some(),
        };
    }
    if message.metadata.truncation {
        return Reply::Truncated;
    }
    match walk(&message, question, chain) {
        Ok(reply) => reply,
        Err(why) => Reply::Unusable(why),
    }
}

/// A response with this id, if the bytes are one at all.
fn parse(bytes: &[u8], id: u16) -> Option<Message> {
    // Looked at before anything is allocated: id, the QR bit and opcode 0, at most one question.
    let header = bytes.get(..12)?;
    let ours = header[..2] == id.to_be_bytes()
        && header[2] & 0xf8 == 0x80
        && header[4] == 0
        && header[5] <= 1;
    if !ours {
        return None;
    }
    // The parser is meant to return errors; should a packet make it panic all the same, it is one to ignore (DNS-2).
    catch_unwind(AssertUnwindSafe(|| Message::from_vec(bytes)))
        .ok()?
        .ok()
}

/// Follows the chain through the answer. Records for other names than those on it are not looked at (DNS-2).
fn walk(message: &Message, question: &Question, chain: &mut Chain) -> Result<Reply, &'static str> {
    let nonexistent = message.metadata.response_code == ResponseCode::NXDomain;
    let mut ttl = u32::MAX;
    let followed = chain.steps();
    loop {
        let here = chain.end().clone();
        let of_owner = || {
            message
                .answers
                .iter()
                .filter(|record| record.dns_class == DNSClass::IN && record.name == here)
        };
        let wanted: Vec<&Record> = of_owner()
            .filter(|record| record.record_type() == question.kind)
            .collect();
        let mut cnames = of_owner().filter_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let cname = cnames.next();
        // RFC 1034 §3.6.2: where a CNAME is, no other data is, and there is only one.
        if let Some((target, _)) = cname
            && (!wanted.is_empty() || cnames.any(|(other, _)| other != target))
        {
            return Err("contradictory data beside a CNAME");
        }
        if let Some((target, cname_ttl)) = cname {
            chain.follow(target)?;
            ttl = ttl.min(sane(cname_ttl));
            continue;
        }
        let facts = |ttl| Facts {
            ttl,
            authentic: message.metadata.authentic_data,
        };
        if !wanted.is_empty() {
            if nonexistent {
                return Err("records of a name that does not exist");
            }
            for record in &wanted {
                ttl = ttl.min(sane(record.ttl));
            }
            return Ok(Reply::Definite {
                data: records(question.kind, &wanted),
                facts: facts(ttl),
            });
        }
        let negative_ttl = negative_ttl(message, &here);
        let missing = if nonexistent {
            Missing::NxDomain
        } else if negative_ttl.is_none() {
            if chain.steps() > followed {
                // The server has followed the CNAME no further.
                return Ok(Reply::GoOn {
                    next: here,
                    facts: facts(ttl),
                });
            }
            // RFC 2308 §2.2: name servers without an SOA are a referral and no answer. That is what a server says which
            // does no recursion for us.
            if message
                .authorities
                .iter()
                .any(|record| record.record_type() == RecordType::NS)
            {
                return Err("referral instead of an answer");
            }
            Missing::NoData
        } else {
            Missing::NoData
        };
        return Ok(Reply::Definite {
            data: none(question.kind, missing),
            // RFC 2308 §5: without an SOA a negative answer is not kept.
            facts: facts(ttl.min(negative_ttl.unwrap_or(0))),
        });
    }
}

/// RFC 2181 §8: a TTL with the highest bit set is 0.
fn sane(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// RFC 2308 §5: the smaller of the SOA's own TTL and its MINIMUM field; `None` without an SOA of a zone above `name`.
fn negative_ttl(message: &Message, name: &Name) -> Option<u32> {
    message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) if record.name.zone_of(name) => {
                Some(sane(record.ttl).min(sane(soa.minimum)))
            }
            _ => None,
        })
}

/// The first of the records, as facts (DNS-9).
fn records(kind: RecordType, wanted: &[&Record]) -> Data {
    match kind {
        RecordType::TLSA => {
            let records = wanted.iter().take(MAX_TLSA).filter_map(|record| {
                let RData::TLSA(tlsa) = &record.data else {
                    return None;
                };
                Some(Tlsa {
                    usage: tlsa.cert_usage.into(),
                    selector: tlsa.selector.into(),
                    matching: tlsa.matching.into(),
                    data: tlsa.cert_data.clone(),
                })
            });
            return Data::Tlsa(Found::Records(records.collect()));
        }
        RecordType::TXT => {
            let records = wanted
                .iter()
                .take(MAX_TXT)
                .filter_map(|record| match &record.data {
                    RData::TXT(txt) => Some(txt.txt_data.concat()),
                    _ => None,
                });
            return Data::Txt(Found::Records(records.collect()));
        }
        _ => {}
    }
    if kind == RecordType::MX {
        let records = wanted
            .iter()
            .take(MAX_MX_RECORDS)
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some(MxRecord {
                    preference: mx.preference,
                    exchange: text(&mx.exchange),
                }),
                _ => None,
            });
        return Data::Mx(Found::Records(records.collect()));
    }
    let addresses = wanted
        .iter()
        .take(MAX_ADDRESSES)
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
    Data::Addresses(Found::Records(addresses.collect()))
}

fn none(kind: RecordType, missing: Missing) -> Data {
    match kind {
        RecordType::MX => Data::Mx(Found::Missing(missing)),
        RecordType::TLSA => Data::Tlsa(Found::Missing(missing)),
        RecordType::TXT => Data::Txt(Found::Missing(missing)),
        _ => Data::Addresses(Found::Missing(missing)),
    }
}

/// Presentation form, lower case, without the trailing dot; empty for the root. Odd bytes are escaped, so that they
/// never make a valid host name.
pub(super) fn text(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{CNAME, MX};
    use proptest::prelude::*;

    use super::*;

    fn question() -> Question {
        Question {
            id: 0x1234,
            name: Name::from_labels(["dest", "example"].map(str::as_bytes)).unwrap(),
            kind: RecordType::MX,
        }
    }

    /// A good answer by way of a CNAME.
    fn good() -> Vec<u8> {
        let question = question();
        let real = Name::from_labels(["real", "example"].map(str::as_bytes)).unwrap();
        let mut answer = Message::response(question.id, OpCode::Query);
        answer.add_query(Query::query(question.name.clone(), question.kind));
        answer.add_answer(Record::from_rdata(
            question.name,
            300,
            RData::CNAME(CNAME(real.clone())),
        ));
        answer.add_answer(Record::from_rdata(
            real.clone(),
            300,
            RData::MX(MX::new(10, real)),
        ));
        answer.to_vec().unwrap()
    }

    fn read_fresh(bytes: &[u8]) -> Reply {
        read(bytes, &question(), &mut Chain::new(question().name))
    }

    #[test]
    fn the_good_answer_is_understood() {
        let mut chain = Chain::new(question().name);
        let reply = read(&good(), &question(), &mut chain);
        let Reply::Definite { data, facts } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!((chain.steps(), facts.ttl), (1, 300));
        assert_eq!(
            data,
            Data::Mx(Found::Records(vec![MxRecord {
                preference: 10,
                exchange: "real.example".to_string()
            }]))
        );
    }

    // DNS-2
    #[test]
    fn an_answer_that_ends_early_is_ignored() {
        let good = good();
        for end in 0..good.len() {
            assert_eq!(read_fresh(&good[..end]), Reply::NotOurs, "{end}");
        }
    }

    // DNS-2
    #[test]
    fn a_query_that_comes_back_is_no_answer() {
        assert_eq!(
            read_fresh(&question().to_bytes(true).unwrap()),
            Reply::NotOurs
        );
    }

    // DV-5: bytes that no host name has stay visible as such.
    #[test]
    fn odd_bytes_in_names_are_escaped() {
        let odd = Name::from_labels([&b"a.b"[..], &b"c\0d"[..], &b"EXAMPLE"[..]]).unwrap();
        let text = text(&odd);
        assert!(text.contains('\\') && text.ends_with(".example"), "{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        // DNS-2, SEC-6
        #[test]
        fn random_bytes_never_panic_and_are_ignored(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read_fresh(&bytes);
            let mut ours = vec![0x12, 0x34, 0x81, 0x80, 0, 1];
            ours.extend(bytes);
            read_fresh(&ours);
        }

        // DNS-2, SEC-6
        #[test]
        fn a_good_answer_with_bytes_changed_never_panics(
            changes in prop::collection::vec((2_usize..80, any::<u8>()), 1..6)
        ) {
            let mut bytes = good();
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            read_fresh(&bytes);
        }
    }
}
