//! Finds the SubjectPublicKeyInfo in a certificate: the octets as they were sent, which is what TLSA selector 1 is about
//! (RFC 6698 §2.1.2). Writing a parsed key anew may give others.

/// The SubjectPublicKeyInfo of a certificate in DER; `None` if it is no certificate.
pub(super) fn find(certificate: &[u8]) -> Option<&[u8]> {
    // RFC 5280 §4.1: Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version, serialNumber, signature, issuer,
    // validity, subject, subjectPublicKeyInfo, .. }, .. }
    let (certificate, _) = element(certificate)?;
    let (to_be_signed, _) = element(certificate.content)?;
    let mut rest = to_be_signed.content;
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.1;
    }
    for _ in 0..5 {
        rest = element(rest)?.1;
    }
    let (found, _) = element(rest)?;
    (found.tag == 0x30).then_some(found.whole)
}

struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
}

/// The first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, after_tag) = bytes.split_first()?;
    let (&first, after_first) = after_tag.split_first()?;
    let (length, header) = match first {
        0..=0x7f => (usize::from(first), 2),
        // DER: at least as many octets as are needed; four are more than a certificate message holds.
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let octets = after_first.get(..count)?;
            let length = octets
                .iter()
                .fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
            (length, 2 + count)
        }
        _ => return None,
    };
    let end = header.checked_add(length)?;
    let whole = bytes.get(..end)?;
    let element = Element {
        tag,
        whole,
        content: &whole[header..],
    };
    Some((element, &bytes[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        // DANE-5, SEC-6
        #[test]
        fn random_bytes_never_panic_and_what_is_found_is_a_part_of_them(
            bytes in prop::collection::vec(prop_oneof![Just(0x30), Just(0xa0), 0_u8..9, any::<u8>()], 0..80)
        ) {
            if let Some(found) = find(&bytes) {
                prop_assert!(bytes.windows(found.len()).any(|part| part == found));
            }
        }
    }

    // DANE-5
    #[test]
    fn rubbish_has_no_key() {
        for rubbish in [
            &b""[..],
            b"\x30",
            b"\x30\x80",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x03\x30\x01\x02",
            b"\x30\x85\0\0\0\0\x01",
        ] {
            assert_eq!(find(rubbish), None);
        }
    }
}
