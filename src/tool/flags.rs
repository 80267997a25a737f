//! The arguments of `sendmail`, as far as they go back to the original and programs still give them (SM-2, SM-5).

use super::Exit;

/// What the arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// What to do.
    pub(super) mode: Mode,
    /// `-t`: recipients are in the header.
    pub(super) from_header: bool,
    /// `-i`, `-oi`: a lone dot is a line like others.
    pub(super) dots_are_text: bool,
    /// `-f`, `-r`: the reverse-path.
    pub(super) sender: Option<String>,
    /// `-F`: the name in an added From.
    pub(super) full_name: Option<String>,
    /// `-N`: NOTIFY, in the form of RFC 3461.
    pub(super) notify: Option<String>,
    /// `-R`: RET, in the form of RFC 3461.
    pub(super) ret: Option<&'static str>,
    /// `-V`: ENVID.
    pub(super) envid: Option<String>,
    /// `-v`: the dialogue goes to standard error.
    pub(super) verbose: bool,
    /// The arguments that are no flags.
    pub(super) recipients: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// `-bm`: hand over a message.
    #[default]
    Message,
    /// `-bs`: SMTP on standard input.
    Smtp,
    /// `-bp`: list the queue.
    List,
    /// `-bi`: rebuild the alias files, of which there are none.
    Aliases,
    /// `-q`, `-qI`, `-qR`, `-qS`: a `kick` with these words.
    Kick(Vec<String>),
}

impl Flags {
    /// Reads the arguments behind the name of the program.
    ///
    /// # Errors
    /// A flag that is unknown, or that would open files or start daemons: exit 64. Nothing was done.
    pub(super) fn read(args: &[String]) -> Result<Flags, Exit> {
        let mut flags = Flags::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.strip_prefix('-') {
                Some("-") => {
                    flags.recipients.extend(args.cloned());
                    break;
                }
                // A lone hyphen is no flag, and as an address it is refused later.
                Some(cluster) if !cluster.is_empty() => flags.cluster(cluster, &mut args)?,
                _ => flags.recipients.push(arg.clone()),
            }
        }
        Ok(flags)
    }

    /// One argument: any number of letters without value, and perhaps one with.
    fn cluster<'a>(
        &mut self,
        cluster: &str,
        args: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Exit> {
        let mut rest = cluster;
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            match letter {
                't' => self.from_header = true,
                'i' => self.dots_are_text = true,
                'v' => self.verbose = true,
                // SM-5: me too, no aliasing, gateway, initial submission.
                'm' | 'n' | 'G' | 'U' => {}
                'b' => return self.mode(rest),
                'o' => return self.option(rest, args),
                'q' => return self.queue(rest, args),
                // SM-5: how errors are told, and which of sendmail's two configurations to use.
                'e' | 'A' => return Ok(()),
                'f' | 'r' | 'F' | 'N' | 'R' | 'V' | 'B' | 'O' | 'h' | 'L' => {
                    let value = match rest {
                        "" => args
                            .next()
                            .ok_or_else(|| Exit::usage(format!("-{letter} needs a value")))?,
                        rest => rest,
                    };
                    return self.value(letter, value);
                }
                _ => return Err(Exit::usage(format!("unknown option -{letter}"))),
            }
        }
        Ok(())
    }

    fn mode(&mut self, mode: &str) -> Result<(), Exit> {
        self.mode = match mode {
            "m" => Mode::Message,
            "s" => Mode::Smtp,
            "p" => Mode::List,
            "i" => Mode::Aliases,
            _ => return Err(Exit::usage(format!("unknown option -b{mode}"))),
        };
        Ok(())
    }

    /// `-oX`: `-oi` matters, the others once set what a configuration sets now.
    fn option<'a>(
        &mut self,
        option: &str,
        args: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Exit> {
        match option {
            "" => match args.next() {
                // "-o i" is as good as "-oi".
                Some(option) if !option.is_empty() => self.option(option, args),
                _ => Err(Exit::usage("-o needs a value")),
            },
            "i" => {
                self.dots_are_text = true;
                Ok(())
            }
            // The queue directory: no file named by an option is opened, ever (SM-5).
            option if option.starts_with('Q') => Err(Exit::usage("unknown option -oQ")),
            _ => Ok(()),
        }
    }

    /// `-q`: everything now; `-q30m` once asked for a daemon and is ignored.
    fn queue<'a>(
        &mut self,
        what: &str,
        args: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Exit> {
        let Some(kind) = what.chars().next() else {
            self.mode = Mode::Kick(vec!["all".to_owned()]);
            return Ok(());
        };
        let name = match kind {
            'I' => "id",
            'R' => "to",
            'S' => "from",
            c if c.is_ascii_digit() => return Ok(()),
            _ => return Err(Exit::usage(format!("unknown option -q{what}"))),
        };
        let text = match &what[1..] {
            "" => args
                .next()
                .ok_or_else(|| Exit::usage(format!("-q{kind} needs a value")))?,
            text => text,
        };
        self.mode = Mode::Kick(vec![format!("{name}={text}")]);
        Ok(())
    }

    fn value(&mut self, letter: char, value: &str) -> Result<(), Exit> {
        match letter {
            'f' | 'r' => self.sender = Some(value.to_owned()),
            'F' => self.full_name = Some(value.to_owned()),
            'N' => self.notify = Some(notify(value)?),
            'R' => {
                // RFC 3461 §4.3; sendmail writes it in any case.
                self.ret = Some(match value.to_ascii_lowercase().as_str() {
                    "full" => "FULL",
                    "hdrs" => "HDRS",
                    _ => return Err(Exit::usage("-R is hdrs or full")),
                });
            }
            'V' => {
                let printable = value.bytes().all(|b| (b' '..=b'~').contains(&b));
                if value.is_empty() || value.len() > 100 || !printable {
                    return Err(Exit::usage("-V is 1 to 100 printable characters"));
                }
                self.envid = Some(value.to_owned());
            }
            'B' => {
                // The content is taken as it is; the daemon looks for itself.
                let known = ["7bit", "8bitmime"].contains(&value.to_ascii_lowercase().as_str());
                if !known {
                    return Err(Exit::usage("-B is 7BIT or 8BITMIME"));
                }
            }
            'O' => return long_option(value),
            // SM-5: hop count, tag for the log.
            _ => {}
        }
        Ok(())
    }
}

/// SM-6: those that would change what becomes of the mail must not be ignored while they are not there.
fn long_option(option: &str) -> Result<(), Exit> {
    let name = option.split('=').next().unwrap_or("");
    let decided = [
        "IdempotencyKey",
        "HoldFor",
        "DeliverAt",
        "Priority",
        "RequireTLS",
        "Transport",
    ];
    if decided.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Err(Exit::usage(format!(
            "-O {name} is not available in this version"
        )));
    }
    Ok(())
}

/// RFC 3461 §4.1: NEVER, or a list of the others.
fn notify(value: &str) -> Result<String, Exit> {
    let value = value.to_ascii_uppercase();
    let words: Vec<&str> = value.split(',').collect();
    let listed = |word: &&str| ["SUCCESS", "FAILURE", "DELAY"].contains(word);
    if value == "NEVER" || words.iter().all(listed) {
        Ok(value)
    } else {
        Err(Exit::usage(
            "-N is never, or a list of success, failure, delay",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Flags, Exit> {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Flags::read(&args)
    }

    // SM-2
    #[test]
    fn flags_stand_apart_glued_and_in_clusters() {
        for line in [
            "-t -i -f joe@x bob@y",
            "-ti -fjoe@x bob@y",
            "-it -r joe@x bob@y",
            "-oi -t -rjoe@x -- bob@y",
            "bob@y -f joe@x -oit -i -t",
        ] {
            let flags = read(line).unwrap();
            assert!(flags.from_header && flags.dots_are_text, "{line}");
            assert_eq!(flags.sender.as_deref(), Some("joe@x"), "{line}");
            assert_eq!(flags.recipients, ["bob@y"], "{line}");
            assert_eq!(flags.mode, Mode::Message);
        }
    }

    // SM-2
    #[test]
    fn modes_and_delivery_options() {
        assert_eq!(read("-bp").unwrap().mode, Mode::List);
        assert_eq!(read("-bs").unwrap().mode, Mode::Smtp);
        assert_eq!(read("-bi").unwrap().mode, Mode::Aliases);
        assert_eq!(read("-bm x@y").unwrap().mode, Mode::Message);
        assert_eq!(read("-q").unwrap().mode, Mode::Kick(vec!["all".into()]));
        assert_eq!(
            read("-qR@slow.example").unwrap().mode,
            Mode::Kick(vec!["to=@slow.example".into()])
        );
        assert_eq!(
            read("-qI 42").unwrap().mode,
            Mode::Kick(vec!["id=42".into()])
        );
        let flags = read("-N success,delay -R hdrs -V abc -F Joe x@y").unwrap();
        assert_eq!(flags.notify.as_deref(), Some("SUCCESS,DELAY"));
        assert_eq!(flags.ret, Some("HDRS"));
        assert_eq!(flags.envid.as_deref(), Some("abc"));
        assert_eq!(flags.full_name.as_deref(), Some("Joe"));
    }

    // SM-5, SM-6
    #[test]
    fn what_once_meant_something_is_ignored() {
        let flags =
            read("-em -oem -odb -o7 -m -n -h 3 -G -L tag -Ac -U -B8BITMIME -q30m -O Timeout=3 x@y")
                .unwrap();
        assert_eq!(
            flags,
            Flags {
                recipients: vec!["x@y".to_owned()],
                ..Flags::default()
            }
        );
    }

    // SM-5
    #[test]
    fn unknown_flags_and_those_that_open_files_are_refused() {
        for line in [
            "-C/etc/x",
            "-X /tmp/log",
            "-be",
            "-bd",
            "-bt",
            "-b",
            "-oQ/tmp",
            "-o Q/tmp",
            "-x",
            "-z",
            "-f",
            "-tf",
            "-N",
            "-N never,delay",
            "-R some",
            "-B x",
            "-V",
            "-qX",
            "-qR",
            "-O HoldFor=60",
            "--help",
            "-tiz",
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.status, 64, "{line}");
        }
    }
}
