//! The log alone says what happened to a message, and says it before anything can go wrong.

use std::sync::Arc;

use super::{MAIL, toward};
use crate::support::daemon::{Process, control, control_path, posthasted, within, write_config};
use crate::support::dns::DnsServer;
use crate::support::mx::{At, Do, Gate, Mx, Script, on, reply};

// OBS-1, OBS-2
#[test]
fn the_end_of_a_message_is_logged_whatever_ends_it() {
    let gate = Gate::new();
    let script = Script::new()
        .rule(on(At::Mail, Do::Gate(gate.clone())))
        .rule(reply(At::Rcpt, "451 4.3.2 later"));
    let (dns, mx) = (DnsServer::start(), Mx::start(script));
    let daemon = Process::start(&toward(&dns, &mx));
    assert_eq!(daemon.control("pause"), ["OK 1"]);
    let to = ["a@dest.test", "b@dest.test", "c@dest.test"];
    let id = daemon.submit("joe@here.test", &to, MAIL);
    // A part of a message is not its end.
    assert_eq!(daemon.control(&format!("drop id={id}/2")), ["OK 1"]);
    assert_eq!(daemon.control(&format!("fail id={id}")), ["OK 2"]);
    daemon.wait_for(&format!(" dropped qid={id} rcpt=2 "));
    daemon.wait_for(&format!(" failed qid={id} rcpt=1,3 "));
    daemon.wait_for(&format!(" done qid={id} delay="));

    // Dropped while a worker has it: its attempt ends it.
    let id = daemon.submit("", &["d@dest.test"], MAIL);
    assert_eq!(daemon.control("resume"), ["OK 1"]);
    mx.wait_for_commands(1, 1, "MAIL");
    assert_eq!(daemon.control(&format!("drop id={id} wait")), ["OK 1"]);
    gate.open();
    let line = daemon.wait_for(&format!(" deliver qid={id} "));
    assert!(line.contains(" result=dropped text="), "{line}");
    daemon.wait_for(&format!(" done qid={id} delay="));
}

// OBS-2
#[test]
fn whatever_may_be_sent_twice_is_in_the_log_before_it_is_tried_again() {
    let script = Script::new()
        .rule(on(At::Dot, Do::Close).connection(1))
        .rule(on(At::Dot, Do::Stall));
    let (dns, mx) = (DnsServer::start(), Mx::start(script));
    let daemon = Process::start(&toward(&dns, &mx));
    let id = daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    daemon.wait_for(&format!(" doubt qid={id} rcpt=1 doubt=may-be-sent-twice"));
    let line = daemon.wait_for(&format!(" deliver qid={id} "));
    assert!(line.contains(" doubt=may-be-sent-twice "), "{line}");
    let cut = daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    let path = control_path(daemon.dir.path());
    within("its dot", move || {
        while !control(&path, &format!("list id={cut}"))[0].contains("stage=final-dot") {
            std::thread::yield_now();
        }
    });
    let dir = daemon.kill();

    // What became of it is the word of its line, which stands before that of the start.
    let queue = dir.path().join("queue");
    let hold = format!(
        "[queue]\npath = \"{}\"\nmin_free = \"1MiB\"\nin_doubt = \"hold\"\n",
        queue.display()
    );
    let file = write_config(&dir, &format!("{}{hold}", toward(&dns, &mx)));
    let mut command = posthasted();
    command.arg("-F").arg("-f").arg(&file);
    let again = Process::spawn(Arc::clone(&dir), command);
    again.wait_for(&format!(" held qid={cut} rcpt=1 doubt=in-doubt "));
    again.wait_for(" start ");
}
