//! The whole lines of a file that grows, may end in half a line, and may be cut, replaced or missing: what was read
//! once is not read again.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::files::own::is_at;
use crate::files::regular::open_regular;

/// Bytes of a line that no run writes; longer ones are passed over.
const LONGEST: usize = 1 << 20;
/// Bytes before the place where reading goes on, by which a file that was cut and has grown again is known.
const MARK: u64 = 64;

/// Where reading goes on.
#[derive(Debug, Default)]
pub struct Follower {
    open: Option<File>,
    at: u64,
    mark: Vec<u8>,
}

/// What there is to be read.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The file goes on where it was left.
    More,
    /// It is another file, or was cut: everything known of it is to be forgotten.
    Anew,
}

impl Follower {
    /// Calls `take` with every whole line that is new, without its end, and says whether they go on from those before.
    /// Before the first line of another file `forget` is called. A file that is missing or cannot be read has none.
    pub fn read(&mut self, path: &Path, mut forget: impl FnMut(), mut take: impl FnMut(&[u8])) -> News {
        let news = match self.goes_on(path) {
            true => News::More,
            false => {
                let known = self.at > 0;
                *self = Self { open: open_regular(path).ok(), ..Self::default() };
                if known {
                    forget();
                }
                if known { News::Anew } else { News::More }
            }
        };
        // what cannot be read now may be read the next time
        let _ = self.lines(&mut take);
        news
    }

    /// Whether the file that is open is still the one at `path` and holds what was read.
    fn goes_on(&mut self, path: &Path) -> bool {
        let Some(file) = &mut self.open else { return false };
        if !path.exists() || !is_at(file, path) || file.metadata().map_or(0, |found| found.len()) < self.at {
            return false;
        }
        let mut there = vec![0; self.mark.len()];
        let start = self.at - self.mark.len() as u64;
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut there));
        read.is_ok() && there == self.mark
    }

    fn lines(&mut self, take: &mut impl FnMut(&[u8])) -> std::io::Result<()> {
        let Some(file) = &mut self.open else { return Ok(()) };
        file.seek(SeekFrom::Start(self.at))?;
        let mut reader = BufReader::with_capacity(1 << 16, &mut *file);
        let (mut line, mut at) = (Vec::new(), self.at);
        loop {
            line.clear();
            let read = (&mut reader).take(LONGEST as u64).read_until(b'\n', &mut line)?;
            match line.last() {
                Some(b'\n') => take(&line[..line.len() - 1]),
                // a line that is too long: its rest is looked for its end
                Some(_) if read == LONGEST => {}
                // half a line, whose rest is still to come
                _ => break,
            }
            at += read as u64;
        }
        drop(reader);
        if at > self.at {
            let marked = at.min(MARK);
            self.mark.resize(marked as usize, 0);
            file.seek(SeekFrom::Start(at - marked))?;
            file.read_exact(&mut self.mark)?;
            self.at = at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_come_once_and_a_file_that_was_cut_comes_anew() {
        let path = std::env::temp_dir().join(format!("poa-follower-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut follower = Follower::default();
        let mut read = || {
            let (mut lines, mut forgotten) = (Vec::new(), false);
            let news = follower.read(
                &path,
                || forgotten = true,
                |l| lines.push(String::from_utf8_lossy(l).into_owned()),
            );
            assert_eq!(forgotten, news == News::Anew);
            (lines.join(","), forgotten)
        };
        let known = |text: &str| (text.to_string(), false);
        assert_eq!(read(), known(""));
        fs::write(&path, "a\nb\nhal").unwrap();
        assert_eq!(read(), known("a,b"));
        fs::write(&path, "a\nb\nhalf\nc\n").unwrap();
        assert_eq!(read(), known("half,c"));
        assert_eq!(read(), known(""));
        // cut and grown beyond where it was
        fs::write(&path, "a\nb\nother\nother\nother\n").unwrap();
        assert_eq!(read(), ("a,b,other,other,other".into(), true));
        fs::remove_file(&path).unwrap();
        assert_eq!(read(), ("".into(), true));
        fs::write(&path, "new\n").unwrap();
        assert_eq!(read(), known("new"));
        fs::write(&path, [b"new\n".as_slice(), &vec![b'x'; LONGEST + 5], b"\nlast\n"].concat()).unwrap();
        let (lines, _) = read();
        assert!(lines.ends_with(",last") && lines.len() < 20, "{}", lines.len());
        fs::remove_file(&path).unwrap();
    }
}
