//! The clients that people use: netcat, posthaste(8), and readers of JSON.

use super::*;

// CTL-5
#[test]
fn json_answers_are_read_by_another_reader_with_the_same_keys() {
    let fixture = Fixture::new();
    let id = fixture.queue.store.allocate_id().unwrap();
    let mut row = row("\"a \\\" b\"@example.org", start());
    row.hold = Some("two\nlines \"quoted\" \u{e9}\u{1f600}\t\\".to_owned());
    fixture
        .queue
        .store
        .enqueue(message(id, start(), vec![row]))
        .unwrap();
    let requests = [
        "list",
        "show id=1",
        "count by=domain",
        "stats",
        "help",
        "version",
        "why id=1",
    ];
    for request in requests {
        let request = request.replace("id=1", &format!("id={id}"));
        let plain = fixture.ask(&request);
        let json = fixture.ask(&format!("json {request}"));
        assert_eq!(plain.len(), json.len());
        assert_eq!(plain.last(), json.last());
        for (plain, json) in plain.iter().zip(&json[..json.len() - 1]) {
            let keys = run("jq", &["-r", "keys_unsorted | join(\" \")"], json);
            let words = format!("x {plain}");
            let parsed = posthaste::front::control::line::parse(words.as_bytes());
            let parsed = parsed.unwrap().unwrap().words;
            let names: Vec<&str> = parsed.iter().map(|word| word.name.as_str()).collect();
            assert_eq!(keys.trim_end(), names.join(" "));
        }
    }
    let json = &fixture.ask("json list")[0];
    assert_eq!(
        run("jq", &["-j", ".blocker"], json),
        "two\nlines \"quoted\" \u{e9}\u{1f600}\t\\"
    );
    assert_eq!(
        run("jq", &["-j", ".id, .to"], json),
        format!("{id}<\"a \\\" b\"@example.org>")
    );
}

/// What a program makes of its input.
fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {input}");
    String::from_utf8(output.stdout).unwrap()
}

// CTL-1, design.md 10
#[test]
fn netcat_is_a_client() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let nc = |args: &[&str], input: &str| {
        let path = fixture.path.to_str().unwrap();
        let args: Vec<&str> = args.iter().copied().chain(["-U", path]).collect();
        run("nc", &args, input)
    };
    let text = nc(
        &[],
        "list domain=example.org\nkick domain=example.org\nquit\n",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with(" blocker=\"\""));
    assert_eq!(lines[1..], ["OK 1", "OK 1", "OK bye"]);
    // With -N netcat says that its input is over, and quit is not needed.
    assert_eq!(nc(&["-N"], "count\n"), "count=1\nOK 1\n");
}

// CTL-23
#[test]
fn the_tool_prints_data_lines_and_tells_the_rest_by_its_status() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["\"a b\"@example.org"]);
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let list = fixture.tool(&["list", "to=\"a b\"@example.org"]);
    assert_eq!(list.status.code(), Some(0));
    assert!(text(&list).starts_with(&format!("id={id} rcpt=1 ")));
    assert_eq!(text(&list).lines().count(), 1);
    assert_eq!(text(&fixture.tool(&["json", "count"])), "{\"count\":1}\n");
    for (args, status) in [
        (&["list", "domain=none.example"][..], 1),
        (&["drop"], 64),
        (&["drop", "all\nquit"], 64),
        (&["nonsense"], 64),
        (&[], 64),
        (&["hold", "all", "reason=one\ntwo \"three\""], 0),
        (&["release", "all", "dry-run"], 0),
        (&["kick", "all"], 1),
    ] {
        let output = fixture.tool(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert!(status != 64 || !output.stderr.is_empty());
    }
    assert!(fixture.ask("list")[0].ends_with(" blocker=\"one\\ntwo \\\"three\\\"\""));
    // Nobody there.
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["-s", "/nonexistent/control", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
}

// CTL-23
#[test]
fn the_tool_finds_the_socket_in_the_configuration() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let file = fixture.path.with_file_name("posthaste.toml");
    // A file with a fault elsewhere still leads to the daemon.
    let text = format!(
        "[retry]\nlifetime = \"soon\"\n[control]\npath = {:?}\n",
        fixture.path
    );
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .arg("-f")
        .arg(&file)
        .arg("count")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"count=1\n");
}

// CTL-9, CTL-23, design.md 10
#[test]
fn the_examples_of_the_manuals_work_when_pasted() {
    let fixture = Fixture::new();
    let socket = fixture.path.to_str().unwrap();
    let as_tool = format!(
        "posthaste() {{ {} -s {socket} \"$@\"; }}; ",
        env!("CARGO_BIN_EXE_posthaste")
    );
    let mut tried = 0;
    for page in ["posthaste-control.5", "posthaste.8"] {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page);
        let text = std::fs::read_to_string(page).unwrap();
        let examples = text.split_once(".Sh EXAMPLES").unwrap().1;
        // What needs files in /etc is pasted by tests/peers/examples.sh.
        let shell = |line: &&str| {
            let verb = line.split(' ').nth(1);
            let files = line.contains(" -f ") || matches!(verb, Some("dkim" | "reload"));
            let posthaste = line.starts_with("posthaste ") && !files;
            posthaste || line.contains("| nc ")
        };
        for line in examples.lines().filter(shell) {
            fixture.queue.add(&["bob@example.org", "ann@slow.example"]);
            fixture.last("hold to=ann");
            let line = line
                .replace("\\e", "\\")
                .replace("/run/posthaste/control", socket);
            // Ids of the examples are not those of this queue: nothing matched is an answer too.
            let output = Command::new("sh")
                .args(["-c", &format!("{as_tool}{line}")])
                .output()
                .unwrap();
            assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "{line}: {output:?}"
            );
            assert!(output.stderr.is_empty(), "{line}: {output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(!text.contains("ERR "), "{line}: {text}");
            tried += 1;
        }
    }
    assert!(tried > 8, "{tried} examples");
}
