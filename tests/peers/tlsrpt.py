"""Reads TLS reports strictly by RFC 8460, without a word of posthaste's own.

tlsrpt.py read FILE                               checks a report and prints it in lines
tlsrpt.py mail FILE                               checks a report by mail, writes what it brings to FILE.gz
"""

import datetime
import email
import email.policy
import ipaddress
import json
import pathlib
import re
import subprocess
import sys

# RFC 8460 §4.3
KINDS = {
    "starttls-not-supported", "certificate-host-mismatch", "certificate-not-trusted", "certificate-expired",
    "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
    "sts-policy-invalid", "sts-webpki-invalid",
}
FILENAME = re.compile(r"([a-z0-9.-]+)!([a-z0-9.-]+)!(\d+)!(\d+)(![A-Za-z0-9]+)?\.json\.gz")


def of(value, kind, what):
    assert isinstance(value, kind) and not isinstance(value, bool), f"{what}: {value!r}"
    return value


def members(value, what, needed, allowed=()):
    of(value, dict, what)
    assert set(needed) <= set(value) <= set(needed) | set(allowed), f"{what}: {sorted(value)}"
    return value


def once(pairs):
    """RFC 8259 §4: names are unique, and here they are."""
    found = dict(pairs)
    assert len(found) == len(pairs), f"a name twice: {pairs}"
    return found


def time(text, what):
    """RFC 3339 §5.6"""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", of(text, str, what)), f"{what}: {text}"
    return datetime.datetime.fromisoformat(text)


def read(file):
    unpacked = subprocess.run(["gzip", "-dc"], stdin=open(file, "rb"), check=True, capture_output=True).stdout
    report = json.loads(unpacked.decode("utf-8"), object_pairs_hook=once)
    members(report, "report", ["organization-name", "date-range", "contact-info", "report-id", "policies"])
    for key in ("organization-name", "contact-info", "report-id"):
        assert of(report[key], str, key)
    assert re.fullmatch(r"[^@\s]+@[^@\s]+", report["contact-info"]), report["contact-info"]
    days = members(report["date-range"], "date-range", ["start-datetime", "end-datetime"])
    start, end = time(days["start-datetime"], "start"), time(days["end-datetime"], "end")
    # §4.1: a full UTC day.
    assert (start.hour, start.minute, start.second) == (0, 0, 0), start
    assert end - start == datetime.timedelta(seconds=86_399), (start, end)
    print(f"organization={report['organization-name']} contact={report['contact-info']} id={report['report-id']}")
    assert of(report["policies"], list, "policies"), "no policies"
    for one in report["policies"]:
        read_policy(members(one, "policies", ["policy", "summary"], ["failure-details"]))
    return report


def read_policy(one):
    policy = members(one["policy"], "policy", ["policy-type", "policy-domain"], ["policy-string", "mx-host"])
    kind = policy["policy-type"]
    assert kind in ("tlsa", "sts", "no-policy-found"), kind
    for key in ("policy-string", "mx-host"):
        for text in of(policy.get(key, []), list, key):
            of(text, str, key)
    assert kind != "no-policy-found" or "policy-string" not in policy, policy
    summary = members(
        one["summary"], "summary", ["total-successful-session-count", "total-failure-session-count"]
    )
    good, bad = (of(count, int, key) for key, count in summary.items())
    lines = ",".join(policy.get("policy-string", []))
    print(f"policy={kind} domain={policy['policy-domain']} good={good} bad={bad} words={lines}")
    sum_of_details = 0
    for failure in of(one.get("failure-details", []), list, "failure-details"):
        members(
            failure,
            "failure",
            ["result-type", "failed-session-count"],
            ["sending-mta-ip", "receiving-mx-hostname", "receiving-mx-helo", "receiving-ip",
             "additional-information", "failure-reason-code"],
        )
        assert failure["result-type"] in KINDS, failure
        for key in ("sending-mta-ip", "receiving-ip"):
            if key in failure:
                ipaddress.ip_address(failure[key])
        count = of(failure["failed-session-count"], int, "failed-session-count")
        assert count > 0
        sum_of_details += count
        host, helo = failure.get("receiving-mx-hostname", "-"), failure.get("receiving-mx-helo", "-")
        print(f"failure={failure['result-type']} host={host} helo={helo} count={count}")
    assert sum_of_details == bad, (sum_of_details, bad)


def mail(file):
    """§5.3"""
    message = email.message_from_bytes(pathlib.Path(file).read_bytes(), policy=email.policy.SMTP)
    domain, submitter = message["TLS-Report-Domain"], message["TLS-Report-Submitter"]
    assert message.get_content_type() == "multipart/report" and message.get_param("report-type") == "tlsrpt"
    subject = re.fullmatch(r"Report Domain: (\S+)\s+Submitter: (\S+)\s+Report-ID: <([^<>\s]+)>", message["Subject"])
    assert subject and subject.groups()[:2] == (domain, submitter), message["Subject"]
    assert message["TLS-Required"] == "No" and message["Return-Path"] == "<>", message.items()
    words, part = message.iter_parts()
    assert words.get_content_type() == "text/plain", words
    assert part.get_content_type() == "application/tlsrpt+gzip", part
    name = FILENAME.fullmatch(part.get_filename())
    assert name and name.groups()[:2] == (submitter, domain), part.get_filename()
    assert not message.defects and not part.defects, (message.defects, part.defects)
    pathlib.Path(file + ".gz").write_bytes(part.get_content())
    report = read(file + ".gz")
    assert report["report-id"] == subject.group(3)
    start = datetime.datetime.fromisoformat(report["date-range"]["start-datetime"])
    assert int(name.group(3)) == start.timestamp(), name.groups()
    print(f"mail domain={domain} submitter={submitter} from={message['From'].addresses[0].addr_spec}")


{"read": read, "mail": mail}[sys.argv[1]](*sys.argv[2:])
