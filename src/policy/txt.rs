//! TXT records that begin with a version and go on with fields, as those of MTA-STS (RFC 8461 §3.1) and of TLS reports
//! (RFC 8460 §3) do. Pure.

/// White space around fields.
pub const WSP: [char; 2] = [' ', '\t'];

/// The fields behind the `version` of the one record that begins with it, as names and values; a field that is neither is
/// `None`, and so is an empty one except behind the last delimiter. `None`: there is no such record, or more than one.
pub fn only<'a>(
    records: &'a [Vec<u8>],
    version: &str,
) -> Option<impl Iterator<Item = Option<(&'a str, &'a str)>> + use<'a>> {
    let mut ours = records
        .iter()
        .filter(|record| record.starts_with(version.as_bytes()));
    let (Some(record), None) = (ours.next(), ours.next()) else {
        return None;
    };
    let fields = std::str::from_utf8(record).ok()?.get(version.len()..)?;
    let end = fields.trim_end_matches(WSP);
    let fields = end.strip_suffix(';').unwrap_or(fields);
    Some(
        fields
            .split(';')
            .map(|field| field.trim_matches(WSP).split_once('=')),
    )
}

/// `sts-extension` of RFC 8461 §3.1; what it means is for others.
pub fn is_extension(name: &str, value: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    let known = |b: u8| b.is_ascii_graphic() && b != b'=' && b != b';';
    first && rest && name.len() <= 32 && !value.is_empty() && value.bytes().all(known)
}
