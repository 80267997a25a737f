//! The doors: listeners, the SMTP server, the control socket. Decodes a request, calls one function, encodes the answer.

pub mod control;
pub mod unix;
