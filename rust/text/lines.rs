//! Bytes of a text file to its lines: UTF-8 checked, blank lines taken as the ends of documents.

use crate::error::{Error, Result};

/// The lines of one block of a file that are not blank, trimmed, end to end in one buffer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The text of all lines, without anything between them.
    pub text: String,
    /// Line `i` is `text[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<i32>,
    /// Whether line `i` is the first of a document: the first of the file, or after a blank line.
    pub document_starts: Vec<bool>,
    /// Whether the line after this block would be the first of a document.
    pub next_starts_document: bool,
}

/// Splits `block` at `\n` (`\r\n` included, since lines are trimmed of whitespace).
///
/// `block` is whole lines of the file `name`, beginning at byte `position` of it; `starts_document` says whether its
/// first line begins a document. Bytes that are not UTF-8 are an error that names the first of them.
pub fn split_lines(block: &[u8], name: &str, position: u64, starts_document: bool) -> Result<Lines> {
    if i32::try_from(block.len()).is_err() {
        return Err(Error::invalid(format!(
            "{name}: the line at byte {position} is longer than 2 GiB; break it into lines or documents"
        )));
    }
    let block = std::str::from_utf8(block).map_err(|error| not_utf8(block, name, position, error.valid_up_to()))?;
    let mut lines = Lines {
        text: String::with_capacity(block.len()),
        offsets: vec![0],
        document_starts: Vec::new(),
        next_starts_document: starts_document,
    };
    for line in block.split_inclusive('\n') {
        let line = line.trim();
        if line.is_empty() {
            lines.next_starts_document = true;
            continue;
        }
        lines.text.push_str(line);
        lines.offsets.push(lines.text.len() as i32);
        lines.document_starts.push(lines.next_starts_document);
        lines.next_starts_document = false;
    }
    Ok(lines)
}

fn not_utf8(block: &[u8], name: &str, position: u64, valid: usize) -> Error {
    let at = position + valid as u64;
    let hint = if at == 0 && (block.starts_with(&[0xff, 0xfe]) || block.starts_with(&[0xfe, 0xff])) {
        "it begins like UTF-16"
    } else {
        "is it another encoding, or no text"
    };
    Error::invalid(format!(
        "{name}: not UTF-8 at byte {at} (0x{:02x}); {hint}? Convert it first, for instance with iconv",
        block[valid]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(lines: &Lines, index: usize) -> &str {
        &lines.text[lines.offsets[index] as usize..lines.offsets[index + 1] as usize]
    }

    #[test]
    fn blank_lines_and_carriage_returns() {
        let lines = split_lines("one\r\n  \r\n\ttwo \nthree".as_bytes(), "file", 0, true).unwrap();
        assert_eq!((line(&lines, 0), line(&lines, 1), line(&lines, 2)), ("one", "two", "three"));
        assert_eq!(lines.document_starts, [true, true, false]);
        assert!(!lines.next_starts_document);
        assert!(split_lines(b"one\n\n", "file", 0, true).unwrap().next_starts_document);
        assert!(!split_lines(b"one\n", "file", 0, true).unwrap().next_starts_document);
    }

    #[test]
    fn the_first_bad_byte_is_named_as_it_stands_in_the_file() {
        let message = split_lines(b"fine\n\xc3\x28", "latin.txt", 1000, true).unwrap_err().to_string();
        assert!(message.contains("latin.txt: not UTF-8 at byte 1005 (0xc3)"), "{message}");
        let message = split_lines(b"\xff\xfea\0", "wide.txt", 0, true).unwrap_err().to_string();
        assert!(message.contains("byte 0 (0xff); it begins like UTF-16"), "{message}");
    }

    proptest! {
        /// However a text is cut into blocks of whole lines, the lines and the documents are those of the whole text.
        #[test]
        fn blocks_do_not_matter(parts in prop::collection::vec("[a\u{e9} \r]{0,3}\n", 0..12), cut in 0usize..12) {
            let whole: String = parts.concat();
            let all = split_lines(whole.as_bytes(), "file", 0, true).unwrap();
            let expected: Vec<&str> = whole.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let found: Vec<&str> = (0..all.document_starts.len()).map(|index| line(&all, index)).collect();
            prop_assert_eq!(found, expected);

            let cut = cut.min(parts.len());
            let first = split_lines(parts[..cut].concat().as_bytes(), "file", 0, true).unwrap();
            let second = split_lines(parts[cut..].concat().as_bytes(), "file", 0, first.next_starts_document).unwrap();
            prop_assert_eq!(first.text + &second.text, all.text);
            prop_assert_eq!([first.document_starts, second.document_starts].concat(), all.document_starts);
            prop_assert_eq!(second.next_starts_document, all.next_starts_document);
        }
    }
}
