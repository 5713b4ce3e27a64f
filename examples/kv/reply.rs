//! RESP2 replies, appended to a byte buffer.

use std::fmt::Display;
use std::io::Write;

pub(crate) const OK: &[u8] = b"+OK\r\n";
pub(crate) const NULL: &[u8] = b"$-1\r\n";
pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(crate) const OVERFLOW: &str = "ERR increment or decrement would overflow";
pub(crate) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
pub(crate) const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
pub(crate) const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

/// A bulk string.
pub(crate) fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(bytes.len()).as_bytes();
    out.reserve(bytes.len() + digits.len() + 5);
    out.push(b'$');
    out.extend_from_slice(digits);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A bulk string, or the null reply for none.
pub(crate) fn optional_bulk(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => bulk(out, bytes),
        None => out.extend_from_slice(NULL),
    }
}

/// An integer.
pub(crate) fn integer(out: &mut Vec<u8>, value: i64) {
    numbered(out, b':', value);
}

/// The header of an array; its elements follow.
pub(crate) fn array(out: &mut Vec<u8>, length: usize) {
    numbered(out, b'*', length as i64);
}

/// A one-line status.
pub(crate) fn status(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An error; `text` starts with its kind, such as `ERR`, and has no line break.
pub(crate) fn error(out: &mut Vec<u8>, text: impl Display) {
    out.push(b'-');
    write!(out, "{text}").expect("a vector takes every write");
    out.extend_from_slice(b"\r\n");
}

fn numbered(out: &mut Vec<u8>, marker: u8, value: i64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value).as_bytes();
    out.reserve(digits.len() + 3);
    out.push(marker);
    out.extend_from_slice(digits);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_encoding() {
        let mut out = Vec::new();
        bulk(&mut out, b"a\r\nb");
        optional_bulk(&mut out, None);
        integer(&mut out, -7);
        array(&mut out, 2);
        status(&mut out, "PONG");
        error(&mut out, SYNTAX);
        let expected = b"$4\r\na\r\nb\r\n$-1\r\n:-7\r\n*2\r\n+PONG\r\n-ERR syntax error\r\n";
        assert_eq!(out, expected);
    }
}
