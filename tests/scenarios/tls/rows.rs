//! The table. See `table` for the words. In each row somebody listens on the path to each host (SEC-8).

use super::table::run;

// TLS-1, TLS-2, TLS-3, TLS-4, TLS-8, TLS-10, SEC-8, CFG-18
#[test]
fn nothing_but_the_operators_words() {
    run("
    # dns      | policy                        | message | server  | certificate | happens                   | required                | reported
    # Opportunistic: any certificate will do, and clear text follows where TLS fails.
    insecure   | -                             | -       | clear   | -           | sent plain dials=1        | opportunistic           | starttls-not-supported
    insecure   | -                             | -       | tls     | good        | sent verified dials=1     | opportunistic           | ok
    insecure   | -                             | -       | tls1.2  | good        | sent verified dials=1     | opportunistic           | ok
    insecure   | -                             | -       | tls     | self        | sent encrypted            | opportunistic           | ok
    insecure   | -                             | -       | tls     | expired     | sent encrypted            | opportunistic           | ok
    insecure   | -                             | -       | tls     | other       | sent encrypted            | opportunistic           | ok
    insecure   | -                             | -       | 454     | good        | sent plain dials=2        | opportunistic           | validation-failure
    insecure   | -                             | -       | 502     | good        | sent plain dials=2        | opportunistic           | validation-failure
    insecure   | -                             | -       | broken  | good        | sent plain dials=2        | opportunistic           | validation-failure
    insecure   | -                             | -       | rubbish | good        | sent plain dials=2        | opportunistic           | validation-failure
    insecure   | -                             | -       | tls1.1  | good        | sent plain dials=2        | opportunistic           | validation-failure
    insecure   | -                             | -       | rejects | good        | sent plain dials=2        | opportunistic           | validation-failure
    insecure   | min_version=1.3               | -       | tls1.2  | good        | sent plain dials=2        | opportunistic           | validation-failure
    # An attack is no failure of TLS.
    insecure   | -                             | -       | inject  | good        | later 4.7.5 dials=1       | opportunistic           | -
    # Clear text is not permitted.
    insecure   | fallback=false                | -       | clear   | -           | sent plain dials=1        | opportunistic           | starttls-not-supported
    insecure   | fallback=false                | -       | 454     | good        | later 4.7.5 dials=1       | opportunistic           | validation-failure
    insecure   | fallback=false                | -       | broken  | good        | later 4.7.5 dials=1       | opportunistic           | validation-failure
    insecure   | fallback=false                | -       | rejects | good        | later 4.7.5 dials=1       | opportunistic           | validation-failure
    # tls.level
    insecure   | level=none                    | -       | tls     | good        | sent plain dials=1        | none:tls.level          | -
    insecure   | level=encrypt                 | -       | tls     | self        | sent encrypted            | encrypt:tls.level       | ok
    insecure   | level=encrypt                 | -       | clear   | -           | later 4.7.4 dials=1       | encrypt:tls.level       | starttls-not-supported
    insecure   | level=encrypt                 | -       | 454     | good        | later 4.7.5 dials=1       | encrypt:tls.level       | validation-failure
    insecure   | level=encrypt                 | -       | 502     | good        | later 4.7.5 dials=1       | encrypt:tls.level       | validation-failure
    insecure   | level=encrypt                 | -       | broken  | good        | later 4.7.5 dials=1       | encrypt:tls.level       | validation-failure
    insecure   | level=encrypt                 | -       | rejects | good        | later 4.7.5 dials=1       | encrypt:tls.level       | validation-failure
    insecure   | level=encrypt                 | -       | inject  | good        | later 4.7.5 dials=1       | encrypt:tls.level       | -
    # A host that will not do gives way to the next, and the last one's words count.
    insecure   | level=encrypt                 | -       | clear / tls    | - / self         | sent encrypted host2 dials=2  | encrypt:tls.level  | starttls-not-supported ok
    insecure   | level=verify                  | -       | tls / tls      | self / good      | sent verified host2 dials=2   | verify:tls.level   | ok ok
    insecure   | level=verify                  | -       | tls / clear    | self / -         | later 4.7.4 host2 dials=2     | verify:tls.level   | ok starttls-not-supported
    # No TLS because nobody can connect says nothing about TLS.
    insecure   | level=encrypt                 | -       | gone    | good        | later 4.4.2               | encrypt:tls.level       | -
    ");
}

// TLS-3, TLS-11, SEC-8
#[test]
fn verification_by_name() {
    run("
    # dns      | policy             | message | server  | certificate | happens                   | required                | reported
    insecure   | level=verify       | -       | tls     | good        | sent verified             | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | wildcard    | sent verified             | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | self        | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | stranger    | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | expired     | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | early       | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | other       | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | common      | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | tls     | nexthop     | later 4.7.5 dials=1       | verify:tls.level        | ok
    insecure   | level=verify       | -       | clear   | -           | later 4.7.4 dials=1       | verify:tls.level        | starttls-not-supported
    ");
}

// TLS-7, SEC-8
#[test]
fn rows_of_tls_policy() {
    run("
    # dns          | policy                                         | message | server  | certificate | happens              | required                       | reported
    insecure       | row=none                                       | -       | tls     | good        | sent plain dials=1   | none:tls_policy                | -
    secure 3.1.1=own | row=none                                     | -       | tls     | good        | sent plain dials=1   | none:tls_policy                | -
    insecure       | row=encrypt                                    | -       | clear   | -           | later 4.7.4          | encrypt:tls_policy             | starttls-not-supported
    insecure       | row=encrypt                                    | -       | tls     | self        | sent encrypted       | encrypt:tls_policy             | ok
    insecure       | row=verify                                     | -       | tls     | good        | sent verified        | verify:tls_policy              | ok
    insecure       | row=verify:mail.partner.test                   | -       | tls     | partner     | sent verified        | verify:tls_policy              | ok
    insecure       | row=verify:mail.partner.test                   | -       | tls     | good        | later 4.7.5          | verify:tls_policy              | ok
    insecure       | row=dane                                       | -       | tls     | good        | later 4.7.5 dials=0  | -                              | dane-required
    secure         | row=dane                                       | -       | tls     | good        | later 4.7.5 dials=0  | -                              | dane-required
    secure 3.1.1=own | row=dane                                     | -       | tls     | self        | sent dane            | dane:tls_policy+dane           | ok
    # It stands in the place of tls.level, memory and MTA-STS.
    insecure       | level=verify row=opportunistic                 | -       | tls     | self        | sent encrypted       | opportunistic:tls_policy       | ok
    insecure       | was=encrypted row=opportunistic                | -       | clear   | -           | sent plain           | opportunistic:tls_policy       | starttls-not-supported
    insecure       | was=verified memory=verification row=encrypt   | -       | tls     | self        | sent encrypted       | encrypt:tls_policy             | ok
    insecure       | sts=enforce:x.test row=encrypt                 | -       | tls     | self        | sent encrypted       | encrypt:tls_policy             | ok
    insecure       | sts=unknown row=opportunistic                  | -       | tls     | self        | sent encrypted       | opportunistic:tls_policy       | ok
    # But not in that of DANE.
    secure 3.1.1=stranger | row=opportunistic                       | -       | tls     | good        | later 4.7.5 dials=1  | dane:tls_policy+dane           | tlsa-invalid
    # The first row holds.
    insecure       | row=opportunistic row=none                     | -       | tls     | good        | sent verified        | opportunistic:tls_policy       | ok
    ");
}

// TLS-5, TLS-6, SEC-8
#[test]
fn memory() {
    run("
    # dns      | policy                               | message | server  | certificate | happens              | required            | reported
    insecure   | was=encrypted                        | -       | tls     | self        | sent encrypted       | encrypt:memory      | ok
    insecure   | was=encrypted                        | -       | clear   | -           | later 4.7.4 dials=1  | encrypt:memory      | starttls-not-supported
    insecure   | was=encrypted                        | -       | 454     | good        | later 4.7.5 dials=1  | encrypt:memory      | validation-failure
    insecure   | was=encrypted                        | -       | broken  | good        | later 4.7.5 dials=1  | encrypt:memory      | validation-failure
    insecure   | was=verified                         | -       | tls     | self        | sent encrypted       | encrypt:memory      | ok
    insecure   | was=verified memory=verification     | -       | tls     | self        | later 4.7.5 dials=1  | verify:memory       | ok
    insecure   | was=verified memory=verification     | -       | tls     | good        | sent verified        | verify:memory       | ok
    insecure   | was=encrypted memory=verification    | -       | tls     | self        | sent encrypted       | encrypt:memory      | ok
    insecure   | was=verified memory=off              | -       | clear   | -           | sent plain           | opportunistic       | starttls-not-supported
    insecure   | was=encrypted:179                    | -       | clear   | -           | later 4.7.4          | encrypt:memory      | starttls-not-supported
    insecure   | was=encrypted:180                    | -       | clear   | -           | sent plain           | opportunistic       | starttls-not-supported
    # DANE is more than a name.
    secure 3.1.1=own | was=verified memory=verification | -     | tls     | self        | sent dane            | dane:dane           | ok
    ");
}

// DANE-1, DANE-2, DANE-3, DANE-4, DANE-5, DANE-6, DNS-8, TLS-14, SEC-8
#[test]
fn dane() {
    run("
    # dns                               | policy     | message | server  | certificate | happens             | required       | reported
    # Only what is authentic counts.
    insecure 3.1.1=stranger             | -          | -       | tls     | self        | sent encrypted      | opportunistic  | ok
    mx-insecure 3.1.1=stranger          | -          | -       | tls     | self        | sent encrypted      | opportunistic  | ok
    host-insecure 3.1.1=stranger        | -          | -       | tls     | self        | sent encrypted      | opportunistic  | ok
    rrset-insecure 3.1.1=stranger       | -          | -       | tls     | self        | sent encrypted      | opportunistic  | ok
    secure 3.1.1=stranger               | dane=false | -       | tls     | self        | sent encrypted      | opportunistic  | ok
    secure                              | -          | -       | clear   | -           | sent plain          | opportunistic  | starttls-not-supported
    secure truncated 3.1.1=own          | -          | -       | tls     | self        | sent dane           | dane:dane      | ok
    # Usage 3: name, date and issuer do not matter.
    secure 3.1.1=own                    | -          | -       | tls     | self        | sent dane           | dane:dane      | ok
    secure 3.1.2=own                    | -          | -       | tls     | expired     | sent dane           | dane:dane      | ok
    secure 3.1.0=own                    | -          | -       | tls     | other       | sent dane           | dane:dane      | ok
    secure 3.0.1=own                    | -          | -       | tls     | stranger    | sent dane           | dane:dane      | ok
    secure 3.0.0=own                    | -          | -       | tls1.2  | self        | sent dane           | dane:dane      | ok
    secure 3.1.1=stranger 3.1.1=own     | -          | -       | tls     | good        | sent dane           | dane:dane      | ok
    secure 3.1.1=stranger               | -          | -       | tls     | good        | later 4.7.5 dials=1 | dane:dane      | tlsa-invalid
    secure 3.1.1=root                   | -          | -       | tls     | good        | later 4.7.5 dials=1 | dane:dane      | tlsa-invalid
    # Usage 2: an authority of the chain, a date and a name.
    secure 2.0.1=root                   | -          | -       | tls     | good        | sent dane           | dane:dane      | ok
    secure 2.1.1=middle                 | -          | -       | tls     | good        | sent dane           | dane:dane      | ok
    secure 2.1.2=stranger               | -          | -       | tls     | stranger    | sent dane           | dane:dane      | ok
    secure 2.0.1=root                   | -          | -       | tls     | nexthop     | sent dane           | dane:dane      | ok
    secure 2.0.1=root                   | -          | -       | tls     | other       | later 4.7.5 dials=1 | dane:dane      | certificate-host-mismatch
    secure 2.0.1=root                   | -          | -       | tls     | expired     | later 4.7.5 dials=1 | dane:dane      | certificate-expired
    secure 2.0.1=stranger               | -          | -       | tls     | good        | later 4.7.5 dials=1 | dane:dane      | tlsa-invalid
    # Unusable records alone: TLS, with anybody.
    secure 1.1.1=own                    | -          | -       | tls     | self        | sent encrypted      | encrypt:dane   | ok
    secure 3.1.1=short                  | -          | -       | tls     | self        | sent encrypted      | encrypt:dane   | ok
    secure 3.1.9=own                    | -          | -       | clear   | -           | later 4.7.4 dials=1 | encrypt:dane   | starttls-not-supported
    secure 0.0.1=own 3.1.1=stranger     | -          | -       | tls     | good        | later 4.7.5         | dane:dane      | tlsa-invalid
    # Never without TLS.
    secure 3.1.1=own                    | -          | -       | clear   | -           | later 4.7.4 dials=1 | dane:dane      | starttls-not-supported
    secure 3.1.1=own                    | -          | -       | 454     | good        | later 4.7.5 dials=1 | dane:dane      | validation-failure
    secure 3.1.1=own                    | -          | -       | broken  | good        | later 4.7.5 dials=1 | dane:dane      | validation-failure
    secure 3.1.1=own                    | -          | -       | rejects | good        | later 4.7.5 dials=1 | dane:dane      | validation-failure
    secure servfail                     | -          | -       | tls     | good        | later 4.7.5 dials=0 | -              | dnssec-invalid
    # The end of the chain of CNAMEs first, then the name it begins with.
    alias 3.1.1=own                     | -          | -       | tls     | self        | sent dane           | dane:dane      | ok
    alias 3.1.1=own@alias               | -          | -       | tls     | self        | sent dane           | dane:dane      | ok
    alias 3.1.1=own 3.1.1=stranger@alias | -         | -       | tls     | self        | sent dane           | dane:dane      | ok
    alias 3.1.1=stranger 3.1.1=own@alias | -         | -       | tls     | self        | later 4.7.5         | dane:dane      | tlsa-invalid
    alias 2.0.1=root                    | -          | -       | tls     | real        | sent dane           | dane:dane      | ok
    # A host that fails gives way to the next.
    secure 3.1.1=stranger 3.1.1=own@2   | -          | -       | tls / tls  | good / self | sent dane host2 dials=2 | dane:dane     | tlsa-invalid ok
    secure servfail                     | -          | -       | tls / tls  | good / good | sent verified host2 dials=1 | opportunistic | dnssec-invalid ok
    ");
}

// STS-7, STS-8, STS-9, STS-3, DANE-6, SEC-8
#[test]
fn mta_sts() {
    run("
    # dns                  | policy                                | message | server  | certificate | happens             | required              | reported
    insecure               | sts=enforce:mx1.dest.test             | -       | tls     | good        | sent verified       | verify:mta-sts        | ok
    insecure               | sts=enforce:*.dest.test               | -       | tls     | wildcard    | sent verified       | verify:mta-sts        | ok
    insecure               | sts=enforce:*.test                    | -       | tls     | good        | later 4.7.5 dials=0 | -                     | validation-failure
    insecure               | sts=enforce:mx1.dest.test             | -       | tls     | self        | later 4.7.5 dials=1 | verify:mta-sts        | certificate-not-trusted
    insecure               | sts=enforce:mx1.dest.test             | -       | tls     | expired     | later 4.7.5 dials=1 | verify:mta-sts        | certificate-expired
    insecure               | sts=enforce:mx1.dest.test             | -       | tls     | other       | later 4.7.5 dials=1 | verify:mta-sts        | certificate-host-mismatch
    insecure               | sts=enforce:mx1.dest.test             | -       | clear   | -           | later 4.7.4 dials=1 | verify:mta-sts        | starttls-not-supported
    insecure               | sts=enforce:mx1.dest.test             | -       | 502     | good        | later 4.7.5 dials=1 | verify:mta-sts        | validation-failure
    insecure               | sts=enforce:mx2.dest.test             | -       | tls / tls | good / good | sent verified host2 dials=1 | verify:mta-sts | validation-failure ok
    insecure               | sts=testing:mx1.dest.test             | -       | tls     | self        | sent encrypted      | opportunistic         | certificate-not-trusted
    insecure               | sts=testing:other.test                | -       | tls     | good        | sent verified       | opportunistic         | validation-failure
    insecure               | sts=testing:mx1.dest.test             | -       | clear   | -           | sent plain          | opportunistic         | starttls-not-supported
    insecure               | sts=none:other.test                   | -       | tls     | self        | sent encrypted      | opportunistic         | ok
    insecure               | sts=unknown                           | -       | tls     | good        | later 4.4.3 dials=0 | -                     | -
    # Beside DANE: neither rescues the other.
    secure 3.1.1=stranger  | sts=enforce:mx1.dest.test             | -       | tls     | good        | later 4.7.5         | dane:mta-sts+dane     | tlsa-invalid
    secure 3.1.1=own       | sts=enforce:mx1.dest.test             | -       | tls     | self        | later 4.7.5         | dane:mta-sts+dane     | ok
    secure 3.1.1=own       | sts=enforce:mx1.dest.test             | -       | tls     | good        | sent dane           | dane:mta-sts+dane     | ok
    secure servfail        | sts=enforce:mx1.dest.test             | -       | tls     | good        | later 4.7.5 dials=0 | -                     | dnssec-invalid
    ");
}

// TLS-12, TLS-13, SEC-8
#[test]
fn what_the_sender_asks_for() {
    run("
    # dns                  | policy                          | message         | server         | certificate | happens              | required                             | reported
    insecure               | -                               | requiretls      | tls+requiretls | good        | failed 5.7.30 dials=0 | -                                   | -
    insecure               | row=verify                      | requiretls      | tls+requiretls | good        | failed 5.7.30 dials=0 | -                                   | -
    insecure               | sts=testing:mx1.dest.test       | requiretls      | tls+requiretls | good        | failed 5.7.30 dials=0 | -                                   | -
    secure 1.1.1=own       | -                               | requiretls      | tls+requiretls | good        | failed 5.7.30 dials=0 | -                                   | -
    insecure               | sts=enforce:mx1.dest.test       | requiretls      | tls+requiretls | good        | sent verified         | verify:mta-sts+requiretls           | ok
    secure 3.1.1=own       | -                               | requiretls      | tls+requiretls | self        | sent dane             | dane:dane+requiretls                | ok
    secure 3.1.1=own       | row=none                        | requiretls      | tls+requiretls | self        | sent dane             | dane:tls_policy+dane+requiretls     | ok
    insecure               | sts=enforce:mx1.dest.test       | requiretls      | tls            | good        | failed 5.7.30         | verify:mta-sts+requiretls           | ok
    insecure               | sts=enforce:mx1.dest.test       | requiretls      | tls+requiretls | self        | later 4.7.5           | verify:mta-sts+requiretls           | certificate-not-trusted
    insecure               | sts=enforce:mx1.dest.test       | requiretls      | clear          | -           | later 4.7.4           | verify:mta-sts+requiretls           | starttls-not-supported
    insecure               | sts=enforce:x.test              | requiretls      | tls+requiretls | good        | later 4.7.5 dials=0   | -                                   | validation-failure
    insecure               | sts=enforce:*.dest.test         | requiretls      | tls / tls+requiretls | good / good | sent verified host2 | verify:mta-sts+requiretls        | ok ok
    insecure               | sts=unknown                     | requiretls      | tls+requiretls | good        | later 4.4.3 dials=0   | -                                   | -
    # TLS-Required: No
    insecure               | sts=enforce:x.test              | tls-required-no | tls            | self        | sent encrypted        | opportunistic:tls-required-no       | ok
    insecure               | sts=unknown                     | tls-required-no | clear          | -           | sent plain            | opportunistic:tls-required-no       | starttls-not-supported
    secure 3.1.1=stranger  | -                               | tls-required-no | tls            | self        | sent encrypted        | opportunistic:tls-required-no       | ok
    secure servfail        | -                               | tls-required-no | clear          | -           | sent plain            | opportunistic:tls-required-no       | starttls-not-supported
    insecure               | was=verified memory=verification | tls-required-no | clear         | -           | sent plain            | opportunistic:tls-required-no       | starttls-not-supported
    insecure               | -                               | tls-required-no | broken         | good        | sent plain dials=2    | opportunistic:tls-required-no       | validation-failure
    insecure               | row=encrypt                     | tls-required-no | clear          | -           | later 4.7.4           | encrypt:tls_policy+tls-required-no  | starttls-not-supported
    insecure               | level=encrypt                   | tls-required-no | clear          | -           | later 4.7.4           | encrypt:tls.level+tls-required-no   | starttls-not-supported
    ");
}
