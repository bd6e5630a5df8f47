//! What can be wrong with a TIFF.

use tiff::TiffError;

use crate::data::bad_samples::{BadKind, Fault};

pub(super) fn damaged(reason: impl AsRef<str>) -> Fault {
    Fault::new(BadKind::Damaged, reason)
}

pub(super) fn unsupported(what: impl AsRef<str>) -> Fault {
    Fault::new(BadKind::Unsupported, format!("is a TIFF with {}, which is not read", what.as_ref()))
}

impl From<TiffError> for Fault {
    fn from(e: TiffError) -> Self {
        match e {
            TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                damaged("ends before the picture does")
            }
            TiffError::UnsupportedError(what) => Fault::new(BadKind::Unsupported, format!("TIFF: {what}")),
            TiffError::LimitsExceeded => Fault::new(BadKind::TooLarge, "TIFF: a tag of more than 1 MiB"),
            other => damaged(other.to_string()),
        }
    }
}
