//! The driver of the dialogues of `smtp::client`: writes what they have to say and reads replies, under deadlines.

use std::io;
use std::time::Duration;

use super::outcome::Break;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::smtp::client::{Broken, Command, Dialogue, Step};

/// What is still waited for after the connection failed under a write: words that are already here (CL-21).
pub(super) const LAST_WORDS: Duration = Duration::from_millis(50);

/// Carries a dialogue on until it needs more than replies, or is over.
pub(super) fn drive(
    stream: &mut Stream,
    dialogue: &mut impl Dialogue,
    time: &dyn Fn(Command) -> Deadline,
) -> Result<Step, Break> {
    let mut awaited: Option<(u64, Deadline)> = None;
    // The connection failed under a write; what the peer said before is still read.
    let mut failed: Option<io::Error> = None;
    // Most replies are short, and a long one comes in parts.
    let mut buffer = [0; 2048];
    loop {
        let command = match dialogue.advance()? {
            Step::Begin(command) => {
                if !dialogue.wire().is_clean() {
                    return Err(Broken::out_of_step(command).into());
                }
                if stream.has_unread() {
                    return Err(out_of_turn(stream, dialogue, command));
                }
                continue;
            }
            Step::Await(command) => command,
            step => return Ok(step),
        };
        // One limit for each reply (CL-9): it begins when the reply before it is complete.
        let replies = dialogue.wire().replies();
        let deadline = match awaited {
            Some((of, deadline)) if of == replies => deadline,
            _ => awaited.insert((replies, time(command))).1,
        };
        let output = std::mem::take(&mut dialogue.wire().output);
        if !output.is_empty()
            && let Err(error) = send(stream, dialogue, &output, deadline)
        {
            failed = Some(error);
        }
        if let Some(error) = failed.take() {
            if !stream.has_unread() {
                return Err(Break::Io(command, error));
            }
            failed = Some(error);
        } else if !output.is_empty() && !dialogue.wire().is_clean() {
            // Something came beside the sending.
            continue;
        }
        match stream.read(&mut buffer, deadline) {
            Ok(0) => return Err(Break::Eof(command)),
            Ok(n) => dialogue.wire().push(&buffer[..n]),
            Err(error) => return Err(Break::Io(command, error)),
        }
    }
}

/// Sends commands with reading beside writing, so that a peer that answers before it has read all cannot lock both
/// sides up (CL-14, RFC 2920 §3.1).
fn send(
    stream: &mut Stream,
    dialogue: &mut impl Dialogue,
    output: &[u8],
    deadline: Deadline,
) -> io::Result<()> {
    // Nothing is in flight, so the system takes at least a part at once.
    let mut sent = stream.write(output, deadline)?;
    while sent < output.len() {
        let (readable, writable) = stream.wait(true, deadline)?;
        if readable {
            let mut buffer = [0; 8192];
            let n = stream.read(&mut buffer, deadline)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            dialogue.wire().push(&buffer[..n]);
        }
        if writable {
            sent += stream.write(&output[sent..], deadline)?;
        }
    }
    Ok(())
}

/// Something waits where nothing may: the end of the connection, or words that no command asked for (CL-7).
pub(super) fn out_of_turn(
    stream: &mut Stream,
    dialogue: &mut impl Dialogue,
    command: Command,
) -> Break {
    let mut buffer = [0; 512];
    match stream.read(&mut buffer, Deadline::after(LAST_WORDS)) {
        Ok(0) => Break::Eof(command),
        Err(error) => Break::Io(command, error),
        Ok(n) => {
            dialogue.wire().push(&buffer[..n]);
            Break::Said(Broken::out_of_step(command))
        }
    }
}
