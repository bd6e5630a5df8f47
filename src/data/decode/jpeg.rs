//! What is looked at in a JPEG before it is decoded.

use crate::data::bad_samples::{BadKind, Fault};

/// Refuses kinds of JPEG that the decoder knows by no name, and those that are cut off, of which it would fill
/// the rest with grey.
pub(super) fn check(bytes: &[u8]) -> Result<(), Fault> {
    let unsupported =
        |what: &str| Err(Fault::new(BadKind::Unsupported, format!("is {what}, which is not read")));
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2).and_then(|b| b.first_chunk()) {
        let segment = bytes.get(at + 2..at + 5).and_then(|b| b.first_chunk::<3>());
        match (marker, segment) {
            (0xff, _) => at += 1, // padding
            (0xda, _) => break,   // the first scan
            (_, None) => break,
            (0xc3 | 0xc7 | 0xcb | 0xcf, _) => return unsupported("a lossless JPEG"),
            (0xc9..=0xce, _) if marker != 0xcc => return unsupported("a JPEG with arithmetic coding"),
            (0xc5 | 0xc6, _) => return unsupported("a hierarchical JPEG"),
            (0xc0..=0xc2, Some([_, _, bits])) if *bits != 8 => {
                return unsupported(&format!("a JPEG of {bits} bits"));
            }
            (_, Some([high, low, _])) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
        }
    }
    // The end is looked for behind the headers, which may hold a whole thumbnail.
    let ends = bytes.get(at..).is_some_and(|scans| scans.windows(2).rev().any(|pair| pair == [0xff, 0xd9]));
    if ends { Ok(()) } else { Err(Fault::new(BadKind::Damaged, "ends before the picture does")) }
}
