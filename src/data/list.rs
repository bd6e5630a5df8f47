//! Images named in a text file, with or without labels; `list_text.rs` says how it is written. Paths
//! are relative to the folder the file lies in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::data::bad_samples::{BadKind, BadSample};
use crate::data::decode::decode_file;
use crate::data::labels::unlabelled_remark;
use crate::data::list_text::Lines;
use crate::data::pixels::Image;
use crate::data::reading::Reading;
use crate::data::source::{Source, check_count};
use crate::error::{Error, Result};
use crate::shown::shown;

/// So many files are looked for when a list is opened: where none is there, it is the list that is wrong.
const LOOKED_FOR: usize = 100;

/// The images of a list, in its order.
pub struct List {
    file: PathBuf,
    /// The folder that paths are relative to.
    root: PathBuf,
    /// Per image 16 bytes beside its path.
    lines: Lines,
    /// Empty where no line has a label.
    classes: Vec<String>,
    reading: Reading,
}

impl List {
    /// Reads the list `file`, and looks whether there is any of the first images.
    pub fn open(file: impl AsRef<Path>, reading: &Reading) -> Result<Self> {
        let file = file.as_ref();
        let what = "give a text file with the path of an image a line";
        let fail = |problem: String| Error::file(file, problem);
        let text = match std::fs::metadata(file) {
            Ok(meta) if !meta.is_file() => return Err(fail(format!("is not a file; {what}"))),
            Ok(_) => std::fs::read(file),
            Err(e) => Err(e),
        };
        let text = text.map_err(|e| match e.kind() {
            ErrorKind::NotFound => fail(format!("no such list; {what}")),
            _ => fail(format!("cannot be read: {e}; {what}")),
        })?;
        let mut lines = Lines::read(&text).map_err(fail)?;
        if lines.len() == 0 {
            return Err(fail("names no images; give the path of an image a line".into()));
        }
        check_count(lines.len(), file)?;
        let (classes, class_of) = std::mem::take(&mut lines.labels).into_classes();
        lines.labels_of.iter_mut().flatten().for_each(|class| *class = class_of[*class as usize]);
        let unlabelled = lines.labels_of.iter().filter(|class| class.is_none()).count();
        let first: Vec<String> = lines.unlabelled.iter().map(|line| format!("line {line}")).collect();
        lines.remarks.extend(unlabelled_remark(unlabelled, lines.len(), &first));
        let root = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let list = Self { file: file.to_path_buf(), root, lines, classes, reading: *reading };
        list.look()?;
        Ok(list)
    }

    /// The path of image `i` as it is written.
    fn path(&self, i: usize) -> &Path {
        path_of(self.lines.path(i))
    }

    /// Fails where none of the first images is there.
    fn look(&self) -> Result<()> {
        let count = self.len().min(LOOKED_FOR);
        if (0..count).any(|i| !is_missing(&self.root.join(self.path(i)))) {
            return Ok(());
        }
        let first = self.name(0);
        let relative = match self.path(0).is_relative() {
            true => {
                let root = if self.root.as_os_str().is_empty() { Path::new(".") } else { &self.root };
                let root = root.canonicalize().unwrap_or(root.to_path_buf());
                format!("; paths are taken relative to the folder of the list, {}", shown(&root))
            }
            false => String::new(),
        };
        let hint =
            oddity(&self.path(0).to_string_lossy()).map(|hint| format!("; {hint}")).unwrap_or_default();
        let problem = match count {
            1 => format!("the image that it begins with is not there (`{first}`){relative}{hint}"),
            _ => format!(
                "none of the {count} images that it begins with is there, such as `{first}`{relative}{hint}"
            ),
        };
        Err(Error::file(&self.file, problem))
    }
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> &Path {
    // the lines were checked when they were read
    Path::new(std::str::from_utf8(bytes).unwrap_or_default())
}

/// Whether there can be no such file. One that cannot be looked at may be there.
fn is_missing(path: &Path) -> bool {
    let kind = std::fs::metadata(path).err().map(|e| e.kind());
    matches!(
        kind,
        Some(
            ErrorKind::NotFound
                | ErrorKind::NotADirectory
                | ErrorKind::InvalidFilename
                | ErrorKind::InvalidInput
        )
    )
}

/// What may be wrong with a path that leads nowhere.
fn oddity(path: &str) -> Option<&'static str> {
    if path.starts_with("~") {
        Some("`~` does not stand for the home folder here: write it out")
    } else if path.starts_with("file:") {
        Some("`file:` begins an address: write the path alone")
    } else if path.contains("://") {
        Some("addresses are not read: give files of this machine")
    } else if cfg!(unix) && path.contains('\\') {
        Some("a backslash does not part folders here: write `/`")
    } else if path.starts_with('\'') {
        Some("`'` is taken for a part of the name: write \" or nothing")
    } else if path.contains([',', ';']) {
        Some("if it holds several columns, let the first line name them, as in `path,label`")
    } else {
        None
    }
}

impl Source for List {
    fn len(&self) -> usize {
        self.lines.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let image = decode_file(&self.root.join(self.path(i)), &self.reading);
        image.map(Image::from).map_err(|mut fault| {
            let name = self.name(i);
            if let (BadKind::Missing, Some(hint)) = (fault.kind, oddity(&self.path(i).to_string_lossy())) {
                fault.reason = format!("{}; {hint}", fault.reason);
            }
            fault.of(name)
        })
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.lines.labels_of[i]
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self, i: usize) -> String {
        shown(self.path(i)).into_owned()
    }
    fn describe(&self) -> String {
        format!("list:{}", shown(&self.file))
    }
    fn remarks(&self) -> Vec<String> {
        self.lines.remarks.clone()
    }
}
