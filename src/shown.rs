//! Texts of others as they may be shown. What a file, a folder, a tensor or a class is called may hold
//! anything: escapes that paint or clear a terminal, newlines that forge a line of a log, marks that turn the
//! direction of writing round. Nothing of that is ever printed or written to a log as it is.
//!
//! Names go through [`shown`] where they become part of a message, and whole messages through [`lines`] where
//! they leave the program: of these, newlines are the program's own.

use std::borrow::Cow;
use std::ffi::OsStr;

/// A name or path on one line, with whatever is not plain text written out, as in `\n` or `\u001b`. What is
/// shown once is not changed by being shown again.
pub fn shown<S: AsRef<OsStr> + ?Sized>(name: &S) -> Cow<'_, str> {
    match name.as_ref().to_str() {
        Some(text) => escaped(text, is_harmful),
        None => Cow::Owned(shown_bytes(name.as_ref().as_encoded_bytes())),
    }
}

/// As [`shown`], of a name that may be no text at all: such bytes become `\xE9`, so that two names are not written
/// alike.
pub fn shown_bytes(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(&escaped(chunk.valid(), is_harmful));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
    }
    text
}

/// A message of one or more lines: as [`shown`], but newlines and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_harmful(c) && !matches!(c, '\n' | '\t'))
}

/// Control characters (also those from U+0080 to U+009F, which terminals obey), separators of lines, and what
/// changes the direction of the text around it.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As TOML, JSON and Python write it in their texts.
fn escaped(text: &str, harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !harmful(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "a b/c.jpg", "Größe 5 µm", "日本語", "שלום", "👩‍🔬", "back\\slash", "it's \"so\""]
        {
            assert_eq!(shown(text), text);
            assert!(matches!(lines(text), Cow::Borrowed(_)));
        }
        assert_eq!(lines("two\n\tlines"), "two\n\tlines");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        let name = "a\n\r\t\u{1b}[2J\u{7f}\u{9b}31m\u{202e}gpj.exe\u{2028}\u{2066}";
        let safe = r"a\n\r\t\u001b[2J\u007f\u009b31m\u202egpj.exe\u2028\u2066";
        assert_eq!(shown(name), safe);
        assert_eq!(shown(Path::new(name)), safe);
        assert_eq!(shown(safe), safe);
        assert_eq!(lines("one\ntwo\u{1b}]0;title\u{7}\r"), "one\ntwo\\u001b]0;title\\u0007\\r");
    }

    #[test]
    #[cfg(unix)]
    fn names_that_are_no_text_are_shown_as_far_as_they_are() {
        use std::os::unix::ffi::OsStrExt;
        assert_eq!(shown(OsStr::from_bytes(b"caf\xe9\x1b.jpg")), "caf\\xE9\\u001b.jpg");
    }
}
