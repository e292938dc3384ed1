//! Texts without the passwords in them, for logs and errors.

/// `text` without passwords: what stands before the `@` of an address, and the values of the
/// properties `user-pw`, `user-id`, `password` and `passphrase` of a launch line.
pub fn mask_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        // An unescaped slash, question mark or at-sign inside a password is against RFC 3986 but is
        // written all the same: everything up to the last @ before a blank or quote is masked.
        // A password may hold blanks as well, where quotes stand around the address.
        let scheme =
            head[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let quote = scheme.chars().next_back().filter(|c| matches!(c, '"' | '\''));
        let ends = |c: char| match quote {
            Some(quote) => c == quote || c == '\n',
            None => c.is_whitespace() || matches!(c, '"' | '\''),
        };
        let end = tail.find(ends).unwrap_or(tail.len());
        match tail[..end]
            .find("://")
            .map_or(&tail[..end], |next| &tail[..next])
            .rfind('@')
        {
            Some(sign) => {
                out.push_str("***");
                rest = &tail[sign..];
            }
            None => rest = tail,
        }
    }
    out.push_str(rest);
    for key in ["user-pw=", "user-id=", "password=", "passphrase="] {
        out = mask_value(&out, key);
    }
    out
}

/// Masks the value that follows `key`, quoted or not.
fn mask_value(text: &str, key: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(key) {
        let (head, tail) = rest.split_at(at + key.len());
        out.push_str(head);
        out.push_str("***");
        let end = match tail.chars().next() {
            Some(quote @ ('"' | '\'')) => tail[1..].find(quote).map_or(tail.len(), |e| e + 2),
            _ => tail
                .find(|c: char| c.is_whitespace() || matches!(c, '&' | '!'))
                .unwrap_or(tail.len()),
        };
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked() {
        for (text, masked) in [
            ("rtsp://cam/1", "rtsp://cam/1"),
            ("rtsp://bob:secret@cam:554/1?x=2", "rtsp://***@cam:554/1?x=2"),
            ("rtsp://bob:se/cr@et@cam/1", "rtsp://***@cam/1"),
            (
                "rtspsrc location=rtsp://bob:secret@cam/1 ! decodebin ! appsink",
                "rtspsrc location=rtsp://***@cam/1 ! decodebin ! appsink",
            ),
            (
                "rtspsrc location=rtsp://cam user-id=bob user-pw=\"my secret\" ! appsink",
                "rtspsrc location=rtsp://cam user-id=*** user-pw=*** ! appsink",
            ),
            (
                "srtsrc uri=srt://host?passphrase=secret&mode=x ! appsink",
                "srtsrc uri=srt://host?passphrase=***&mode=x ! appsink",
            ),
            (
                "a rtsp://u:p@h b rtsp://v:q@i c",
                "a rtsp://***@h b rtsp://***@i c",
            ),
            (
                "input = \"rtsp://bob:my secret@cam/1\"\nx = \"a@b\"",
                "input = \"rtsp://***@cam/1\"\nx = \"a@b\"",
            ),
            (
                "[\"rtsp://cam/1\", 'rtsp+push://bob:it is \"s\" e@media/1']",
                "[\"rtsp://cam/1\", 'rtsp+push://***@media/1']",
            ),
        ] {
            assert_eq!(mask_credentials(text), masked);
        }
    }
}
