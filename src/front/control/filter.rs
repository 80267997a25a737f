//! Turns the words of a request into a [`Filter`] (CTL-6). What remains are the words of the verb itself.
