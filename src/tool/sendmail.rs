//! `sendmail`: a message on standard input goes to the daemon, or the arguments ask for something else.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use nix::unistd::{User, getuid};

use super::content::{HeaderReader, Normaliser};
use super::flags::{Flags, Mode};
use super::paths::Paths;
use super::submit::{Envelope, Session};
use super::{Exit, IO, SOFTWARE, TEMPORARY, addresses, control, mailq, unanswered};
use crate::smtp::address::{Mailbox, ReversePath};

/// Longest argument of `-f`.
const MAX_SENDER: usize = 256;

/// Carries out the arguments of `sendmail`.
pub(super) fn run(args: Vec<String>, paths: &Paths) -> Result<u8, Exit> {
    let flags = Flags::read(&args)?;
    match flags.mode.clone() {
        Mode::List => mailq::run(paths),
        Mode::Aliases => Ok(0),
        Mode::Smtp => smtp(paths),
        Mode::Kick(words) => {
            let mut request = vec!["kick".to_owned()];
            request.extend(words);
            // Nothing to kick is no fault here.
            control::run(&request, paths).map(|_| 0)
        }
        Mode::Message => message(flags, paths),
    }
}

fn listener(paths: &Paths) -> Result<PathBuf, Exit> {
    let none = || Exit::new(TEMPORARY, "no Unix listener is configured");
    paths.smtp.clone().ok_or_else(none)
}

fn message(flags: Flags, paths: &Paths) -> Result<u8, Exit> {
    let hostname = &paths.hostname;
    let sender = sender(flags.sender.as_deref(), hostname)?;
    let mut recipients = Vec::new();
    for argument in &flags.recipients {
        recipients.extend(addresses::argument(argument, hostname)?);
    }
    if recipients.is_empty() && !flags.from_header {
        return Err(Exit::usage("no recipient"));
    }
    let path = listener(paths)?;

    let mut input = Input::new(!flags.dots_are_text);
    let (mut header, body) = input.header()?;
    if flags.from_header {
        recipients.extend(header.recipients(hostname)?);
        header.remove_bcc();
    }
    let recipients = unique(recipients);
    if recipients.is_empty() {
        return Err(Exit::usage("no recipient in the header"));
    }
    header.add_from(&sender, flags.full_name.as_deref(), hostname);

    let mut session = Session::open(&path, hostname, flags.verbose)?;
    session.begin(&Envelope {
        sender,
        recipients,
        notify: flags.notify,
        ret: flags.ret,
        envid: flags.envid,
    })?;
    session.content(&header.into_bytes())?;
    session.content(&body)?;
    // A fault of the input drops the session before its dot: nothing is queued (SM-7).
    while let Some(piece) = input.piece()? {
        session.content(piece)?;
    }
    session.finish()?;
    Ok(0)
}

/// SM-9; without `-f` the user who calls.
fn sender(given: Option<&str>, hostname: &str) -> Result<ReversePath, Exit> {
    let text = match given {
        Some("" | "<>") => return Ok(ReversePath::Null),
        Some(text) => text.to_owned(),
        None => match User::from_uid(getuid()) {
            Ok(Some(user)) => user.name,
            _ => getuid().to_string(),
        },
    };
    if text.len() > MAX_SENDER || text.chars().any(char::is_control) {
        return Err(Exit::usage(
            "the sender is too long or holds control characters",
        ));
    }
    let bare = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    let mailbox = addresses::mailbox(bare.unwrap_or(&text), hostname, super::USAGE)?;
    Ok(ReversePath::Mailbox(mailbox))
}

/// SM-8: every address once (equality is that of Q-19).
fn unique(all: Vec<Mailbox>) -> Vec<Mailbox> {
    let mut seen = std::collections::BTreeSet::new();
    all.into_iter()
        .filter(|mailbox| seen.insert(mailbox.clone()))
        .collect()
}

/// Standard input, normalised.
struct Input {
    normaliser: Normaliser,
    raw: Vec<u8>,
    clean: Vec<u8>,
}

impl Input {
    fn new(dot_ends: bool) -> Input {
        Input {
            normaliser: Normaliser::new(dot_ends),
            raw: vec![0; 64 * 1024],
            clean: Vec::new(),
        }
    }

    /// The header, and what of the body was read with it.
    fn header(&mut self) -> Result<(super::content::Header, Vec<u8>), Exit> {
        let mut reader = HeaderReader::default();
        while let Some(piece) = self.piece()? {
            if let Some(done) = reader.push(piece)? {
                return Ok(done);
            }
        }
        Ok(reader.finish())
    }

    /// The next piece; `None` at the end of the message.
    fn piece(&mut self) -> Result<Option<&[u8]>, Exit> {
        self.clean.clear();
        while self.clean.is_empty() && !self.normaliser.ended {
            match io::stdin().lock().read(&mut self.raw) {
                Ok(0) => self.normaliser.finish()?,
                Ok(n) => self.normaliser.push(&self.raw[..n], &mut self.clean)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Exit::new(IO, format!("standard input: {error}"))),
            }
        }
        Ok((!self.clean.is_empty()).then_some(&self.clean))
    }
}

/// `-bs`: the dialogue of standard input and output with the daemon, octet by octet.
fn smtp(paths: &Paths) -> Result<u8, Exit> {
    let path = listener(paths)?;
    let broken = |error: io::Error| Exit::new(TEMPORARY, format!("{}: {error}", path.display()));
    let mut stream = UnixStream::connect(&path)
        .map_err(|error| Exit::new(TEMPORARY, unanswered(&path, &error)))?;
    let mut sending = stream.try_clone().map_err(broken)?;
    // It ends with the input, or with the process.
    let copier = thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut sending);
            let _ = sending.shutdown(Shutdown::Write);
        });
    copier.map_err(|error| Exit::new(SOFTWARE, error.to_string()))?;
    let mut out = io::stdout().lock();
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return Ok(0),
            Ok(n) => out
                .write_all(&buf[..n])
                .and_then(|()| out.flush())
                .map_err(|error| Exit::output(&error))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SM-9
    #[test]
    fn the_sender_is_checked_and_may_be_null() {
        let text = |given| sender(Some(given), "here.example").map(|s| s.to_string());
        assert_eq!(text("").unwrap(), "");
        assert_eq!(text("<>").unwrap(), "");
        assert_eq!(text("joe").unwrap(), "joe@here.example");
        assert_eq!(text("<joe@x.example>").unwrap(), "joe@x.example");
        let long = format!("{}@x.example", "a".repeat(300));
        for bad in ["a\nb@x.example", "-x@y.example", "a@b@c", &long] {
            assert_eq!(text(bad).unwrap_err().status, 64, "{bad:?}");
        }
        assert!(sender(None, "here.example").is_ok());
    }

    // SM-8
    #[test]
    fn every_address_is_a_recipient_once() {
        let mailbox = |text| Mailbox::parse(text, false).unwrap();
        let all = vec![
            mailbox("a@x.example"),
            mailbox("A@x.example"),
            mailbox("a@X.example"),
        ];
        assert_eq!(unique(all).len(), 2);
    }
}
