//! What a file may say, and the line that each fault is told with.

use std::path::Path;

use crate::config::{Config, settings};
use crate::testing::TempDir;

fn parse(text: &str) -> Result<Config, String> {
    let text = format!("hostname = \"here.example\"\n{text}");
    Config::parse(&text, Path::new("f.toml")).map_err(|error| error.to_string())
}

// CFG-1
#[test]
fn every_fault_is_one_line_with_file_line_key_and_reason() {
    for (text, line) in [
        ("workres = 3", "f.toml:2: workres: unknown key"),
        ("[queue]\npth = \"/q\"", "f.toml:3: queue.pth: unknown key"),
        ("[nonsense]\na = 1", "f.toml:2: nonsense: unknown key"),
        (
            "workers = \"3\"",
            "f.toml:2: workers: the string \"3\" was found",
        ),
        (
            "workers = 0",
            "f.toml:2: workers: 0 is not within 1 to 10000",
        ),
        ("workers = -1", "f.toml:2: workers: -1 is out of range"),
        (
            "[retry]\nlifetime = 5",
            "f.toml:3: retry.lifetime: the number 5 was found",
        ),
        (
            "[retry]\nlifetime = \"5\"",
            "f.toml:3: retry.lifetime: \"5\": a number without",
        ),
        (
            "[retry]\nintervals = [\n\"1m\",\n\"-1m\"]",
            "f.toml:5: retry.intervals: \"-1m\"",
        ),
        (
            "[retry]\nintervals = []",
            "f.toml:3: retry.intervals: at least one",
        ),
        (
            "[retry]\njitter = 0.6",
            "f.toml:3: retry.jitter: 0.6 is not within",
        ),
        (
            "[retry]\ndelay_notices = [\"2h\", \"1h\"]",
            "f.toml:3: retry.delay_notices: the ages must rise",
        ),
        (
            "[intake]\nmax_recipients = 99",
            "f.toml:3: intake.max_recipients: 99 is not",
        ),
        (
            "[deliver]\nfamily = \"ipv6\"",
            "f.toml:3: deliver.family: \"ipv6\" is not one of",
        ),
        (
            "[deliver]\nhelo = \"192.0.2.1\"",
            "f.toml:3: deliver.helo: \"192.0.2.1\"",
        ),
        (
            "[dns]\nservers = [\"ns.example\"]",
            "f.toml:3: dns.servers: \"ns.example\": not IP",
        ),
        (
            "[dns]\ntrusted = [\"unix\"]",
            "f.toml:3: dns.trusted: \"unix\"",
        ),
        ("[log]\nto = \"log\"", "f.toml:3: log.to: \"log\" is not"),
        (
            "[log]\nlevel = \"loud\"",
            "f.toml:3: log.level: \"loud\" is not",
        ),
        (
            "[control]\ntcp = \"192.0.2.1:1\"",
            "f.toml:3: control.tcp: 192.0.2.1:1 is not a loopback",
        ),
        (
            "[control]\nmode = 660",
            "f.toml:3: control.mode: the number 660 was found",
        ),
        (
            "[control]\npath = \"run/c\"",
            "f.toml:3: control.path: \"run/c\" is not an absolute",
        ),
        (
            "pid_file = \"pid\"",
            "f.toml:2: pid_file: \"pid\" is not an absolute",
        ),
        (
            "user = \"root\"",
            "f.toml:2: user: posthaste does not run as root",
        ),
        (
            "local_mail_to = \"a b\"",
            "f.toml:2: local_mail_to: \"a b\"",
        ),
        ("listen = []", "f.toml:2: listen: no listener at all"),
        (
            "[[listen]]\nname = \"a\"",
            "f.toml:2: listen[0].address: every [[listen]] needs it",
        ),
        (
            "[[listen]]\naddress = \"localhost:25\"",
            "f.toml:3: listen[0].address: \"localhost:25\"",
        ),
        (
            "[listen]\naddress = \"127.0.0.1:25\"",
            "f.toml:2: listen: must be a list of tables",
        ),
        (
            "[[queue]]\npath = \"/q\"",
            "f.toml:2: queue: must be a table",
        ),
        ("queue = 3", "f.toml:2: queue: must be a table"),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\"",
            "f.toml:5: listen[1].address: another listener has",
        ),
        (
            "[[route]]\ntransport = \"r\"",
            "f.toml:3: route[0].transport: no [[transport]]",
        ),
        (
            "[[transport]]\nname = \"direct\"\nkind = \"direct\"",
            "f.toml:3: transport[0].name: \"direct\" is built in",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\ntls = \"none\"",
            "f.toml:2: transport[0].hosts: a relay needs",
        ),
        (
            "[[transport]]\nname = \"d\"\nkind = \"direct\"\ndot_timeout = \"0s\"",
            "f.toml:5: transport[0].dot_timeout: ",
        ),
        (
            "[[transport]]\nname = \"d\"\nkind = \"direct\"\ndelay_notices = [\"2h\", \"1h\"]",
            "f.toml:5: transport[0].delay_notices: the ages must rise",
        ),
        (
            "[[transport]]\nname = \"d\"\nkind = \"direct\"\nredial = 2",
            "f.toml:5: transport[0].redial: only a relay has it",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nuser = \"u\"",
            "f.toml:2: transport[0].password: a user needs a password",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\npassword = \"p\"",
            "f.toml:2: transport[0].user: a password needs a user",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nmechanisms = [\"PLAIN\"]",
            "f.toml:6: transport[0].mechanisms: without a user",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nmechanisms = [\"plain\"]",
            "f.toml:6: transport[0].mechanisms: \"plain\" is not one of",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\ntls = \"none\"\nca_file = \"/c\"",
            "f.toml:7: transport[0].ca_file: without TLS",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nredial = 21",
            "f.toml:6: transport[0].redial: 21 is not within",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"direct\"\n[[transport]]\nname = \"r\"\nkind = \"direct\"",
            "f.toml:6: transport[1].name: a transport \"r\" is already there",
        ),
        (
            "[[transport]]\nname = \"f\"\nkind = \"fail\"\ncode = 250",
            "f.toml:5: transport[0].code: 250 is not within 400 to 599",
        ),
        (
            "[[transport]]\nname = \"f\"\nkind = \"fail\"\ntext = \"a\\nb\"",
            "f.toml:5: transport[0].text: a text is at most",
        ),
        (
            "[[transport]]\nname = \"d\"\nkind = \"discard\"\ncode = 450",
            "f.toml:5: transport[0].code: only kind \"fail\" has it",
        ),
        (
            "[[transport]]\nname = \"d\"\nkind = \"discard\"\nhelo = \"a.example\"",
            "f.toml:5: transport[0].helo: only a transport that connects",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"discard\"\ndial_timeout = \"3s\"",
            "f.toml:5: transport[0].dial_timeout: only a transport that connects",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"fail\"\nproxy = \"socks5://p.example\"",
            "f.toml:5: transport[0].proxy: only a transport that connects",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/x\"]\nproxy = \"socks5://p.example\"",
            "f.toml:6: transport[0].proxy: Unix sockets are not",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nuser = \"u\"\npassword = \"p\"\ntls = \"none\"\nmechanisms = [\"PLAIN\", \"SCRAM-SHA-1-PLUS\"]",
            "f.toml:9: transport[0].mechanisms: without verified TLS",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nuser = \"u\"\npassword = \"p\"\ndanger_accept_invalid_certs = true\nmechanisms = [\"CRAM-MD5\"]",
            "f.toml:9: transport[0].mechanisms: without verified TLS",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"fail\"\ncode = 450\ntext = \"5.7.1 no\"",
            "f.toml:6: transport[0].text: its status code begins",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"smtp://a.example\"]",
            "f.toml:5: transport[0].hosts: \"smtp://a.example\": a host is written without a scheme",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nproxy = \"socks5://\"",
            "f.toml:6: transport[0].proxy: the host of the proxy: ",
        ),
        (
            "[[route]]\nto = [\"joe@a.example\"]\ntransport = \"direct\"",
            "f.toml:3: route[0].to: \"joe@a.example\": the domain has a character that no domain has; a pattern is",
        ),
        (
            "[[route]]\ncaller = [\"uid:\"]\ntransport = \"direct\"",
            "f.toml:3: route[0].caller: \"uid:\" is no caller",
        ),
        (
            "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"mail.example\"]",
            "f.toml:5: transport[0].hosts: LMTP must not go to port 25",
        ),
        (
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"unix:/run/x\"]",
            "f.toml:5: transport[0].hosts: only LMTP goes over Unix sockets",
        ),
        (
            "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:run/x\"]",
            "f.toml:5: transport[0].hosts: \"unix:run/x\": \"run/x\" is not an absolute",
        ),
        (
            "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/x\", \"a.example:24\"]",
            "f.toml:5: transport[0].hosts: beside Unix sockets",
        ),
        (
            "[[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/x\"]\ntls = \"starttls\"",
            "f.toml:5: transport[0].hosts: beside Unix sockets",
        ),
        (
            "[tls]\nlevel = \"secure\"",
            "f.toml:3: tls.level: \"secure\" is not one of",
        ),
        (
            "[tls]\nca_file = \"ca.pem\"",
            "f.toml:3: tls.ca_file: \"ca.pem\" is not an absolute",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"starttls\"\nkey = \"/k\"",
            "f.toml:4: listen[0].tls: needs cert and key",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"implicit\"\ncert = \"/c\"",
            "f.toml:4: listen[0].tls: needs cert and key",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ncert = \"/c\"",
            "f.toml:4: listen[0].cert: needs tls",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"none\"\nkey = \"/k\"",
            "f.toml:5: listen[0].key: needs tls",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"implicit\"\ncert = \"c.pem\"\nkey = \"/k\"",
            "f.toml:5: listen[0].cert: \"c.pem\" is not an absolute",
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = \"tls\"",
            "f.toml:4: listen[0].tls: \"tls\" is not one of",
        ),
        (
            "[[tls_policy]]\nlevel = \"verify\"",
            "f.toml:2: tls_policy[0].domains: every [[tls_policy]] needs it",
        ),
        (
            "[[tls_policy]]\ndomains = []\nlevel = \"verify\"",
            "f.toml:3: tls_policy[0].domains: at least one",
        ),
        (
            "[[tls_policy]]\ndomains = [\"a.example\"]\nlevel = \"encrypt\"\nnames = [\"b.example\"]",
            "f.toml:5: tls_policy[0].names: only level",
        ),
        (
            "[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"",
            "f.toml:2: dkim[0].key: every [[dkim]] needs it",
        ),
        (
            "[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey = \"s.key\"",
            "f.toml:5: dkim[0].key: \"s.key\" is not an absolute",
        ),
        (
            "[[dkim]]\ndomain = \"a.example\"\nselector = \"s_\u{e4}..\"\nkey = \"/k\"",
            "f.toml:4: dkim[0].selector: ",
        ),
        (
            "[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey = \"/k\"\n\
             [[dkim]]\ndomain = \"A.example\"\nselector = \"S\"\nkey = \"/l\"",
            "f.toml:8: dkim[1].selector: another [[dkim]] has s._domainkey.a.example",
        ),
        ("workers = 1\nworkers = 2", "f.toml:3: syntax: "),
        ("workers = ", "f.toml:2: syntax: "),
        ("\"a\\nb\" = 1", "f.toml:2: a\\nb: unknown key"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(line), "{text}\n{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

// CFG-1
#[test]
fn all_faults_are_reported_in_the_order_of_the_file() {
    let error = parse("workers = 0\n[queue]\nx = 1\n[dsn]\nlifetime = 1").unwrap_err();
    let lines: Vec<&str> = error.lines().map(|line| &line[..9]).collect();
    assert_eq!(lines, ["f.toml:2:", "f.toml:4:", "f.toml:6:"]);
}

// CFG-9
#[test]
fn a_host_name_must_be_a_full_domain_name() {
    for bad in [
        "box",
        "",
        "192.0.2.1",
        "a..b",
        "[192.0.2.1]",
        "mail.example org",
    ] {
        let error = Config::parse(&format!("hostname = \"{bad}\""), Path::new("f")).unwrap_err();
        assert!(error.to_string().starts_with("f:1: hostname: "), "{error}");
    }
    let config = Config::parse("hostname = \"Mail.Example\"", Path::new("f")).unwrap();
    assert_eq!(config.hostname.as_str(), "mail.example");
    assert_eq!(config.dsn.from.to_string(), "postmaster@mail.example");
}

// Every key of a later stage says so instead of being ignored.
#[test]
fn what_this_version_cannot_do_is_refused_with_those_words() {
    for text in [
        "[http]\naddress = \"127.0.0.1:80\"",
        "[control]\ntcp = \"127.0.0.1:2500\"",
        "[[listen]]\naddress = \"127.0.0.1:1\"\nrole = \"submission\"",
        "[[listen]]\naddress = \"127.0.0.1:1\"\nrole = \"lmtp\"",
        "[[listen]]\naddress = \"127.0.0.1:1\"\nauth = \"required\"",
        "[[transport]]\nname = \"p\"\nkind = \"pipe\"",
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            error.contains("not available in this version"),
            "{text}\n{error}"
        );
        assert_eq!(error.lines().count(), 1, "{text}\n{error}");
    }
}

// CFG-12
#[test]
fn without_listen_tables_there_are_three_listeners() {
    let config = parse("").unwrap();
    let names: Vec<&str> = config
        .listen
        .iter()
        .map(|listen| listen.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["127.0.0.1:25", "[::1]:25", "unix:/run/posthaste/smtp"]
    );
    assert!(config.default_listeners);
    let config = parse("[[listen]]\naddress = \"[::]:2525\"").unwrap();
    assert_eq!((config.listen.len(), config.default_listeners), (1, false));
    assert_eq!(config.listen[0].mode, 0o666);
}

// CFG-4
#[test]
fn the_printed_configuration_reads_back_as_itself() {
    for text in [
        "",
        "user = \"mail\"\nlocal_mail_to = \"joe@there.example\"\n[queue]\nin_doubt = \"hold\"\n\
         disabled_senders = [\".bad.example\"]\n[log]\nto = \"/var/log/ph\\\\x\"\nlevel = \"debug\"\n\
         [retry]\nmax_attempts = 3\n[deliver]\nsource_addresses = [\"192.0.2.1\", \"2001:db8::1\"]\n\
         [dns]\nservers = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\n[dsn]\nreturn = \"full\"\n\
         [[dkim]]\ndomain = \"here.example\"\nselector = \"s.a\"\nkey = \"/k\"\n\
         [[listen]]\nname = \"lan\"\naddress = \"192.0.2.1:25\"\nrelay_from = [\"192.0.2.0/24\", \"unix\"]\n\
         [[listen]]\naddress = \"unix:/run/x\"\nmode = 0o600\n[[transport]]\nname = \"r\"\nkind = \"relay\"\n\
         hosts = [\"a.example\", \"[2001:db8::1]:26\"]\ntls = \"none\"\n\
         [[transport]]\nname = \"d\"\nkind = \"direct\"\nhelo = \"d.example\"\nsource_addresses = [\"192.0.2.9\"]\n\
         [[transport]]\nname = \"s\"\nkind = \"relay\"\nhosts = [\"a.example:465\", \"b.example:587\"]\norder = \"random\"\n\
         danger_accept_invalid_certs = true\nca_file = \"/ca.pem\"\nuser = \"u\"\npassword = \"p\"\n\
         mechanisms = [\"PLAIN\", \"SCRAM-SHA-1\"]\ndanger_auth_without_tls = true\nredial = 0\n\
         command_timeout = \"1m30s\"\nfamily = \"only6\"\npipelining = false\nprobe = \"require\"\nproxy = \"socks5://[::1]\"\n\
         [[transport]]\nname = \"n\"\nkind = \"discard\"\nintervals = [\"1m\", \"1h30m\"]\njitter = 0.25\nmax_attempts = 4\n\
         [[transport]]\nname = \"l\"\nkind = \"lmtp\"\nhosts = [\"unix:/run/a b\"]\n\
         [[transport]]\nname = \"m\"\nkind = \"lmtp\"\nhosts = [\"[::1]:24\"]\ntls = \"none\"\n\
         [[transport]]\nname = \"f\"\nkind = \"fail\"\ncode = 450\ntext = \"later\"\n\
         [[route]]\nfrom = [\"*\"]\nto = [\"here.example\", \".x.example\"]\nmin_attempts = 1\ntransport = \"r\"",
    ] {
        let printed = parse(text).unwrap().print();
        let again = Config::parse(&printed, Path::new("printed")).unwrap();
        assert_eq!(again.print(), printed);
        assert!(printed.contains("mode = 0o6"), "{printed}");
    }
}

// CFG-4, CFG-5
#[test]
fn a_password_is_not_printed_and_its_change_is_told() {
    let with = |password: &str| {
        let text = format!(
            "[[transport]]\nname = \"r\"\nkind = \"relay\"\nhosts = [\"a.example\"]\nuser = \"u\"\n\
             password = \"{password}\""
        );
        parse(&text).unwrap()
    };
    let (old, new) = (with("hunter2"), with("hunter3"));
    assert!(!old.print().contains("hunter"));
    assert!(!format!("{old:?}").contains("hunter"));
    assert!(old.print().contains("password = \"***\""));
    assert_eq!(old.changed_keys(&new), ["transport"]);
    assert!(old.changed_keys(&with("hunter2")).is_empty());
}

// CFG-7
#[test]
fn a_file_with_a_secret_in_it_is_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    let file = dir.join("posthaste.toml");
    let transport = "hostname = \"here.example\"\n[[transport]]\nname = \"r\"\nkind = \"relay\"\n\
                     hosts = [\"a.example\"]\nuser = \"u\"\npassword = \"p\"\n";
    let load = |text: &str, mode| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&file).map_err(|error| error.to_string())
    };
    assert!(load(transport, 0o600).is_ok());
    let error = load(transport, 0o640).unwrap_err();
    assert!(
        error.contains("transport[0]: the file holds a secret"),
        "{error}"
    );
    let without = transport.split("user").next().unwrap();
    assert!(load(without, 0o644).is_ok());
    let proxy = format!("{without}proxy = \"socks5://u:p@127.0.0.1\"\n");
    assert!(load(&proxy, 0o644).is_err());
}

// CFG-5
#[test]
fn changed_keys_are_named_by_table_and_key() {
    let old = parse("workers = 3").unwrap();
    let new = parse("[retry]\nlifetime = \"1h\"\n[[listen]]\naddress = \"127.0.0.1:1\"").unwrap();
    assert_eq!(
        old.changed_keys(&new),
        ["listen", "retry.lifetime", "workers"]
    );
    assert!(old.changed_keys(&old).is_empty());
}

// CFG-4
#[test]
fn every_setting_has_a_text_and_a_default_that_reads_as_itself() {
    let settings = settings();
    assert!(settings.len() > 70);
    for setting in &settings {
        assert!(setting.doc.trim().ends_with(['.', ']', ')']), "{setting:?}");
    }
    let defaults = parse("").unwrap();
    for setting in settings.iter().filter(|setting| !setting.repeated) {
        let computed = matches!(setting.key, "hostname" | "user" | "group" | "from");
        let Some(default) = setting.default.filter(|_| !computed) else {
            continue;
        };
        let dot = if setting.table.is_empty() { "" } else { "." };
        let config = parse(&format!(
            "{}{dot}{} = {default}",
            setting.table, setting.key
        ))
        .unwrap();
        assert_eq!(defaults.changed_keys(&config), [""; 0], "{setting:?}");
    }
}

// SEC-12
#[test]
fn what_weakens_safety_is_said_at_each_start() {
    assert!(parse("").unwrap().warnings().is_empty());
    let config = parse(
        "[deliver]\nallow_private = true\n[[listen]]\naddress = \"[::]:25\"\nrelay_from = [\"::/0\"]",
    );
    assert_eq!(config.unwrap().warnings().len(), 2);
}
